package operator

import (
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/policy"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/suggest"
)

type policyExplainCommand struct {
	console.Format
	File          string   `arg:"" help:"The policy file; - for standard input."`
	Caller        string   `required:"" placeholder:"IDENTITY" help:"Who asks, as logs say it: spiffe://DOMAIN/PATH, dns:CERTIFICATE/NAME, uri:…, cn:…, jwt:ISSUER/SUB, k8s:ISSUER/NAMESPACE/NAME, unix:UID, local:LISTENER, via:PROXY/spiffe://DOMAIN/PATH."`
	Proof         string   `help:"How that was proven: x509, jwt, forwarded, peer or none. Left out: as it is of such callers."`
	Listener      string   `help:"By which listener: services or operators. Left out: services."`
	GID           string   `name:"gid" help:"A group of a caller behind a Unix socket."`
	Claim         pairs    `sep:"none" placeholder:"NAME=VALUE" help:"A claim of a JWT; repeat for several."`
	Operation     string   `required:"" help:"What it wants to do: get_token, watch, invalidate, invalidate.all, credential.read, credential.write, credential.delete, credential.test, provider.read."`
	Credential    string   `help:"The credential. Left out: a list of credentials, or providers."`
	Label         pairs    `sep:"none" placeholder:"KEY=VALUE" help:"A label that the credential has; repeat for several."`
	Scope         []string `sep:"none" help:"A scope, also by default; repeat for several."`
	Audience      string   `help:"The audience, also by default."`
	Resource      []string `sep:"none" help:"A resource, also by default; repeat for several."`
	ParameterName []string `sep:"none" help:"A parameter, also by default, without its value; repeat for several."`
}

// access is what the flags say.
func (c *policyExplainCommand) access() (broker.Access, error) {
	caller, err := policy.Description{Identity: c.Caller, Proof: c.Proof, Listener: c.Listener, GID: c.GID, Claims: c.Claim}.Caller()
	if err != nil {
		return broker.Access{}, console.WrongInput(err)
	}
	a := broker.Access{Caller: caller, Operation: broker.Operation(c.Operation), Known: broker.Stored, Labels: c.Label}
	var known []string
	for _, o := range broker.Operations() {
		known = append(known, string(o))
	}
	if !slices.Contains(known, c.Operation) {
		if near := suggest.Nearest(c.Operation, known); near != "" {
			return broker.Access{}, console.BadInput("--operation: there is no %q; did you mean %q?", c.Operation, near)
		}
		return broker.Access{}, console.BadInput("--operation: there is no %q; write one of %s", c.Operation, strings.Join(known, ", "))
	}
	switch {
	case c.Credential == "" && a.Operation == broker.ReadCredential:
		a.Known = broker.Unread
	case c.Credential == "" && a.Operation != broker.ReadProvider:
		return broker.Access{}, console.BadInput("--credential is missing: which one %s is about", c.Operation)
	case c.Credential != "" && !broker.IsCredentialName(c.Credential):
		return broker.Access{}, console.BadInput("--credential: a name %s", broker.NameForm)
	}
	a.Credential = broker.CredentialName(c.Credential)
	if !a.Operation.Selects() && len(c.Scope)+len(c.Resource)+len(c.ParameterName)+len(c.Audience) > 0 {
		return broker.Access{}, console.BadInput("%s is not about a token: leave out --scope, --audience, --resource and --parameter-name", c.Operation)
	}
	if a.Selection.Scopes, err = broker.ParseSet("scope", c.Scope); err != nil {
		return broker.Access{}, console.WrongInput(err)
	}
	if a.Selection.Resources, err = broker.ParseSet("resource", c.Resource); err != nil {
		return broker.Access{}, console.WrongInput(err)
	}
	a.Selection.Audience = c.Audience
	return a, nil
}

// effects are what is decided, as it is told.
var effects = map[broker.Effect]string{broker.Denied: "denied", broker.Depends: "depends", broker.Allowed: "allowed"}

// Run explains.
func (c *policyExplainCommand) Run(p *console.Process) error {
	a, err := c.access()
	if err != nil {
		return err
	}
	pol, err := loadPolicy(p, c.File)
	if err != nil {
		return err
	}
	e := pol.ExplainNames(a, c.ParameterName)
	type reason struct {
		Rule   string `json:"rule"`
		Effect string `json:"effect"`
		Why    string `json:"why"`
	}
	rules := []reason{}
	for _, r := range e.Rules {
		rules = append(rules, reason{r.Rule, effects[r.Effect], r.Why})
	}
	if c.JSON() {
		return console.JSON(p.Stdout, struct {
			Effect string   `json:"effect"`
			Rule   string   `json:"rule,omitempty"`
			Why    string   `json:"why,omitempty"`
			Rules  []reason `json:"rules"`
		}{effects[e.Decision.Effect], e.Decision.Rule, e.Why, rules})
	}
	line := effects[e.Decision.Effect]
	if e.Decision.Rule != "" {
		line += " by " + e.Decision.Rule
	}
	if e.Why != "" {
		line += ": " + e.Why
	}
	console.Println(p.Stdout, console.Visible(line))
	for _, r := range rules {
		console.Printf(p.Stdout, "  %s: %s: %s\n", console.Visible(r.Rule), r.Effect, console.Visible(r.Why))
	}
	return nil
}
