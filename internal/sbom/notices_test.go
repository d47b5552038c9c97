package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write THIRD_PARTY_LICENSES")

const preface = `What tokenbroker contains of others

The tokenbroker command for Linux is made of the modules below, each under the licence beside it, as an SPDX expression. Those licences
ask that their texts go with a binary: copyright, conditions and disclaimer (BSD, ISC, MIT), or the licence and the notices (Apache-2.0,
section 4). They are all here. The image has this file and LICENSE, which is tokenbroker's own, in /licenses; whoever passes the binary on
in another way adds both.

The image also has the list of certificate authorities of Debian's package ca-certificates, unchanged. It is Mozilla's, under MPL-2.0
(https://mozilla.org/MPL/2.0/); its source is https://sources.debian.org/src/ca-certificates/.

make licenses writes this file.
`

// notices renders the list and the texts. One that several parts have, but for blanks and line ends, is there once.
func notices(b *binary) []byte {
	type group struct {
		body string
		of   []string
	}
	var groups []*group
	seen := map[string]*group{}
	var out bytes.Buffer
	out.WriteString(preface + "\n")
	for _, p := range b.parts {
		name := p.path
		if name == std {
			name = "the Go standard library and runtime" // of the Go that builds, whose version is no matter of the tree
			fmt.Fprintf(&out, "%s\n    %s\n", name, p.license)
		} else {
			fmt.Fprintf(&out, "%s %s\n    %s\n", p.path, p.version, p.license)
		}
		for _, t := range p.texts {
			key := strings.Join(strings.Fields(t.body), " ")
			if seen[key] == nil {
				seen[key] = &group{body: t.body}
				groups = append(groups, seen[key])
			}
			seen[key].of = append(seen[key].of, name+": "+t.name)
		}
	}
	for _, g := range groups {
		fmt.Fprintf(&out, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 80), strings.Join(g.of, "\n"), strings.Trim(g.body, "\r\n"))
	}
	return out.Bytes()
}

// A licence that changes is a change of this file, for a person to read: what recognizes licences sees what it knows, and not what was added to it.
func TestTheListOfLicencesIsThatOfTheBinary(t *testing.T) {
	_, b := tokenbroker(t)
	file := filepath.Join(root, "THIRD_PARTY_LICENSES")
	want := notices(b)
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		gotLines, wantLines := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
		for i, line := range wantLines {
			if i >= len(gotLines) || gotLines[i] != line {
				t.Fatalf("THIRD_PARTY_LICENSES is not that of the binary: run make licenses, and read what has changed\nline %d: want %q", i+1, line)
			}
		}
		t.Fatal("THIRD_PARTY_LICENSES has more than the binary: run make licenses")
	}
}
