package server

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
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
	"tokenbroker.v1.Credential.destinations": true, "tokenbroker.v1.Destination.current": true, "tokenbroker.v1.Destination.accepted": true,
}

func TestAFormerSecretIsKeptUntilItsTimeIsOver(t *testing.T) {
	now := time.Unix(2e9, 0)
	c := broker.Credential{Secrets: map[string]broker.SecretInput{"s": {Former: broker.NewSecret("x"), FormerUntil: now}}}
	for at, want := range map[time.Time]bool{now.Add(-1): true, now: false, now.Add(1): false} {
		got := credentialMessage(c, engine.Report{}, nil, at).GetSecrets()[0]
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

// What is called the same has the same limits, in whichever request.
func TestTheSameFieldHasTheSameLimitsEverywhere(t *testing.T) {
	alike := map[string]string{"default_scopes": "scopes", "default_audience": "audience", "credential": "name", "rejected_token_id": "token_id", "known_token_id": "token_id"}
	rules, seen := map[string]*validate.FieldRules{}, 0
	var walk func(d protoreflect.MessageDescriptor, provider bool)
	walk = func(d protoreflect.MessageDescriptor, provider bool) {
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			if f.Message() != nil && !f.IsMap() && f.Message().ParentFile().Package() == d.ParentFile().Package() {
				if f.Name() == "secrets" {
					continue // output only
				}
				walk(f.Message(), provider)
				continue
			}
			name := string(f.Name())
			if to := alike[name]; to != "" {
				name = to
			}
			if provider && name == "name" {
				name = "provider's name"
			}
			got, _ := proto.GetExtension(f.Options(), validate.E_Field).(*validate.FieldRules)
			switch name {
			case "token_id": // required in one place, and not in others
				got = proto.CloneOf(got)
				got.GetString().MinLen = nil
			case "secrets":
				if !f.IsMap() { // of which only the names are said
					continue
				}
				got = proto.CloneOf(got)
				got.GetMap().MinPairs = nil
			case "request_id":
				continue // a UUID in one place, which came later in the other
			}
			if want, ok := rules[name]; ok && !proto.Equal(got, want) {
				t.Errorf("%s: the limits are %v, elsewhere %v", f.FullName(), got, want)
			}
			rules[name] = got
			seen++
		}
	}
	for _, m := range requests() {
		d := m.ProtoReflect().Descriptor()
		walk(d, strings.Contains(string(d.Name()), "Provider"))
	}
	if seen < 40 {
		t.Errorf("found %d fields only", seen)
	}
	if keys := rules["labels"].GetMap().GetKeys().GetString().GetPattern(); keys != namePattern {
		t.Errorf("a label's key is of the form %q, a name of %q", keys, namePattern)
	}
}

// Whatever a caller can make long or many is bounded by the contract.
func TestEveryFieldOfARequestHasALimit(t *testing.T) {
	// Those that are bounded by what they are held against, and kept nowhere, or output only.
	free := map[protoreflect.Name]bool{"etag": true, "update_mask": true, "provider": true, "definition_revision": true}
	var walk func(d protoreflect.MessageDescriptor)
	walk = func(d protoreflect.MessageDescriptor) {
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			rules, _ := proto.GetExtension(f.Options(), validate.E_Field).(*validate.FieldRules)
			s := rules.GetString()
			switch {
			case free[f.Name()]:
			case f.IsMap():
				keys, values := rules.GetMap().GetKeys().GetString(), rules.GetMap().GetValues().GetString()
				if rules.GetMap().GetMaxPairs() == 0 || keys.GetMaxLen() == 0 && keys.GetPattern() == "" || values.GetMaxLen() == 0 && values.GetMaxBytes() == 0 {
					t.Errorf("%s has no limit", f.FullName())
				}
			case f.IsList() && f.Kind() == protoreflect.StringKind:
				items := rules.GetRepeated().GetItems().GetString()
				if rules.GetRepeated().GetMaxItems() == 0 || items.GetMaxLen() == 0 && !items.GetUri() {
					t.Errorf("%s has no limit", f.FullName())
				}
			case f.Message() != nil && f.Message().ParentFile().Package() == d.ParentFile().Package() && !f.IsList():
				walk(f.Message())
			case f.Kind() == protoreflect.StringKind && s.GetMaxLen() == 0 && s.GetPattern() == "" && !s.GetUuid():
				if s.GetMinLen() == 0 || f.Name() != "name" {
					t.Errorf("%s has no limit", f.FullName())
				}
			}
		}
	}
	for _, m := range requests() {
		walk(m.ProtoReflect().Descriptor())
	}
}

func TestEveryRequestOfTheContractIsCompiled(t *testing.T) {
	have := map[protoreflect.FullName]bool{}
	for _, m := range requests() {
		have[m.ProtoReflect().Descriptor().FullName()] = true
	}
	srv := grpc.NewServer()
	tokenbrokerv1.RegisterTokenBrokerServiceServer(srv, tokenbrokerv1.UnimplementedTokenBrokerServiceServer{})
	tokenbrokerv1.RegisterCredentialServiceServer(srv, tokenbrokerv1.UnimplementedCredentialServiceServer{})
	tokenbrokerv1.RegisterProviderServiceServer(srv, tokenbrokerv1.UnimplementedProviderServiceServer{})
	n := 0
	for service, info := range srv.GetServiceInfo() {
		for _, m := range info.Methods {
			n++
			if name := protoreflect.FullName("tokenbroker.v1." + m.Name + "Request"); !have[name] {
				t.Errorf("%s/%s: %s is not there", service, m.Name, name)
			}
		}
	}
	if n != len(have) {
		t.Errorf("got %d requests for %d methods", len(have), n)
	}
}
