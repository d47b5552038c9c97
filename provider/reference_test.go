package provider

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

var updateReference = flag.Bool("update", false, "write the tables of docs/definitions/reference.md")

const referencePage = "../docs/definitions/reference.md"

var wordsOfAPage = regexp.MustCompile(`(?s)<!-- words: ([a-z0-9_]+) -->\n.*?<!-- /words -->`)

// TestTheReferenceIsWhatTheTablesGive writes it, too, where it is told to: make generate.
func TestTheReferenceIsWhatTheTablesGive(t *testing.T) {
	text, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string]string{"names": namesTable(), "codes": codesTable(), "limits": limitsTable()}
	for _, v := range vocabularies {
		if v != &parameterWords { // its words are the inputs', which say what a parameter lacks
			tables[v.place] = v.table()
		}
	}
	want := wordsOfAPage.ReplaceAllStringFunc(string(text), func(s string) string {
		place := wordsOfAPage.FindStringSubmatch(s)[1]
		table, ok := tables[place]
		if !ok {
			t.Errorf("the page has a table of %s, and there is none", place)
		}
		delete(tables, place)
		return "<!-- words: " + place + " -->\n" + table + "<!-- /words -->"
	})
	for place := range tables {
		t.Errorf("the page has no table of %s", place)
	}
	if t.Failed() || want == string(text) {
		return
	}
	if !*updateReference {
		t.Fatal("docs/definitions/reference.md is not what the tables give: run make generate")
	}
	if err := os.WriteFile(referencePage, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// cell is what a table of Markdown can have in a cell.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func (v *vocabulary) table() string {
	since := slices.ContainsFunc(v.words, func(w word) bool { return w.since > 1 })
	head, rule := "| word | type | default | meaning | example |", "|---|---|---|---|---|"
	if since {
		head, rule = head+" since |", rule+"---|"
	}
	var b strings.Builder
	b.WriteString(head + "\n" + rule + "\n")
	for _, w := range v.words {
		var kinds []string
		for _, x := range w.values {
			kinds = append(kinds, "`"+x+"`")
		}
		if w.kind != "" {
			kinds = append(kinds, w.kind)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | `%s` |", w.name, cell(strings.Join(kinds, ", ")), cell(w.fallback), cell(w.meaning), cell(w.example))
		if since {
			fmt.Fprintf(&b, " language %d |", max(w.since, 1))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func namesTable() string {
	var b strings.Builder
	b.WriteString("| name | where | what it is |\n|---|---|---|\n")
	for _, n := range languageNames {
		fmt.Fprintf(&b, "| `{{%s}}` | %s | %s |\n", n.name, n.given, n.meaning)
	}
	return b.String()
}

func codesTable() string {
	var all []string
	for _, c := range slices.Sorted(maps.Keys(knownCodes)) {
		all = append(all, "`"+c+"`")
	}
	return strings.Join(all, ", ") + ".\n"
}

func limitsTable() string {
	return fmt.Sprintf(`| what | most |
|---|---|
| a file | %d MiB, %d levels deep |
| words, values, lists and mappings | %d |
| times that something is named in braces | %d |
| an expression | %d bytes, %d steps; for an input %d |
| steps of all expressions, and ranges of characters in their classes, together | %d |
| names of inputs, parameters, let and take together | %d |
| requests of a run | %d |
| each secret to each host, together | %d |
| values, as often as a run names them, together | %d MiB |
| how long a run looks for expressions and claims in answers, but for a refresh token | %d s |
| how long a run looks for refresh tokens, also when its time is over | %d s |
| values of a token's claims | %d |
| an answer | %d KiB |
| values of an answer, objects and lists among them | %d |
| fields of an answer that is a form | %d |
| steps of a path | %d |
| problems that are said | %d |
`, yamldoc.MostBytes>>20, mostDepth, mostWords, mostReferences, mostPattern, mostSteps, mostInputSteps, mostRanges, mostNames, mostRequests, mostFlows, mostUsed>>20, int(longestLook.Seconds()), int(longestUrgent.Seconds()), mostClaims, transport.DefaultMaxAnswer>>10, mostValues, mostFields, pathMost, mostProblems)
}

var (
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	anchor  = regexp.MustCompile(`\]\(#([^)]+)\)`)
)

func TestTheReferenceLinksToItsOwnSections(t *testing.T) {
	text, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(string(text), -1) {
		there[strings.ReplaceAll(strings.ToLower(m[1]), " ", "-")] = true
	}
	found := anchor.FindAllStringSubmatch(string(text), -1)
	if len(found) == 0 {
		t.Error("found no link")
	}
	for _, m := range found {
		if !there[m[1]] {
			t.Errorf("there is no section #%s", m[1])
		}
	}
}

// TestTheNamesOfTheLanguageHoldWhereTheReferenceSaysSo, and not elsewhere.
func TestTheNamesOfTheLanguageHoldWhereTheReferenceSaysSo(t *testing.T) {
	const (
		declared = "scopes: {}\naudience: {}\nresources: {}\n"
		oauth2   = `oauth2: "https://example.com/token", auth: none, take: {expires_at: until}, headers: {`
	)
	frames := map[string]func(name string) string{
		"obtain": func(n string) string { return "obtain: {" + oauth2 + `X: "{{` + n + `}}"}}` },
		"behind": func(n string) string {
			return "obtain: [{" + oauth2 + `}}, {get: "https://example.com/b", headers: {X: "{{` + n + `}}"}}]`
		},
		"refresh": func(n string) string {
			return "obtain: {" + oauth2 + "}}\nrefresh: {" + oauth2 + `X: "{{` + n + `}}"}}`
		},
		"present": func(n string) string {
			return "obtain: {" + oauth2 + "}}\npresent: {headers: {X: \"{{token}}\", Y: \"{{" + n + "}}\"}}"
		},
		"base_url": func(n string) string {
			return "obtain: {" + oauth2 + "}}\nbase_url: \"https://{{" + n + "}}.example.com\""
		},
	}
	holds := map[string][]string{
		"scope": {"obtain", "behind", "refresh", "present", "base_url"}, "audience": {"obtain", "behind", "refresh", "present", "base_url"}, "resources": {"obtain", "behind", "refresh", "present", "base_url"},
		"refresh_token": {"behind", "refresh"}, "token": {"behind", "present", "base_url"}, "token_type": {"behind", "present", "base_url"},
		"expires_in": {"behind"}, "expires_at": {"behind"},
	}
	for _, n := range languageNames {
		for place, frame := range frames {
			errs := yamldoc.Errors(Check("", []byte("name: x\n"+declared+frame(n.name))))
			if want := slices.Contains(holds[n.name], place); (len(errs) == 0) != want {
				t.Errorf("{{%s}} in %s: got %v, want it to hold: %v", n.name, place, errs, want)
			}
		}
	}
}
