package server

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/tokenbroker/tokenbroker/broker"
)

// What the contract says that is answered has a place in this package that fills it, and what may be asked one that reads it.
func TestEveryFieldOfTheContractIsUsed(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		code.Write(text)
	}
	goName := func(f protoreflect.FieldDescriptor) string {
		var b strings.Builder
		for part := range strings.SplitSeq(string(f.Name()), "_") {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
		return b.String()
	}
	seen := map[protoreflect.FullName]bool{}
	var walk func(d protoreflect.MessageDescriptor, way string)
	walk = func(d protoreflect.MessageDescriptor, way string) {
		key := d.FullName() + protoreflect.FullName(way)
		if seen[key] || d.ParentFile().Package() != "tokenbroker.v1" {
			return
		}
		seen[key] = true
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			read, filled := `\bGet`+goName(f)+`\(`, `\b`+goName(f)+`(: |, [\w.]+ = | = )`
			if way == "answered" && !regexp.MustCompile(filled).MatchString(code.String()) {
				t.Errorf("%s is never filled", f.FullName())
			}
			if way == "asked" && !regexp.MustCompile(read).MatchString(code.String()) && !outputOnly[f.FullName()] {
				t.Errorf("%s is never read", f.FullName())
			}
			if f.Message() != nil && !f.IsMap() && (way == "answered" || !outputOnly[f.FullName()]) {
				walk(f.Message(), way)
			}
		}
	}
	protoregistry.GlobalFiles.RangeFilesByPackage("tokenbroker.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				m := f.Services().Get(i).Methods().Get(j)
				walk(m.Input(), "asked")
				walk(m.Output(), "answered")
			}
		}
		return true
	})
	if len(seen) < 40 {
		t.Errorf("found %d messages only", len(seen))
	}
}

var outputOnly = map[protoreflect.FullName]bool{
	"tokenbroker.v1.Credential.secrets": true, "tokenbroker.v1.Credential.state": true, "tokenbroker.v1.Credential.version": true,
	"tokenbroker.v1.Credential.create_time": true, "tokenbroker.v1.Credential.update_time": true, "tokenbroker.v1.Credential.definition_revision": true,
}

func TestAFormerSecretIsKeptUntilItsTimeIsOver(t *testing.T) {
	now := time.Unix(2e9, 0)
	c := broker.Credential{Secrets: map[string]broker.SecretInput{"s": {Former: broker.NewSecret("x"), FormerUntil: now}}}
	for at, want := range map[time.Time]bool{now.Add(-1): true, now: false, now.Add(1): false} {
		got := credentialMessage(c, broker.Report{}, at).GetSecrets()[0]
		if got.GetFormerKept() != want {
			t.Errorf("%v: got %v, want %v", at.Sub(now), got.GetFormerKept(), want)
		}
	}
}

func TestTheContractSaysHowLargeAPageIs(t *testing.T) {
	n := 0
	for _, file := range []string{"credential_service", "provider_service"} {
		text, err := os.ReadFile("../proto/tokenbroker/v1/" + file + ".proto")
		if err != nil {
			t.Fatal(err)
		}
		n += strings.Count(string(text), fmt.Sprintf("// 0: %d; above %d: %d.\n", defaultPage, largestPage, largestPage))
	}
	if n != 2 {
		t.Errorf("%d of 2 lists say it", n)
	}
}
