package yamldoc

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func read(text string) []string {
	r := Reader{File: "f", Later: map[string]bool{"tomorrow": true}}
	if root := r.Document([]byte(text)); root != nil {
		w := r.Words(root, "root", "name", "list", "members")
		if it, ok := w["name"]; ok {
			r.Text(it.Value, "name")
		}
		if it, ok := w["list"]; ok {
			r.Texts(it.Value, "list")
		}
		if it, ok := w["members"]; ok {
			r.Items(it.Value, "members")
		}
	}
	Sort(r.Problems)
	var out []string
	for _, p := range r.Problems {
		out = append(out, p.Error())
	}
	return out
}

func TestWhatIsWrongIsSaidWithItsPlace(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "",
		"# nothing":                              "",
		"---\n---\nname: a":                      "",
		"name: a\nlist: [b, c]\nmembers: {}":     "",
		"name: 1.10":                             "",
		"nam: a":                                 `f:1:1: root: unknown word "nam"; did you mean "name"?`,
		"xyzzy: a":                               `f:1:1: root: unknown word "xyzzy"; write one of name, list, members`,
		"tomorrow: a":                            `f:1:1: root: this version does not know the word "tomorrow" yet; leave it out`,
		"name: a\nname: b":                       `f:2:1: root: "name" is there twice; leave one out`,
		"members: {a: 1, a: 2}":                  `f:1:17: members: "a" is there twice; leave one out`,
		"members:\n  ? [a]\n  : b":               `f:2:5: members: a name is wanted, not a list; what begins with a brace stands in quotes, as "{{name}}"`,
		"members: x":                             `f:1:10: members: a mapping is wanted, not a text; write {name: value}`,
		"name:":                                  `f:1:6: name: a text is wanted, not nothing; write one, in quotes`,
		"name: {a: b}":                           `f:1:7: name: a text is wanted, not a mapping; write one, in quotes`,
		"list: {a: b}":                           `f:1:7: list: a list is wanted, not a mapping; write [value, value]`,
		"list: [a, ~, [b]]\nname: []":            "f:1:11: list: a text is wanted, not nothing; write one, in quotes\nf:1:14: list: a text is wanted, not a list; write one, in quotes\nf:2:7: name: a text is wanted, not a list; write one, in quotes",
		"members: {{x}}":                         `f:1:10: members: what has {{ in it stands in quotes: write "{{name}}"`,
		"name: {{x}}":                            `f:1:7: name: what has {{ in it stands in quotes: write "{{name}}"`,
		"list: [{{x}}]":                          `f:1:8: list: what has {{ in it stands in quotes: write "{{name}}"`,
		"name: {{x}}/y":                          `f:1:12: not YAML: did not find expected key; what has {{ in it stands in quotes: write "{{name}}"`,
		"members: {a: b{{x}}}":                   `f:1:15: not YAML: did not find expected ',' or '}'; what has {{ in it stands in quotes: write "{{name}}"`,
		`members: {a: "{{x}}", b: c]}`:           `f:1:27: not YAML: did not find expected ',' or '}'`,
		"name: https://{{x}}/y":                  "",
		"members:\n\ta: b":                       `f:2:1: not YAML: found character that cannot start any token; a tab is no indentation: write blanks`,
		"name: a\n\tlist: []":                    `f:2:1: not YAML: found a tab character that violates indentation; a tab is no indentation: write blanks`,
		"- a":                                    `f:1:1: root: a mapping is wanted, not a list; write {name: value}`,
		"name: a\n---\nname: b":                  `f:3:1: one document a file: this is a second one; write it into a file of its own`,
		"name: &a b\nlist: [*a, *a]":             "f:2:8: an alias: aliases are not allowed, write it out\nf:2:12: an alias: aliases are not allowed, write it out",
		"name: [":                                `f:2:1: not YAML: did not find expected node content`,
		"name: a: b":                             `f:1:8: not YAML: mapping values are not allowed in this context`,
		"list: [*absent]":                        `f:1:8: not YAML: unknown anchor referenced`,
		"\xff":                                   `f: not UTF-8; write it in UTF-8`,
		"\xff\xfen\x00a\x00m\x00e\x00:\x00a\x00": `f: not UTF-8; write it in UTF-8`,
		"\xef\xbb\xbfname: a":                    "",
		strings.Repeat("#", MostBytes):           "",
		strings.Repeat("#", MostBytes+1):         `f: larger than 1048576 bytes; make several files of it, or leave something out`,
	} {
		if diff := cmp.Diff(want, strings.Join(read(text), "\n")); diff != "" {
			t.Errorf("%.40q (-want +got):\n%s", text, diff)
		}
	}
}

func TestSeveralDocuments(t *testing.T) {
	r := Reader{}
	if all := r.Documents([]byte("a: b\n---\n# nothing\n---\n- c\n"), MostBytes); len(all) != 2 || len(r.Problems) > 0 {
		t.Errorf("got %d documents and %v, want 2", len(all), r.Problems)
	}
	if all := r.Documents([]byte("a: b\n---\nc: ["), MostBytes); len(all) != 0 || len(r.Problems) != 1 {
		t.Errorf("got %d documents and %v, want none and what is wrong", len(all), r.Problems)
	}
}

// FuzzRead: whatever is in a file, it is read or something is wrong with it, and each problem has a place that is in the file.
func FuzzRead(f *testing.F) {
	for _, s := range []string{"", "name: a", "list: [b]\nmembers: {c: d}", "name: &a b\nlist: [*a]", "? [a]\n: b", "- [", "--- a\n--- b", "\xff", "%YAML 9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := Reader{File: "f"}
		root := r.Document([]byte(text))
		if root != nil && len(r.Problems) > 0 {
			t.Errorf("got a document and %v", r.Problems)
		}
		lines := strings.Count(strings.NewReplacer("\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(text), "\n") + 2
		for _, p := range r.Problems {
			if p.Line < 0 || p.Line > lines || p.Line > 0 && p.Column < 1 || p.Message == "" {
				t.Errorf("got %+v, of %d lines", p, lines)
			}
		}
	})
}

// TestProblemsForPrograms: with where each is, in the file and in its language.
func TestProblemsForPrograms(t *testing.T) {
	r := Reader{File: "f"}
	r.Wrong(Position{1, 2}, "%s.x: it is wrong", "inputs")
	r.Warn(Position{}, "the file is odd: look at it")
	r.Unknown(Position{3, 4}, "inputs: unknown word \"secrt\"", "secrt", []string{"secret"})
	b, err := json.Marshal(r.Problems)
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"file":"f","line":1,"column":2,"word":"inputs.x","severity":"error","message":"inputs.x: it is wrong"},` +
		`{"file":"f","severity":"warning","message":"the file is odd: look at it"},` +
		`{"file":"f","line":3,"column":4,"word":"inputs","severity":"error","message":"inputs: unknown word \"secrt\"; did you mean \"secret\"?"}]`
	if string(b) != want {
		t.Errorf("got\n%s\nwant\n%s", b, want)
	}
}

// TestAsManyProblemsAsAnybodyReads, and how many there are more.
func TestAsManyProblemsAsAnybodyReads(t *testing.T) {
	for n, want := range map[int]string{mostTold: "", mostTold + 1: "and 1 problem more", mostTold + 2: "and 2 problems more"} {
		told := First(make([]Problem, n))
		if got := told[len(told)-1].Message; got != want {
			t.Errorf("of %d: got %q, want %q", n, got, want)
		}
	}
}
