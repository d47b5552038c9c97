package operator

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/audit"
	"github.com/tokenbroker/tokenbroker/broker/policy"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

type policySuggestCommand struct {
	console.Format
	Files         []string `arg:"" help:"Files of the audit log; - for standard input."`
	IncludeDenied bool     `help:"Also what was denied. Look at it twice: whoever was denied has chosen what they asked for."`
}

// Help implements kong.HelpProvider.
func (*policySuggestCommand) Help() string {
	return "What an audit log says was done becomes the least policy that allows it: literal names, with a test for each rule. Patterns are proposed in comments. Reading is not in an audit log, and neither are values of parameters: add what is missing, and narrow what is too wide."
}

// suggestMost bounds what is told apart.
const suggestMost = 50_000

// A suggesting gathers what was done.
type suggesting struct {
	denied bool
	seen   map[string]bool
	uses   []policy.Use
	lines  int
	// first and last are when it was; clipped, strange and unknown how many lines could not be taken.
	first, last               time.Time
	clipped, strange, skipped int
	// wide: something of it is a pattern in a policy. wild is how many lines would be.
	wide bool
	wild int
	// issued are the tokens of which a line says what was asked for, and used those of which one says how often.
	issued, used map[string]bool
}

var errTooMuch = fmt.Errorf("more than %d different things were done: take fewer files, or lines, of the log", suggestMost)

// add takes a line.
func (s *suggesting) add(e audit.Entry) error {
	if e.Caller == "" || e.Operation == "" || e.Denied && !s.denied {
		return nil
	}
	if e.Event == broker.AuditUsed { // it says how often, and not what was asked for
		s.used[e.Caller+" "+e.TokenID] = true
		return nil
	}
	if e.Event == broker.AuditIssued {
		s.issued[e.Caller+" "+e.TokenID] = true
	}
	if e.Clipped {
		s.clipped++
		return nil
	}
	c, _ := policy.Description{Identity: e.Caller, Proof: e.Proof, Listener: e.Listener}.Caller()
	if c == nil || !slices.Contains(broker.Operations(), e.Operation) || e.Credential != "" && !broker.IsCredentialName(e.Credential) {
		s.strange++
		return nil
	}
	s.lines++
	if s.first.IsZero() || e.Time.Before(s.first) {
		s.first = e.Time
	}
	if e.Time.After(s.last) {
		s.last = e.Time
	}
	u := policy.Use{
		Caller: c, Operation: e.Operation, Credential: broker.CredentialName(e.Credential), Scopes: append(e.Scopes, e.Granted...), Audience: e.Audience,
		Resources: e.Resources, Parameters: e.Parameters, Rule: e.Rule,
	}
	if !u.Literal() {
		s.wild++
		return nil
	}
	key := fmt.Sprintf("%q %q %q %q %q %q %q %q %q", c.Identity, c.Proof, u.Operation, u.Credential, u.Scopes, u.Audience, u.Resources, u.Parameters, u.Rule)
	if s.seen[key] {
		return nil
	}
	if len(s.seen) == suggestMost {
		return errTooMuch
	}
	s.seen[key] = true
	if !u.Sayable() {
		s.strange++
		return nil
	}
	s.wide = s.wide || len(u.Parameters) > 0
	s.uses = append(s.uses, u)
	return nil
}

// Run suggests.
func (c *policySuggestCommand) Run(p *console.Process) error {
	s := suggesting{denied: c.IncludeDenied, seen: map[string]bool{}, issued: map[string]bool{}, used: map[string]bool{}}
	for _, name := range c.Files {
		if err := s.read(p, name); err != nil {
			return console.BadInput("read %s: %w", name, err)
		}
	}
	if len(s.uses) == 0 {
		return console.BadInput("nobody has done anything there that a policy could allow: an audit log is wanted, as the settings audit.file and audit.stdout make it")
	}
	text, err := policy.Suggest(s.uses)
	if err != nil {
		return console.WrongInput(err)
	}
	if c.JSON() {
		return console.JSON(p.Stdout, struct {
			Policy  string `json:"policy"`
			Lines   int    `json:"lines"`
			LeftOut int    `json:"left_out"`
			Wide    bool   `json:"wide"`
		}{string(text), s.lines, s.skipped + s.clipped + s.strange + s.wild, s.wide})
	}
	console.Printf(p.Stdout, "# What %s of an audit log say was done, from %s to %s, and as little else as rules can say.\n"+
		"# Reading (credential.read, provider.read) is not in that log: who may read is missing here. Nor are claims, labels and rates: look for them in the rules by which\n"+
		"# it was allowed, which are named behind the callers.\n",
		console.Counted(s.lines, "line"), s.first.UTC().Format(time.RFC3339), s.last.UTC().Format(time.RFC3339))
	if s.denied {
		console.Println(p.Stdout, "# What was denied is in it: look at it twice.")
	}
	if _, err := p.Stdout.Write(text); err != nil {
		return err
	}
	if s.wild > 0 {
		console.Printf(p.Stdout, "# Left out: %s of values with a * in them, which would be patterns here.\n", console.Counted(s.wild, "line"))
	}
	missing := 0
	for id := range s.used {
		if !s.issued[id] {
			missing++
		}
	}
	for what, n := range map[string]int{
		"of values with a * in them: they would be patterns": s.wild, "of tokens whose first use is in another file, which says what was asked for": missing,
		"that are no lines of an audit log": s.skipped, "that were cut off, so that not all is known of what was asked for": s.clipped, "of callers, operations or values that no policy can have": s.strange} {
		if n > 0 {
			console.Printf(p.Stderr, "left out: %s %s\n", console.Counted(n, "line"), what)
		}
	}
	if s.wide {
		console.Println(p.Stderr, "some of it allows more than was done: values of parameters are not in the log, and * here")
	}
	return nil
}

// read takes a file's lines.
func (s *suggesting) read(p *console.Process, name string) error {
	skipped, err := console.Awaited(p, func() (int, error) {
		if name == "-" {
			return audit.Read(p.Stdin, s.add)
		}
		f, err := os.Open(name) //nolint:gosec // the operator names it
		if err != nil {
			return 0, err
		}
		defer f.Close() //nolint:errcheck // it was only read
		return audit.Read(f, s.add)
	})
	s.skipped += skipped
	return err
}
