package operator

import (
	"github.com/tokenbroker/tokenbroker/broker/policy"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// PolicyCommands are for whoever writes a policy.
type PolicyCommands struct {
	Check   policyCheckCommand   `cmd:"" help:"Say everything that is wrong with policy files, and run their tests. Needs no broker."`
	Test    policyTestCommand    `cmd:"" help:"Run a policy's tests, and say of each what came of it. Needs no broker."`
	Explain policyExplainCommand `cmd:"" help:"Say what a policy decides, and why. Needs no broker."`
	Suggest policySuggestCommand `cmd:"" help:"Write the least policy that allows what an audit log says was done. Needs no broker."`
}

type policyCheckCommand struct {
	console.Format
	Files []string `arg:"" help:"The policy files; - for standard input."`
}

// Run says everything that is wrong.
func (c *policyCheckCommand) Run(p *console.Process) error {
	found := []yamldoc.Problem{} // an empty list, and not null
	for _, name := range c.Files {
		data, err := console.ReadFile(p, name, policy.MostBytes)
		if err != nil {
			return err
		}
		_, problems := policy.Parse(name, data)
		found = append(found, problems...)
	}
	return reportProblems(p, c.Format, found)
}

type policyTestCommand struct {
	console.Format
	File string `arg:"" help:"The policy file; - for standard input."`
}

// Run runs the tests.
func (c *policyTestCommand) Run(p *console.Process) error {
	data, err := console.ReadFile(p, c.File, policy.MostBytes)
	if err != nil {
		return err
	}
	results, problems := policy.Test(c.File, data)
	if wrong := yamldoc.Errors(problems); len(wrong) > 0 {
		return console.WrongInput(yamldoc.Together(wrong))
	}
	type result struct {
		Test   string `json:"test"`
		Line   int    `json:"line"`
		Passed bool   `json:"passed"`
		Wrong  string `json:"wrong,omitempty"`
	}
	all, failed := []result{}, 0
	for _, r := range results {
		if r.Wrong != "" {
			failed++
		}
		all = append(all, result{r.Name, r.Line, r.Wrong == "", r.Wrong})
	}
	if c.JSON() {
		if err := console.JSON(p.Stdout, struct {
			Tests []result `json:"tests"`
		}{all}); err != nil {
			return err
		}
	} else {
		for _, r := range all {
			if r.Passed {
				console.Printf(p.Stdout, "ok    %s\n", console.Visible(r.Test))
				continue
			}
			console.Printf(p.Stdout, "FAIL  %s\n      line %d: %s\n", console.Visible(r.Test), r.Line, console.Visible(r.Wrong))
		}
	}
	switch {
	case failed > 0:
		return console.BadInput("%s failed, of %d", console.Counted(failed, "test"), len(all))
	case c.JSON():
	case len(all) == 0:
		console.Println(p.Stderr, "there are no tests in it: write what must be allowed, and what never, under tests")
	default:
		console.Println(p.Stderr, console.Counted(len(all), "test")+" passed")
	}
	return nil
}

// loadPolicy reads a policy that has to be good.
func loadPolicy(p *console.Process, name string) (*policy.Policy, error) {
	data, err := console.ReadFile(p, name, policy.MostBytes)
	if err != nil {
		return nil, err
	}
	pol, problems := policy.Parse(name, data)
	if pol == nil {
		return nil, console.WrongInput(yamldoc.Together(yamldoc.Errors(problems)))
	}
	return pol, nil
}
