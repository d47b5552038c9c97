package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/installed"
)

// TestREADME runs the grpcurl commands of the README with the credentials of demo upstream, as it says.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := consoleLines(string(text), "grpcurl")
	if len(lines) == 0 {
		t.Fatal("README.md has no line that begins with $ grpcurl between <!-- test: grpcurl --> and <!-- /test -->")
	}
	curl := installed.Tool(t, "grpcurl")
	t.Setenv("PATH", filepath.Dir(curl)+string(os.PathListSeparator)+os.Getenv("PATH"))
	u := startUpstream(t)
	s := u.serve()
	s.apply(u)
	const written = "127.0.0.1:7420"
	for _, line := range lines {
		if !strings.Contains(line, written) {
			t.Errorf("%s: got no %s in it", line, written)
			continue
		}
		runs(t, "sh", "-c", strings.ReplaceAll(line, written, s.address))
	}
}

// consoleLines are the commands of a program in the console blocks of the sections that are marked to be tested with it.
func consoleLines(text, program string) []string {
	var lines []string
	marked, fenced := false, false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case line == "<!-- test: "+program+" -->":
			marked = true
		case line == "<!-- /test -->":
			marked = false
		case strings.HasPrefix(line, "```"):
			fenced = line == "```console"
		case marked && fenced && strings.HasPrefix(line, "$ "+program+" "):
			lines = append(lines, strings.TrimPrefix(line, "$ "))
		}
	}
	return lines
}

func TestConsoleLines(t *testing.T) {
	text := "```console\n$ tool outside\n```\n<!-- test: tool -->\n$ tool unfenced\n```console\n$ tool one\noutput\n$ other\n```\n```sh\n$ tool sh\n```\n" +
		"<!-- /test -->\n<!-- test: other -->\n```console\n$ tool two\n```\n<!-- /test -->\n"
	if got := consoleLines(text, "tool"); len(got) != 1 || got[0] != "tool one" {
		t.Errorf("got %q, want only the line that is marked", got)
	}
}
