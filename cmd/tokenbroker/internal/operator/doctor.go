package operator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/doctor"
)

// DoctorCommand says what is unsafe.
type DoctorCommand struct{ asked }

// Help implements kong.HelpProvider.
func (*DoctorCommand) Help() string {
	return "The broker that runs looks at itself: at the settings that it was started with, the policy that is in force, its certificates, its Redis, and the modes and owners of its files. It changes nothing. The exit code is 0 if nothing is unsafe, 5 if something is, 6 if something could not be looked at for now, 7 if no broker runs. docs/security.md lists what is looked for."
}

// Run asks the broker, and prints what it says.
func (c *DoctorCommand) Run(p *console.Process) error {
	var r doctor.Report
	err := c.ask(p.Context, "/doctor", nil, func(from io.Reader) error { return json.NewDecoder(from).Decode(&r) })
	switch {
	case console.ExitCode(err) == console.ExitUnreachable:
		return console.Absent(fmt.Sprintf("no broker runs on %s, and doctor looks at one that does: start it, or name its settings file with --config, or its --data-dir. "+
			"Of a settings file alone `tokenbroker config check` says what is wrong", c.DataDir))
	case err != nil:
		return err
	case c.JSON():
		err = console.JSON(p.Stdout, r)
	default:
		err = c.print(p, r)
	}
	return errors.Join(err, verdict(r))
}

func (c *DoctorCommand) print(p *console.Process, r doctor.Report) error {
	for _, f := range r.Findings {
		console.Printf(p.Stdout, "%s, %s\n", string(f.Code), string(f.Severity))
		if err := c.Table(p.Stdout, "", [][]string{{"  is", f.Is}, {"  risk", f.Risk}, {"  do", f.Do}}); err != nil {
			return err
		}
	}
	for _, u := range r.Unseen {
		if err := c.Table(p.Stdout, "", [][]string{{"not looked at:", u.What + ": " + u.Why}}); err != nil {
			return err
		}
	}
	if len(r.Findings) > 0 {
		return nil
	}
	console.Println(p.Stdout, "nothing unsafe was found. Looked at:")
	for _, l := range r.Looked {
		console.Printf(p.Stdout, "  %s\n", l)
	}
	return nil
}

// verdict is how the command ends.
func verdict(r doctor.Report) error {
	if n := len(r.Findings); n > 0 {
		return status.Error(codes.FailedPrecondition, console.Counted(n, "finding"))
	}
	var later []string
	for _, u := range r.Unseen {
		if u.Again {
			later = append(later, u.What)
		}
	}
	if len(later) > 0 {
		return status.Error(codes.Unavailable, "could not look at "+strings.Join(later, ", ")+": ask again")
	}
	return nil
}
