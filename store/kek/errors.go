package kek

import "context"

// A Kind is whose failure it is. It is itself an error, and a Failure matches its Kind by errors.Is.
type Kind int

// The kinds. Their order is not significant.
const (
	// Invalid is a URI, a setting or a kind of key that cannot work: somebody must change it here. It is the zero value.
	Invalid Kind = iota
	// Away is a KMS that does not answer, or says that it cannot now. The only kind that passes by itself: try again.
	Away
	// Untrusted is an answer that is not the KMS's that was meant: a certificate that cannot be verified, a redirect, something that is no answer.
	Untrusted
	// Refused is a KMS that does not let us: credentials that are wrong or have ended, a right that is missing.
	Refused
	// KeyUnavailable is a key that is not there, is disabled or destroyed, or whose old version may not be used.
	KeyUnavailable
	// Another is something that was wrapped by another KEK.
	Another
	// Damaged is something that was changed, cut or moved, or that no KEK has wrapped.
	Damaged
	kinds // their number
)

var kindTexts = [kinds]struct{ name, text string }{
	Invalid:        {"invalid", "the key-encryption key is not set up as it has to be"},
	Away:           {"away", "the key-encryption key cannot be reached now"},
	Untrusted:      {"untrusted", "what answers is not the KMS that was meant"},
	Refused:        {"refused", "the KMS refuses us"},
	KeyUnavailable: {"key_unavailable", "the key-encryption key cannot be used"},
	Another:        {"another", "it was wrapped by another key-encryption key"},
	Damaged:        {"damaged", "what was wrapped is damaged"},
}

// Kinds returns every kind, for tables that must be complete.
func Kinds() []Kind {
	all := make([]Kind, 0, kinds)
	for k := range kinds {
		all = append(all, k)
	}
	return all
}

// Name is the kind's stable name in snake case.
func (k Kind) Name() string {
	if k < 0 || k >= kinds {
		k = Invalid
	}
	return kindTexts[k].name
}

// Error implements error.
func (k Kind) Error() string {
	if k < 0 || k >= kinds {
		k = Invalid
	}
	return kindTexts[k].text
}

// A Failure is what went wrong with a KEK. It holds nothing of what was wrapped, no credential, and no text of a KMS's.
type Failure struct {
	Kind Kind
	// URI is the KEK's.
	URI string
	// Detail says what is wrong and what to do about it, in a sentence.
	Detail string
	// ended is the caller's own end, if that was it.
	ended error
}

// Error implements error.
func (f *Failure) Error() string { return "kek " + f.URI + ": " + f.Detail }

// Unwrap gives the kind and, where the caller's context ended the call, why it ended.
func (f *Failure) Unwrap() []error {
	if f.ended != nil {
		return []error{f.Kind, f.ended}
	}
	return []error{f.Kind}
}

// Passes reports whether it may pass without anybody's changing something.
func (f *Failure) Passes() bool { return f.Kind == Away }

func failure(k Kind, detail string) *Failure { return &Failure{Kind: k, Detail: detail} }

func invalid(detail string) *Failure { return failure(Invalid, detail) }

// damaged is the one answer to whatever does not open, so that nobody learns where it was changed.
func damaged() *Failure {
	return failure(Damaged, "what was wrapped was changed, cut, or moved here from another place: restore it from a backup")
}

// ended is a call whose caller gave up.
func ended(ctx context.Context) *Failure {
	return &Failure{Kind: Away, Detail: "the call was given up before the KMS had answered", ended: ctx.Err()}
}

// at gives a failure of this package the KEK that it is of. Another error would be a bug, and its text may be anybody's: it is not passed on.
func at(uri string, err error) error {
	f, ok := err.(*Failure) //nolint:errorlint // every failure here is made by this package, and wrapped by nothing
	if !ok {
		f = invalid("it cannot be used")
	}
	named := *f
	named.URI = uri
	return &named
}
