package kek

import (
	"context"
	"net/url"
	"strings"
)

// A KEK wraps small secrets, of at most MaxPlaintext bytes. Safe for concurrent use. It prints as its URI, which has no secret.
type KEK interface {
	// URI is what the KEK was opened by.
	URI() string
	// Wrap encrypts plaintext, and binds it to the associated data, to the KEK and to this purpose. It fails with a *Failure.
	Wrap(ctx context.Context, plaintext, associated []byte) ([]byte, error)
	// Unwrap decrypts what Wrap made with the same associated data. It fails with a *Failure; its kind says whether to try again, and whose turn it is.
	Unwrap(ctx context.Context, wrapped, associated []byte) ([]byte, error)
}

// The forms of URIs.
const (
	schemeFile          = "file"
	schemeTransit       = "vault"
	schemeLocalTransit  = "vault+http"
	schemeAWS           = "aws-kms"
	schemeGCP           = "gcp-kms"
	formFile            = "file:///etc/tokenbroker/kek.json"
	formTransit         = "vault://HOST:PORT/MOUNT/KEY"
	formAWS             = "aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID"
	formGCP             = "gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K"
	longestURI          = 2048
	separator           = "://"
	placeholderURI      = "the URI of the key"
	formsOfURIs         = formFile + ", " + formTransit + ", " + formAWS + ", " + formGCP
	dataKeySize, tagged = 32, 16
)

// Open reads the files that the URI and the settings name, and asks nobody: whether a KMS answers, and lets us, only Wrap and Unwrap tell. It fails
// with a *Failure of kind Invalid, which names the setting.
//
// What changes by itself is read at each call: tokens, credentials of AWS and Google. The KEK's file, CA and client certificate are read
// here: open it again to take a new one.
//
// The context is for KEKs that will have to ask somebody; none does.
func Open(_ context.Context, uri string, s Settings) (KEK, error) {
	if err := checkText(uri); err != nil {
		return nil, err
	}
	if s.Timeout < 0 {
		return nil, at(uri, invalid("the timeout is negative"))
	}
	scheme, rest, _ := strings.Cut(uri, separator)
	var w wrapper
	var err error
	switch scheme {
	case schemeFile:
		w, err = openFile(uri)
	case schemeTransit, schemeLocalTransit:
		w, err = openTransit(uri, s)
	case schemeAWS:
		w, err = openAWS(rest, s)
	case schemeGCP:
		w, err = openGCP(rest, s)
	default:
		err = invalid("it is none of " + formsOfURIs)
	}
	if err != nil {
		return nil, at(uri, err)
	}
	return &envelope{uri: uri, timeout: s.timeout(), wrapper: w}, nil
}

// checkText refuses what could not be printed as it is, or has a secret in it: neither is quoted.
func checkText(uri string) error {
	if len(uri) > longestURI {
		return at(placeholderURI, invalid("it is longer than 2048 bytes"))
	}
	for _, r := range uri {
		if r <= ' ' || r >= 0x7f {
			return at(placeholderURI, invalid("it has spaces, controls, or letters that are not ASCII"))
		}
	}
	if u, err := url.Parse(uri); err == nil && u.User != nil || strings.ContainsAny(uri, "@?#%\\") {
		return at(placeholderURI, invalid("it may have no user, password, query, fragment or escapes: it is none of "+formsOfURIs))
	}
	return nil
}
