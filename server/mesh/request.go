package mesh

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// Namespace is that of the metadata in which a cluster, a route or a filter of Envoy says which token is wanted.
const Namespace = "tokenbroker"

// The words by which Envoy's configuration says which token is wanted. Nothing of a client's request is one of them.
const (
	wordCredential = "credential"
	wordScopes     = "scopes"
	wordAudience   = "audience"
	wordResources  = "resources"
	wordParameters = "parameters."
	// wordCaller has the Envoy ask for itself, whoever its clients are. Without it a client that nobody can name gets nothing: an Envoy does not say whether one has come without a
	// certificate, or with one that has no name.
	wordCaller  = "caller"
	callerEnvoy = "envoy"
)

// asked is what the words ask for. where is where they stand, for messages. Scopes and resources have blanks between them, as in OAuth (RFC 6749 section 3.3). A word that is
// none is an error: it is somebody's who meant something by it. itself: the Envoy asks for itself.
func asked(where string, words map[string]string) (r *tokenbrokerv1.GetTokenRequest, itself bool, err error) {
	r = &tokenbrokerv1.GetTokenRequest{}
	for _, word := range slices.Sorted(maps.Keys(words)) {
		value := words[word]
		switch {
		case word == wordCredential:
			r.Credential = value
		case word == wordScopes:
			r.Scopes = strings.Fields(value)
		case word == wordAudience:
			r.Audience = value
		case word == wordResources:
			r.Resources = strings.Fields(value)
		case word == wordCaller && value == callerEnvoy:
			itself = true
		case word == wordCaller:
			return nil, false, broker.Invalid(broker.Violation{Field: where, Code: broker.CodeInvalid, Description: "caller can be envoy, which asks for itself then; without it the caller is the Envoy's client"})
		case strings.HasPrefix(word, wordParameters) && word != wordParameters:
			if r.Parameters == nil {
				r.Parameters = map[string]string{}
			}
			r.Parameters[strings.TrimPrefix(word, wordParameters)] = value
		default:
			return nil, false, broker.Invalid(broker.Violation{
				Field: where, Code: broker.CodeUnknown,
				Description: fmt.Sprintf("%.64q is no word of it: there are credential, scopes, audience, resources, parameters.NAME and caller", word),
			})
		}
	}
	if r.GetCredential() == "" {
		return nil, false, broker.Invalid(broker.Violation{Field: where, Code: broker.CodeRequired, Description: "has no credential: Envoy's configuration says which one a request gets a token of"})
	}
	return r, itself, nil
}

// wordsOf are the words in metadata: texts, or lists of texts; parameters are a structure of texts.
func wordsOf(where string, m *structpb.Struct) (map[string]string, error) {
	out := map[string]string{}
	for word, v := range m.GetFields() {
		switch is := v.GetKind().(type) {
		case *structpb.Value_StringValue:
			out[word] = is.StringValue
			continue
		case *structpb.Value_ListValue:
			if texts, ok := texts(is.ListValue); ok {
				out[word] = strings.Join(texts, " ")
				continue
			}
		case *structpb.Value_StructValue:
			if word+"." == wordParameters && all(is.StructValue, func(name, value string) { out[wordParameters+name] = value }) {
				continue
			}
		}
		return nil, broker.Invalid(broker.Violation{Field: where, Code: broker.CodeInvalid, Description: fmt.Sprintf("%.64q is no text, and no list of texts without blanks", word)})
	}
	return out, nil
}

// texts are those of a list, which have no blanks.
func texts(l *structpb.ListValue) (out []string, ok bool) {
	for _, v := range l.GetValues() {
		s, is := v.GetKind().(*structpb.Value_StringValue)
		if !is || strings.ContainsAny(s.StringValue, " \t\r\n") {
			return nil, false
		}
		out = append(out, s.StringValue)
	}
	return out, true
}

// all calls f with each text of a structure, and reports whether it has nothing else.
func all(s *structpb.Struct, f func(name, value string)) bool {
	for name, v := range s.GetFields() {
		is, ok := v.GetKind().(*structpb.Value_StringValue)
		if !ok {
			return false
		}
		f(name, is.StringValue)
	}
	return true
}
