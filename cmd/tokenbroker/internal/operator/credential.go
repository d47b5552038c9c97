package operator

import (
	"errors"
	"fmt"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

// CredentialCommands look after credentials.
type CredentialCommands struct {
	Create       credentialCreateCommand `cmd:"" help:"Store a new credential."`
	Get          credentialGetCommand    `cmd:"" help:"Show one, without its secrets."`
	List         credentialListCommand   `cmd:"" help:"Show all, or those that a filter chooses."`
	Update       credentialUpdateCommand `cmd:"" help:"Change what is given; everything else stays."`
	Delete       credentialDeleteCommand `cmd:"" help:"Delete one with its tokens and refresh tokens."`
	RotateSecret credentialRotateCommand `cmd:"" help:"Set a new secret; the former stays until it is retired, for where the upstream may refuse the new one."`
	RetireSecret credentialRetireCommand `cmd:"" help:"Forget the former secret."`
	Accept       credentialAcceptCommand `cmd:"" help:"Let held credentials go where their definition sends them now."`
	Test         credentialTestCommand   `cmd:"" help:"Make one real exchange, whatever is remembered."`
	Status       credentialStatusCommand `cmd:"" help:"Show how it is doing and what to do about it."`
	Apply        credentialApplyCommand  `cmd:"" help:"Bring credentials in line with the files."`
}

type credentialFlags struct {
	Input           []string `sep:"none" placeholder:"NAME=VALUE" help:"An input that is not secret; repeat for several."`
	DefaultScope    []string `sep:"none" help:"A scope for callers who name none; repeat for several."`
	DefaultAudience string   `help:"The audience for callers who name none."`
	Label           pairs    `sep:"none" placeholder:"KEY=VALUE" help:"A label; repeat for several."`
	secretFlags
}

// inputs reads NAME=VALUE.
func (f *credentialFlags) inputs() (map[string]string, error) {
	out := map[string]string{}
	for _, s := range f.Input {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, console.BadInput("--input: write NAME=VALUE")
		}
		if _, twice := out[name]; twice {
			return nil, console.BadInput("input %s is given twice", name)
		}
		if !isText(value) {
			return nil, console.BadInput("input %s is %w", name, errNotText)
		}
		out[name] = value
	}
	return out, nil
}

// pairs are NAME=VALUE flags. A name that is given twice is a mistake: one of the values would be lost.
type pairs map[string]string

// Decode implements kong.MapperValue.
func (p *pairs) Decode(d *kong.DecodeContext) error {
	var text string
	if err := d.Scan.PopValueInto("NAME=VALUE", &text); err != nil {
		return err
	}
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return errors.New("write NAME=VALUE")
	}
	if _, twice := (*p)[name]; twice {
		return fmt.Errorf("%s is given twice", name)
	}
	if *p == nil {
		*p = pairs{}
	}
	(*p)[name] = value
	return nil
}
