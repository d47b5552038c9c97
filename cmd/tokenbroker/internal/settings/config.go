package settings

import (
	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// ConfigCommands are for whoever writes a settings file.
type ConfigCommands struct {
	Check configCheckCommand `cmd:"" help:"Say everything that is wrong with a settings file."`
}

type configCheckCommand struct {
	console.Format
	File string `arg:"" help:"The settings file."`
}

// Run reads the file as serve would, and holds the settings against their rules.
func (c *configCheckCommand) Run(p *console.Process) error {
	data, err := console.ReadAtMost(p, c.File, yamldoc.MostBytes)
	file, wrong, err := readSettings(c.File, data, err)
	if err != nil {
		return err
	}
	s := struct{ Settings }{Settings{At: map[string]Position{}}}
	parser, err := kong.New(&s, Vars(DefaultDataDir()), kong.Exit(func(int) {}), kong.Resolvers(file.Resolver(s.At)))
	if err != nil {
		return err
	}
	// It is the file that is checked, and not what is around it here.
	if err := WithoutEnvironment(parser, func(string) bool { return true }); err != nil {
		return err
	}
	if _, err := parser.Parse(nil); err != nil {
		return console.BadInput("%s: %w", c.File, err)
	}
	wrong = append(wrong, s.problems()...)
	yamldoc.Sort(wrong)
	n := len(wrong)
	switch {
	case c.JSON():
		if err := console.JSON(p.Stdout, asJSON(c.File, yamldoc.First(wrong))); err != nil {
			return err
		}
		if len(wrong) > 0 {
			return console.BadInput("%s: %d problems", c.File, n)
		}
	case len(wrong) > 0:
		return console.WrongInput(yamldoc.Together(wrong))
	default:
		console.Println(p.Stderr, "no problems")
	}
	return nil
}

// asJSON is what is wrong with a file, for scripts.
func asJSON(file string, wrong []yamldoc.Problem) any {
	type problem struct {
		Line    int    `json:"line,omitempty"`
		Column  int    `json:"column,omitempty"`
		Message string `json:"message"`
	}
	all := []problem{}
	for _, w := range wrong {
		all = append(all, problem{w.Line, w.Column, w.Message})
	}
	return struct {
		File     string    `json:"file"`
		Problems []problem `json:"problems"`
	}{file, all}
}
