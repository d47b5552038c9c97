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
	File string `arg:"" help:"The settings file."`
}

// Run reads the file as serve would, and holds the settings against their rules.
func (c *configCheckCommand) Run(p *console.Process) error {
	file, wrong, err := readSettings(c.File)
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
	if len(wrong) > 0 {
		return console.WrongInput(Together(wrong))
	}
	console.Println(p.Stderr, "no problems")
	return nil
}
