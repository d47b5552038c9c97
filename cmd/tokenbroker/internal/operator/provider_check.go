package operator

import (
	"os"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider"
)

type providerCheckCommand struct {
	console.Format
	Files []string `arg:"" help:"The definition files; - for standard input. A directory is read as the broker reads providers_dir."`
}

// Run says everything that is wrong.
func (c *providerCheckCommand) Run(p *console.Process) error {
	found := []yamldoc.Problem{} // an empty list, and not null
	for _, f := range c.Files {
		problems, err := checkAt(p, f)
		if err != nil {
			return err
		}
		found = append(found, problems...)
	}
	return reportProblems(p, c.Format, found)
}

// reportProblems prints problems of files, and fails if one is more than a warning.
func reportProblems(p *console.Process, format console.Format, found []yamldoc.Problem) error {
	if format.JSON() {
		if err := console.JSON(p.Stdout, struct {
			Problems []yamldoc.Problem `json:"problems"`
		}{found}); err != nil {
			return err
		}
	} else {
		for _, problem := range found {
			console.Println(p.Stdout, console.Visible(problem.String()))
		}
	}
	warnings := len(yamldoc.Warnings(found))
	if n := len(found) - warnings; n > 0 {
		return console.BadInput("%s", console.Counted(n, "problem"))
	}
	switch {
	case format.JSON():
	case warnings > 0:
		console.Println(p.Stderr, "no problems, "+console.Counted(warnings, "warning"))
	default:
		console.Println(p.Stderr, "no problems")
	}
	return nil
}

// checkAt checks a file, or all of a directory: one that has none is probably not the one that is meant.
func checkAt(p *console.Process, name string) ([]yamldoc.Problem, error) {
	if i, err := os.Stat(name); err == nil && i.IsDir() {
		problems, files, err := provider.CheckDir(name)
		if err != nil {
			return nil, console.BadInput("read %s: %w", name, err)
		}
		if files == 0 {
			return nil, console.BadInput("there is no definition in %s: their files are called NAME.yaml", name)
		}
		return problems, nil
	}
	data, err := console.ReadFile(p, name, yamldoc.MostBytes)
	if err != nil {
		return nil, err
	}
	return provider.Check(name, data), nil
}
