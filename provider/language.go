package provider

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// A definition is a file that has been read and checked. Immutable.
type definition struct {
	name, title, docs string
	override          bool
	inputs            map[string]*input
	parameters        map[string]*input
	scopes            *set
	audience          *input
	resources         *set
	let               map[string]*compute
	headers           []field
	errors            *errorRules
	obtain            []*request
	token             *text
	refresh           []*request
	reuse             broker.Reuse
	idle, absolute    time.Duration
	lifetime          time.Duration
	untilRejected     bool
	margin            time.Duration
	rateRequests      int
	ratePeriod        time.Duration
	whenAway          string
	present           present
	attributes        []string
	attributesAt      []position
	baseURL           *urlTemplate
	// digest is of what decides issuance, and how of what decides what is sent, taken and shown.
	digest, how string
	transport   *transport.Transport
	user        bool // it is of a user's file
	facts       *broker.Facts
	endpoints   *endpoints
	flows       []flow
	keeps       map[string][]string // what a value of this name that is kept was taken by
	needs       map[string]bool     // what a refresh may use of that
}

// An input is what a credential must bring, or a parameter that a caller may.
type input struct {
	at               position
	secret, optional bool
	seed, handedOut  bool
	hasDefault       bool
	// fallback is the default; that of a parameter may name inputs.
	fallback       text
	oneOf          []string
	pattern        *regexp.Regexp
	patternText    string
	prefix, suffix string
	format         string
	was            string
}

// byDefault is the value where none was given; empty: none. v has the credential's inputs.
func (in *input) byDefault(v *values) string {
	if !in.hasDefault {
		return ""
	}
	s, ok, err := in.fallback.expand(v)
	if err != nil || !ok {
		return ""
	}
	return s
}

// typed is a value as its format says, for JSON: a whole number and a boolean are none in quotes.
func (in *input) typed(s string) any {
	switch in.format {
	case "integer":
		if n, err := strconv.ParseInt(s, 10, 64); err == nil && strconv.FormatInt(n, 10) == s {
			return json.Number(s)
		}
	case "boolean":
		return s == "true"
	}
	return s
}

// affixed cuts the declared affixes off: people paste `Bearer abc` where `abc` is meant.
func (in *input) affixed(s string) string {
	return strings.TrimSuffix(strings.TrimPrefix(s, in.prefix), in.suffix)
}

// A set is scopes or resources.
type set struct {
	at       position
	join     string
	defaults []text
	oneOf    []string
	// required: at least one is needed. known says what exists, and what each means, for people; others may exist too.
	required bool
	known    []known
}

// A known element, and what it means; empty: nobody says.
type known struct{ name, meaning string }

func joinSet(s broker.Set, join string) string { return strings.Join(s.List(), join) }

// A field is a name with values: in headers, query, a form, cookies.
type field struct {
	name   string
	values []text
	// remove: null was written; a default of that name is not sent.
	remove bool
	at     position
}

// A tree is a JSON body: its leaves are templates.
type tree struct {
	leaf    *text
	raw     any // a number, boolean or null as written
	list    []*tree
	members []member
	kind    treeKind
}

type treeKind int

const (
	treeLeaf treeKind = iota
	treeRaw
	treeList
	treeObject
)

type member struct {
	name string
	tree *tree
}

// A request is one declared request.
type request struct {
	at     position
	method string
	url    urlTemplate
	// issuer: the URL is found by discovery (RFC 8414, OpenID Connect Discovery).
	issuer    *urlTemplate
	oauth2    bool
	query     []field
	headers   []field
	cookies   cookies
	body      body
	auth      auth
	withToken bool
	answer    string
	ok        []int
	expect    []expectation
	errors    *errorRules
	take      []take
	// takeWritten: the definition says what to take.
	takeWritten bool
	// unsent are parameters that null removed, and untaken the takes.
	unsent, untaken map[string]bool
}

// word is what the request's URL stands behind.
func (q *request) word() string {
	if q.oauth2 {
		return "oauth2"
	}
	return strings.ToLower(q.method)
}

// bodyWord is what its body stands behind.
func (q *request) bodyWord() string {
	switch {
	case q.oauth2:
		return "params"
	case q.body.kind == jsonBody:
		return "json"
	case q.body.kind == multipartBody:
		return "multipart"
	}
	return "form"
}

type cookies struct {
	whole  *text
	fields []field
}

type bodyKind int

const (
	noBody bodyKind = iota
	formBody
	jsonBody
	textBody
	multipartBody
)

type body struct {
	kind   bodyKind
	fields []field
	json   *tree
	text   text
	as     textKind
}

type authKind int

const (
	noAuth authKind = iota
	secretPost
	secretBasic // form-encoded first (RFC 6749 section 2.3.1)
	rawBasic
)

type auth struct {
	kind       authKind
	id, secret text
}

// A take is a value that is taken from an answer.
type take struct {
	name  string
	where *where
	at    position
	// inherited: it is obtain's, for a refresh that writes none. What it misses there goes on being held.
	inherited bool
	// by is how a value is known that was taken so, wherever it is kept.
	by string
}

// A where says where in an answer something is.
type where struct {
	anyOf    []*where
	path     *path
	each     *path
	match    []match
	within   *where // a list in the element that was found; instead of path
	header   string
	cookie   string
	cookies  bool
	text     bool
	claim    *path
	of       string
	unit     string
	layout   string
	pattern  *regexp.Regexp
	optional bool
	// written is how it stands in the file, for people, and source all of it, to compare.
	written, source string
}

// ofClaim reports whether it looks into a value that is taken.
func (w *where) ofClaim() bool {
	return w.claim != nil || slices.ContainsFunc(w.anyOf, (*where).ofClaim)
}

// judges reports whether something is there tells of its value.
func (w *where) judges() bool {
	return w.pattern != nil || len(w.match) > 0 || w.within != nil && w.within.judges() || slices.ContainsFunc(w.anyOf, (*where).judges)
}

// A match is a value that an element must have.
type match struct {
	path  path
	field field
}

// An expectation is a test of a value in the answer.
type expectation struct {
	path path
	test test
}

// A test compares.
type test struct {
	is      []any
	not     []any
	present *bool
}

// errorRules say where an answer has its error, and what it means.
type errorRules struct {
	code, message, retryAfter *where
	rules                     []rule
}

type rule struct {
	status, code *test
	wait         time.Duration
	means        string
}

// present says how a token is shown to the API.
type present struct {
	declared, nothing bool
	headers, query    []field
	cookies           cookies
}
