package provider

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// A recipe is a definition of the cookbook, with what comes of it.
type recipe struct {
	title, definition string
	dialogs           []dialog
}

// A dialog is one run of a recipe: what is given, what is sent (>) and answered (<), and what comes of it (=).
type dialog struct {
	given         []string
	sent, answers []message
	outcome       []string
}

// A message is a request or an answer: its first line, headers, and the body.
type message struct {
	first, body string
	headers     []string
}

func (m *message) add(line string) {
	switch {
	case m.first == "":
		m.first = line
	case m.body == "" && line != "" && !strings.HasSuffix(m.first, "\n"):
		m.headers = append(m.headers, line)
	case line == "" && !strings.HasSuffix(m.first, "\n"):
		m.first += "\n" // the body follows
	default:
		m.body = strings.TrimPrefix(m.body+"\n"+line, "\n")
	}
}

// cookbook reads the page: under each title a block of yaml, and the dialogs that follow it.
func cookbook(t *testing.T) []recipe {
	t.Helper()
	text, err := os.ReadFile("../docs/definitions/cookbook.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []recipe
	title, fence, mark := "", "", ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case fence == "" && strings.HasPrefix(line, "#"):
			title = strings.TrimLeft(line, "# ")
		case fence == "" && strings.HasPrefix(line, "```"):
			switch fence = strings.TrimPrefix(line, "```"); fence {
			case "yaml":
				out = append(out, recipe{title: title})
			case "text":
				out[len(out)-1].dialogs = append(out[len(out)-1].dialogs, dialog{})
			default:
				t.Errorf("%s: a block of %q that no test runs", title, fence)
			}
			mark = ""
		case line == "```":
			fence = ""
		case fence == "yaml":
			out[len(out)-1].definition += line + "\n"
		case fence == "text":
			r := &out[len(out)-1]
			r.dialogs[len(r.dialogs)-1].read(t, line, mark)
			mark, _, _ = strings.Cut(line, " ")
		}
	}
	return out
}

// read takes a line of a dialog; before is the mark of the line before it.
func (d *dialog) read(t *testing.T, line, before string) {
	t.Helper()
	mark, rest, _ := strings.Cut(line, " ")
	messages := map[string]*[]message{">": &d.sent, "<": &d.answers}[mark]
	switch {
	case mark == "given":
		d.given = append(d.given, rest)
	case mark == "=":
		d.outcome = append(d.outcome, rest)
	case messages != nil:
		if mark != before {
			*messages = append(*messages, message{})
		}
		(*messages)[len(*messages)-1].add(rest)
	default:
		t.Errorf("%q is no line of a dialog", line)
	}
}

// likePage is a pattern of what a page shows: its … stands for anything.
func likePage(shown string) *regexp.Regexp {
	return regexp.MustCompile(`^(?s:` + strings.ReplaceAll(regexp.QuoteMeta(shown), "…", ".*") + `)$`)
}
