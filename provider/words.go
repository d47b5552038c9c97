package provider

import (
	"slices"

	"go.yaml.in/yaml/v4"
)

// A word is one of the definition language. The parser takes the words that it allows from these tables, and the reference what they mean.
type word struct {
	name string
	// kind is what may be its value, as the reference calls it. values are all of them, where they can be listed, or those that are words
	// and no others of that kind.
	kind   string
	values []string
	// fallback is what holds where it is not written; empty: nothing.
	fallback string
	meaning  string // in Markdown
	// example is members of a mapping in which the word stands, in YAML's flow style.
	example string
	// since is the version of the language in which it is new; 0: the first one.
	since int
}

// A vocabulary is the words that may stand in one place.
type vocabulary struct {
	// place is what the reference calls it.
	place string
	// schema is where the JSON Schema has its words.
	schema []string
	words  []word
}

// vocabularies are the whole language.
var vocabularies = []*vocabulary{
	&definitionWords, &inputWords, &parameterWords, &setWords, &lifetimeWords, &presentWords, &requestWords, &issuerWords, &authWords, &pairWords,
	&whereWords, &withinWords, &testWords, &errorWords, &ruleWords, &computeWords, &nowWords, &splitWords, &fieldWords, &queryWords,
}

func (v *vocabulary) names() []string {
	out := make([]string, len(v.words))
	for i, w := range v.words {
		out[i] = w.name
	}
	return out
}

// values are what may be written behind a word.
func (v *vocabulary) values(name string) []string {
	return v.words[slices.IndexFunc(v.words, func(w word) bool { return w.name == name })].values
}

// words reads a mapping of a vocabulary.
func (r *reader) words(n *yaml.Node, what string, v *vocabulary) map[string]item {
	return r.Words(n, what, v.names()...)
}

// oneOf reads the value of a word that may be one of a few.
func (r *reader) oneOf(it item, what string, v *vocabulary) string {
	return r.choice(it.Value, what+"."+it.Key, v.values(it.Key))
}

// A builtinName is a name that the language itself gives.
type builtinName struct{ name, given, meaning string }

var languageNames = []builtinName{
	{"scope", "where `scopes` is declared", "the scopes that were asked for, joined; else the default ones"},
	{"audience", "where `audience` is declared", "the audience that was asked for"},
	{"resources", "where `resources` is declared", "the resources that were asked for, a list: a form and a query repeat the field, JSON has a list"},
	{"refresh_token", "in `refresh`, and in a request behind the one that took it", "the refresh token that is held; the first one is the input with `seed: true`"},
	{"token", "in `present`, in `base_url`, and in a request behind the one that took it", "the token"},
	{"token_type", "in `present`, in `base_url`, and in a request behind the one that took it", "what the answer calls the kind of the token"},
	{"expires_in", "in a request behind the one that took it", "how long the token lives, as the answer says it"},
	{"expires_at", "in a request behind the one that took it", "when the token ends, as the answer says it"},
}

// builtinNames are these names, for those who declare others.
var builtinNames = func() map[string]bool {
	out := map[string]bool{}
	for _, n := range languageNames {
		out[n.name] = true
	}
	return out
}()
