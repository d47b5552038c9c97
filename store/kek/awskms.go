package kek

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// An awsKMS is a symmetric key of AWS KMS (its API reference, Encrypt and Decrypt; requests are signed by Signature Version 4).
type awsKMS struct {
	client      *client
	credentials awsCredentials
	arn, region string
	called      string
}

// keyARN is the ARN of a key. Aliases have none of this form: they can be moved to another key, which unwraps nothing.
var keyARN = regexp.MustCompile(`^arn:(aws|aws-us-gov|aws-cn):kms:([a-z0-9-]{1,32}):([0-9]{12}):key/((?:mrk-)?[A-Za-z0-9-]{1,64})$`)

const (
	awsService    = "kms"
	awsTarget     = "TrentService."
	awsContent    = "application/x-amz-json-1.1"
	awsDomain     = "amazonaws.com"
	awsDomainCN   = "amazonaws.com.cn"
	awsCN         = "aws-cn"
	multiRegion   = "mrk-"
	contextName   = "tokenbroker"
	awsErrorField = "X-Amzn-Errortype"
)

func openAWS(arn string, s Settings) (*awsKMS, error) {
	m := keyARN.FindStringSubmatch(arn)
	if m == nil {
		return nil, invalid("it names no key of AWS KMS by its ARN, which an alias is not: want " + formAWS)
	}
	partition, region, account, id := m[1], m[2], m[3], m[4]
	k := &awsKMS{arn: arn, region: region, called: schemeAWS + ":" + arn}
	if strings.HasPrefix(id, multiRegion) { // its replicas in other regions are the same key
		k.called = schemeAWS + ":arn:" + partition + ":kms::" + account + ":key/" + id
	}
	domain := awsDomain
	if partition == awsCN {
		domain = awsDomainCN
	}
	var err error
	if k.client, err = newClient(or(s.AWS.Endpoint, schemeTLS+separator+awsService+"."+region+"."+domain), s, loopback); err != nil {
		return nil, err
	}
	k.credentials, err = openAWSCredentials(s, region, domain)
	return k, err
}

// or is s, or what counts where it is empty.
func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (k *awsKMS) name() string { return k.called }

// An awsRequest is what Encrypt and Decrypt take. The algorithm is that of symmetric keys.
type awsRequest struct {
	KeyID             string            `json:"KeyId"`
	Plaintext         []byte            `json:",omitempty"`
	CiphertextBlob    []byte            `json:",omitempty"`
	EncryptionContext map[string]string // in CloudTrail, for everybody who reads that: a digest
}

type awsAnswer struct {
	Type           string `json:"__type"`
	KeyID          string `json:"KeyId"`
	CiphertextBlob []byte
	Plaintext      []byte
}

func (k *awsKMS) wrap(ctx context.Context, dataKey []byte, bound [sha256.Size]byte) ([]byte, error) {
	got, err := k.ask(ctx, "Encrypt", awsRequest{KeyID: k.arn, Plaintext: dataKey, EncryptionContext: contextOf(bound)})
	return got.CiphertextBlob, err
}

func (k *awsKMS) unwrap(ctx context.Context, wrapped []byte, bound [sha256.Size]byte) ([]byte, error) {
	got, err := k.ask(ctx, "Decrypt", awsRequest{KeyID: k.arn, CiphertextBlob: wrapped, EncryptionContext: contextOf(bound)})
	return got.Plaintext, err
}

func contextOf(bound [sha256.Size]byte) map[string]string {
	return map[string]string{contextName: hex.EncodeToString(bound[:])}
}

func (k *awsKMS) ask(ctx context.Context, action string, body awsRequest) (got awsAnswer, err error) {
	credentials, err := k.credentials.get(ctx)
	if err != nil {
		return got, err
	}
	text, err := json.Marshal(body)
	if err != nil {
		return got, invalid("it cannot be asked")
	}
	r, err := k.client.request(http.MethodPost, "/", string(text))
	if err != nil {
		return got, err
	}
	r.Header.Set("Content-Type", awsContent)
	r.Header.Set("X-Amz-Target", awsTarget+action)
	digest := sha256.Sum256(text)
	if err := v4.NewSigner().SignHTTP(ctx, credentials, r, hex.EncodeToString(digest[:]), awsService, k.region, time.Now()); err != nil {
		return got, failure(Refused, "the request cannot be signed with the credentials of AWS")
	}
	a, err := k.client.send(ctx, r)
	if err != nil {
		return got, err
	}
	if !a.ok() {
		return awsAnswer{}, k.refused(a)
	}
	if err := a.read(&got); err != nil {
		return awsAnswer{}, err
	}
	if got.KeyID != k.arn {
		return awsAnswer{}, nonsense()
	}
	return got, nil
}

// awsErrors are the codes of AWS KMS, of its front and of STS, and what we say of each. They end in Exception or not, by which part gives them.
var awsErrors = map[string]*Failure{
	"NotFound":                   failure(KeyUnavailable, "AWS KMS has no such key in this account and region: look at the ARN"),
	"Disabled":                   failure(KeyUnavailable, "the key is disabled in AWS KMS: enable it"),
	"KMSInvalidState":            failure(KeyUnavailable, "the key's state in AWS KMS does not let it be used, as when its deletion is pending: cancel the deletion, and enable it"),
	"KeyUnavailable":             failure(Away, "AWS KMS cannot use the key now: try again later"),
	"InvalidKeyUsage":            invalid("the key in AWS KMS is not one to encrypt and decrypt with: use a symmetric one"),
	"InvalidCiphertext":          failure(Damaged, "AWS KMS cannot open this with the key: it was changed, or moved here from another place"),
	"IncorrectKey":               failure(Another, "AWS KMS says that another key has wrapped this: set the one that did"),
	"AccessDenied":               failure(Refused, "AWS KMS does not let these credentials use the key: they need kms:Encrypt and kms:Decrypt, by the key's policy and their own"),
	"UnrecognizedClient":         failure(Refused, "AWS does not know the access key: look at the credentials"),
	"InvalidClientTokenId":       failure(Refused, "AWS does not know the access key or the session: look at the credentials"),
	"MissingAuthenticationToken": failure(Refused, "AWS finds no credentials in the request: look at the credentials"),
	"IncompleteSignature":        failure(Refused, "AWS refuses the signature: look at the credentials"),
	"InvalidSignature":           failure(Refused, "AWS refuses the signature: look at the secret access key, and at the clock of this machine"),
	"SignatureDoesNotMatch":      failure(Refused, "AWS refuses the signature: look at the secret access key, and at the clock of this machine"),
	"ExpiredToken":               failure(Refused, "the credentials of AWS have ended: get others"),
	"RequestExpired":             failure(Refused, "AWS says that the request is too old: look at the clock of this machine"),
	"OptInRequired":              failure(Refused, "the AWS account may not use KMS in this region: look at the account"),
	"Throttling":                 failure(Away, "AWS KMS asks to slow down: try again later"),
	"LimitExceeded":              failure(Away, "AWS KMS asks to slow down: try again later"),
	"RequestLimitExceeded":       failure(Away, "AWS KMS asks to slow down: try again later"),
	"DependencyTimeout":          failure(Away, "AWS KMS waits for another part of AWS: try again later"),
	"KMSInternal":                failure(Away, "AWS KMS fails: try again later"),
	"ServiceUnavailable":         failure(Away, "AWS KMS is not available: try again later"),
	"InternalFailure":            failure(Away, "AWS KMS fails: try again later"),
	"InvalidGrantToken":          failure(Refused, "AWS KMS does not let these credentials use the key: look at the key's policy and theirs"),
	"InvalidIdentityToken":       failure(Refused, "AWS refuses the web identity's token: look at the file, and at the role's trust"),
	"IDPRejectedClaim":           failure(Refused, "AWS refuses the web identity's token: look at the role's trust"),
	"IDPCommunicationError":      failure(Away, "AWS cannot ask who issued the web identity's token: try again later"),
}

// refused is what AWS means: by its code where there is one that is known, else by the status.
func (k *awsKMS) refused(a answer) error {
	code := a.header.Get(awsErrorField)
	if code == "" {
		var said awsAnswer
		if json.Unmarshal(a.body, &said) == nil {
			code = said.Type
		} else {
			code = xmlCode(a.body) // what stands before services may answer in XML
		}
	}
	return awsFailure(code, a)
}

// awsFailure takes a code as services write it: with the name of a schema before it and an address behind it.
func awsFailure(code string, a answer) error {
	if _, after, ok := strings.Cut(code, "#"); ok {
		code = after
	}
	code, _, _ = strings.Cut(code, ":")
	if f := awsErrors[strings.TrimSuffix(code, "Exception")]; f != nil {
		return f
	}
	return a.failure()
}

// xmlCode is the code in an error of STS, which answers in XML.
func xmlCode(body []byte) string {
	_, after, ok := bytes.Cut(body, []byte("<Code>"))
	code, _, closed := bytes.Cut(after, []byte("</Code>"))
	if !ok || !closed {
		return ""
	}
	return string(code)
}
