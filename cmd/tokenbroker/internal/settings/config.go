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

// Help implements kong.HelpProvider.
func (*configCheckCommand) Help() string {
	return "It is about the file alone, as serve would find it here with nothing else: flags and environment variables do not count, which win over the file when serve has them. What the file names is looked for on this machine, by the user who asks, and nothing is made or connected to."
}

// Run reads the file as serve would, and holds the settings against their rules.
func (c *configCheckCommand) Run(p *console.Process) error {
	data, err := console.ReadAtMost(p, c.File, yamldoc.MostBytes)
	file, wrong, err := readSettings(c.File, data, err)
	if err != nil {
		return err
	}
	s := struct{ Settings }{Settings{At: map[string]Position{}, File: file.Name, InFile: wrong, Listeners: file.Listeners}}
	parser, err := kong.New(&s, Options(DefaultDataDir()), kong.Exit(func(int) {}), kong.Resolvers(file.Resolver(s.At)))
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
	wrong = s.problems()
	n := len(wrong)
	switch {
	case c.JSON():
		if err := console.JSON(p.Stdout, struct {
			File     string            `json:"file"`
			Problems []yamldoc.Problem `json:"problems"`
		}{c.File, append([]yamldoc.Problem{}, yamldoc.First(wrong)...)}); err != nil {
			return err
		}
		if n > 0 {
			return console.BadInput("%s: %s", c.File, console.Counted(n, "problem"))
		}
	case n > 0:
		return Together(wrong)
	default:
		console.Println(p.Stderr, "no problems")
	}
	return nil
}
