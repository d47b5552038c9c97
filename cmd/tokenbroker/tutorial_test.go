package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A step of the tutorial is a file to write, or a command with what it prints.
type tutorialStep struct {
	file, command string
	text          string
}

// tutorialSteps reads the blocks of a page: those of yaml, each under the name of its file, and those of console.
func tutorialSteps(t *testing.T, page string) []tutorialStep {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var out []tutorialStep
	file, fence := "", ""
	for line := range strings.Lines(string(text)) {
		bare := strings.TrimRight(line, "\r\n")
		name, marked := strings.CutPrefix(bare, "<!-- file: ")
		switch {
		case marked:
			file = strings.TrimSuffix(name, " -->")
		case fence == "" && strings.HasPrefix(bare, "```"):
			if fence = strings.TrimPrefix(bare, "```"); fence == "yaml" {
				out = append(out, tutorialStep{file: file})
			}
			if fence == "yaml" && file == "" || fence != "yaml" && fence != "console" {
				t.Errorf("a block of %q that no test runs", fence)
			}
			file = ""
		case bare == "```":
			fence = ""
		case fence == "console" && strings.HasPrefix(bare, "$ "):
			out = append(out, tutorialStep{command: strings.TrimPrefix(bare, "$ ")})
		case fence != "" && len(out) > 0:
			out[len(out)-1].text += line
		}
	}
	return out
}

// like is a pattern of what a page shows: its … stands for anything.
func like(shown string) *regexp.Regexp {
	return regexp.MustCompile(`^(?s:` + strings.ReplaceAll(regexp.QuoteMeta(shown), "…", ".*") + `)$`)
}

// TestTutorial does what the tutorial says, in a directory of its own. Only the ports are other ones.
func TestTutorial(t *testing.T) {
	program, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	steps := tutorialSteps(t, "../../docs/definitions/tutorial.md")
	dir := shortDir(t)
	t.Chdir(dir)
	t.Setenv("PATH", filepath.Dir(program)+string(os.PathListSeparator)+os.Getenv("PATH"))
	exports, ran := "", 0
	for _, s := range steps {
		args := strings.Fields(s.command)
		switch {
		case s.file != "":
			if err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.text), 0o600); err != nil {
				t.Fatal(err)
			}
		case args[0] == "export":
			exports += s.command + "\n"
		case args[0] != "tokenbroker":
			t.Errorf("%s: another program", s.command)
		case args[1] == "demo", args[1] == "serve":
			args = append(args[1:], "--listen", "127.0.0.1:0")
			if args[0] == "serve" {
				args = append(args, "--metrics-listen", "none")
			}
			p := start(t, args...)
			for line := range strings.Lines(s.text) {
				p.waitFor(strings.Trim(like(strings.TrimSuffix(line, "\n")).String(), "^$"))
			}
			ran++
		default:
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			cmd := exec.CommandContext(ctx, "sh", "-c", exports+s.command)
			cmd.Env = cleanEnvironment()
			out, _ := cmd.CombinedOutput() // what is printed says how it ended
			cancel()
			if !like(s.text).Match(out) {
				t.Errorf("$ %s\ngot\n%s\nwant\n%s", s.command, out, s.text)
			}
			ran++
		}
	}
	elsewhere := exec.CommandContext(t.Context(), "sh", "-c", exports+`cd / && test -f "$TOKENBROKER_CONFIG"`)
	if out, err := elsewhere.CombinedOutput(); err != nil {
		t.Errorf("in another directory what it exports is nothing: %v\n%s", err, out)
	}
	if ran < 10 {
		t.Errorf("found %d commands", ran)
	}
}
