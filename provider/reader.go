package provider

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// A reader reads the definition language, and gathers everything that is wrong.
type reader struct {
	yamldoc.Reader
	// namesUnknown: a word that declares names was not understood, so that every use of one would seem wrong.
	namesUnknown bool
	// steps counts what checking looked at, and ranges those of characters in the file's expressions.
	steps, ranges int
}

func newReader(file string) *reader {
	return &reader{Reader: yamldoc.Reader{File: file, Later: laterWords}}
}

type (
	position = yamldoc.Position
	item     = yamldoc.Item
)

func at(n *yaml.Node) position { return yamldoc.At(n) }

// laterWords belong to the language, and not to this version of it.
var laterWords = map[string]bool{
	"authorize": true, "redeem": true, "revoke": true, "tls": true, "xml": true, "jwt": true, "hmac_sha1": true, "hmac_sha256": true,
	"hmac_sha512": true, "spki_sha256": true, "callback": true, "certificate": true, "client_secret_jwt": true,
	"private_key_jwt": true, "tls_client_auth": true, "self_signed_tls_client_auth": true,
}

// text reads a template.
func (r *reader) text(n *yaml.Node, what string) text {
	s, ok := r.Text(n, what)
	if !ok {
		return text{at: at(n)}
	}
	parts, err := parseText(s)
	if err != nil {
		r.Wrong(at(n), "%s: %v", what, err)
	}
	return text{parts: parts, at: at(n)}
}

// yes reads a flag that is written to be true.
func (r *reader) yes(it item, what string) bool {
	if it.Value == nil {
		return false
	}
	if it.Value.Value != "true" {
		r.Wrong(at(it.Value), "%s.%s: only true can be written; leave it out otherwise", what, it.Key)
		return false
	}
	return true
}

var durationWord = regexp.MustCompile(`^([0-9]+(ms|s|m|h|d))+$`)
var durationPart = regexp.MustCompile(`[0-9]+(ms|s|m|h|d)`)

// parseDuration reads 90s, 1h30m, 5d.
func parseDuration(s string) (time.Duration, bool) {
	if !durationWord.MatchString(s) {
		return 0, false
	}
	var sum time.Duration
	for _, p := range durationPart.FindAllString(s, -1) {
		if d, ok := strings.CutSuffix(p, "d"); ok {
			n, err := strconv.ParseInt(d, 10, 32)
			if err != nil || n > 36500 {
				return 0, false
			}
			sum += time.Duration(n) * 24 * time.Hour
			continue
		}
		d, err := time.ParseDuration(p)
		if err != nil {
			return 0, false
		}
		sum += d
	}
	return sum, sum >= 0 && sum <= 36500*24*time.Hour
}

func (r *reader) duration(n *yaml.Node, what string) time.Duration {
	s, ok := r.Text(n, what)
	if !ok {
		return 0
	}
	d, ok := parseDuration(s)
	if !ok {
		r.Wrong(at(n), "%s: it is not a duration; write 90s, 1h30m or 5d", what)
	}
	return d
}

// positive reads a duration in which something lives.
func (r *reader) positive(n *yaml.Node, what string) time.Duration {
	before := len(r.Problems)
	d := r.duration(n, what)
	if d == 0 && len(r.Problems) == before {
		r.Wrong(at(n), "%s: it is no time at all; write how long, as 90s, 1h30m or 5d, or leave it out", what)
	}
	return d
}

// choice reads one of the values that are known.
func (r *reader) choice(n *yaml.Node, what string, known []string) string {
	s, ok := r.Text(n, what)
	if !ok {
		return ""
	}
	for _, k := range known {
		if s == k {
			return s
		}
	}
	if laterWords[s] {
		r.Wrong(at(n), "%s: this version does not know %q yet; write one of %s", what, s, strings.Join(known, ", "))
		return ""
	}
	r.Unknown(at(n), fmt.Sprintf("%s: it is none of %s", what, strings.Join(known, ", ")), s, known)
	return ""
}

func (r *reader) path(n *yaml.Node, what string) *path {
	s, ok := r.Text(n, what)
	if !ok {
		return nil
	}
	p, err := parsePath(s)
	if err != nil {
		r.Wrong(at(n), "%s: %v", what, err)
		return nil
	}
	return &p
}

func (r *reader) regexp(n *yaml.Node, what string, whole bool) (*regexp.Regexp, string) {
	s, ok := r.Text(n, what)
	if !ok {
		return nil, ""
	}
	if r.ranges > mostRanges || len(s) > mostPattern {
		r.Wrong(at(n), "%s: an expression of %d bytes and at most %d are, or the file's expressions have too many steps and classes of characters together; look for less", what, len(s), mostPattern)
		return nil, s
	}
	count, ranges := steps(s)
	most := mostSteps
	if whole {
		most = mostInputSteps
	}
	if r.ranges += ranges + count; count > most || r.ranges > mostRanges {
		r.Wrong(at(n), "%s: an expression of %d steps, and at most %d are, with %d ranges of characters; those of a file have %d of both at most, look for less, or repeat it less often", what, count, most, ranges, mostRanges)
		return nil, s
	}
	re, err := regexp.Compile(s) // by itself: "a)|(b" would leave the group that it is put into
	if err == nil && whole {
		re, err = regexp.Compile(`^(?:` + s + `)$`)
	}
	if err != nil {
		r.Wrong(at(n), "%s: this is not an RE2 expression; write one as at https://github.com/google/re2/wiki/Syntax, which knows no look-ahead", what)
		return nil, s
	}
	return re, s
}

const (
	// mostSteps bounds an expression: a search takes as many times as long as the text is, and an answer may be a MiB.
	mostSteps = 250
	// mostInputSteps is the bound of one that an input has to match, which is of 64 KiB at most.
	mostInputSteps = 600
	// mostPattern bounds its text, and mostRanges the steps, and the ranges of characters in all classes, of all expressions of a file: each class is kept as often as it is
	// repeated, and a script of Unicode is some hundreds.
	mostPattern = 1000
	mostRanges  = 20_000
)

// steps are those of a good expression, and the ranges in its classes.
func steps(s string) (count, ranges int) {
	parsed, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		return 0, 0
	}
	p, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return 0, 0
	}
	for _, i := range p.Inst {
		ranges += len(i.Rune) / 2
	}
	return len(p.Inst), ranges
}

// fields reads names with values.
func (r *reader) fields(n *yaml.Node, what string) []field {
	var out []field
	for _, it := range r.Items(n, what) {
		f := field{name: it.Key, at: it.At}
		where := what + "." + it.Key
		switch {
		case yamldoc.IsNull(it.Value):
			f.remove = true
		case it.Value.Kind == yaml.SequenceNode:
			for _, c := range it.Value.Content {
				f.values = append(f.values, r.text(c, where))
			}
		default:
			f.values = []text{r.text(it.Value, where)}
		}
		out = append(out, f)
	}
	return out
}

func (r *reader) cookies(n *yaml.Node, what string) cookies {
	if n.Kind == yaml.ScalarNode {
		t := r.text(n, what)
		return cookies{whole: &t}
	}
	return cookies{fields: r.fields(n, what)}
}

// tree reads a JSON body.
func (r *reader) tree(n *yaml.Node, what string) *tree {
	switch n.Kind {
	case yaml.MappingNode:
		t := &tree{kind: treeObject}
		for _, it := range r.Items(n, what) {
			t.members = append(t.members, member{it.Key, r.tree(it.Value, what+"."+it.Key)})
		}
		return t
	case yaml.SequenceNode:
		t := &tree{kind: treeList}
		for i, c := range n.Content {
			t.list = append(t.list, r.tree(c, fmt.Sprintf("%s[%d]", what, i)))
		}
		return t
	case yaml.ScalarNode:
		switch n.Tag {
		case "!!null":
			return &tree{kind: treeRaw}
		case "!!bool":
			return &tree{kind: treeRaw, raw: strings.EqualFold(n.Value, "true")}
		case "!!int", "!!float":
			if v, err := jsondoc.Read([]byte(n.Value)); err == nil {
				return &tree{kind: treeRaw, raw: v}
			}
		}
		t := r.text(n, what)
		return &tree{leaf: &t}
	default:
	}
	r.Wrong(at(n), "%s: %s cannot be sent", what, yamldoc.KindName(n))
	return &tree{kind: treeRaw}
}
