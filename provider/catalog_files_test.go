package provider

import (
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestAFileHasItsOwnNameOnly: one that says another name neither takes that name nor keeps it from the file that has it.
func TestAFileHasItsOwnNameOnly(t *testing.T) {
	c, _ := catalogIn(t, map[string]string{
		"a.yaml": "name: mine\ninputs: {k: {}}\ntoken: '{{k}} from a'", "mine.yaml": "name: mine\ninputs: {k: {}}\ntoken: '{{k}} from mine'", "mine.yml": "name: mine\ninputs: {k: {}}\ntoken: '{{k}} x'",
		"b.yaml": "name: officernd\noverride: true\ninputs: {k: {}}\ntoken: '{{k}} x'",
	})
	mine, err := c.Definition("mine")
	if err != nil || len(mine.(*definition).token.parts) != 2 || mine.(*definition).token.parts[1].literal != " from mine" {
		t.Errorf("got %v %v, want the file of that name", mine, err)
	}
	if got := problemsOf(entry(t, c, "a")); !strings.Contains(got, "write name: a") {
		t.Errorf("got %q", got)
	}
	if got := problemsOf(entry(t, c, "mine")); !strings.Contains(got, "mine.yml") {
		t.Errorf("got %q", got)
	}
	if e := entry(t, c, "officernd"); e.Origin != Builtin || len(e.Problems) != 0 {
		t.Errorf("got %+v", e)
	}
	if _, err := c.Definition("a"); broker.KindOf(err) != broker.ProviderInvalid {
		t.Errorf("got %v", err)
	}
}

// TestWhatIsInUseStaysInUse walks an override through its life.
func TestWhatIsInUseStaysInUse(t *testing.T) {
	const name = "officernd"
	c, dir := catalogIn(t, map[string]string{})
	builtin, err := c.Definition(name)
	if err != nil {
		t.Fatal(err)
	}
	step := func(text string, origin Origin, problem string) broker.Definition {
		t.Helper()
		writeFile(t, dir, name+".yaml", text)
		if err := c.Reload(); err != nil {
			t.Fatal(err)
		}
		d, err := c.Definition(name)
		if err != nil {
			t.Fatal(err)
		}
		e := entry(t, c, name)
		if e.Origin != origin || (problem == "") != (len(e.Problems) == 0) || !strings.Contains(problemsOf(e), problem) {
			t.Errorf("got %v %q, want %v %q", e.Origin, problemsOf(e), origin, problem)
		}
		if e.Revision != d.Facts().Digest {
			t.Error("the entry's revision is not that of what is in use")
		}
		return d
	}
	if d := step("name: [", Builtin, "not YAML"); d.Facts().Digest != builtin.Facts().Digest {
		t.Error("a file that is wrong took the built-in's place")
	}
	if d := step("name: officernd\ninputs: {k: {}}\ntoken: '{{k}} x'", Builtin, "override: true"); d.Facts().Digest != builtin.Facts().Digest {
		t.Error("a file without override took the built-in's place")
	}
	mine := step("name: officernd\ntitle: Mine\noverride: true\ninputs: {k: {}}\ntoken: '{{k}} x'", FileOverridingBuiltin, "")
	if d := step("name: officernd\noverride: true\ntokn: x", FileOverridingBuiltin, "tokn"); d != mine {
		t.Error("a broken override lost its former version")
	}
	if entry(t, c, name).Title != "Mine" {
		t.Error("the title is not that of what is in use")
	}
	if d := step("name: officernd\ninputs: {k: {}}\ntoken: '{{k}} x'", FileOverridingBuiltin, "override: true"); d != mine {
		t.Error("an override that no longer says so lost its former version")
	}
}

func TestEntriesAreInTheOrderOfTheirNames(t *testing.T) {
	c, _ := catalogIn(t, map[string]string{"zz.yaml": "name: zz\ninputs: {k: {}}\ntoken: '{{k}} x'", "a-1.yaml": "name: a-1\ninputs: {k: {}}\ntoken: '{{k}} x'", "broken.yaml": ":"})
	var before string
	for _, e := range c.List() {
		if e.Name <= before {
			t.Errorf("got %s after %s", e.Name, before)
		}
		before = e.Name
	}
	if before != "zz" {
		t.Errorf("got %s last", before)
	}
}
