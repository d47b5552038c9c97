package main

import (
	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

type configCommands struct {
	Check configCheckCommand `cmd:"" help:"Say everything that is wrong with a settings file."`
}

type configCheckCommand struct {
	File string `arg:"" help:"The settings file."`
}

// Run reads the file as serve would, and holds the settings against their rules.
func (c *configCheckCommand) Run(p *process) error {
	file, wrong, err := readSettings(c.File)
	if err != nil {
		return err
	}
	s := struct{ settings }{settings{at: map[string]position{}}}
	parser, err := kong.New(&s, settingVars(defaultDataDir()), kong.Exit(func(int) {}), kong.Resolvers(file.resolver(s.at)))
	if err != nil {
		return err
	}
	// It is the file that is checked, and not what is around it here.
	if err := withoutEnvironment(parser, func(string) bool { return true }); err != nil {
		return err
	}
	if _, err := parser.Parse(nil); err != nil {
		return badInput("%s: %w", c.File, err)
	}
	wrong = append(wrong, s.problems()...)
	yamldoc.Sort(wrong)
	if len(wrong) > 0 {
		return &inputError{together(wrong)}
	}
	printline(p.stderr, "no problems")
	return nil
}
