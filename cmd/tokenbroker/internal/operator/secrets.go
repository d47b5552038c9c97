package operator

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// secretFlags say where secrets come from: a file, standard input or a hidden prompt, and never the command line, which the
// shell's history and every user's process list show.
type secretFlags struct {
	Secret     []string `sep:"none" placeholder:"NAME=@FILE" help:"Read a secret input from a file; repeat for several."`
	SecretStdn string   `name:"secret-stdin" placeholder:"NAME" help:"Read this secret input from standard input."`
}

// read returns the secrets that the flags name.
func (f *secretFlags) read(p *console.Process) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range f.Secret {
		name, from, ok := strings.Cut(s, "=")
		file, isFile := strings.CutPrefix(from, "@")
		if !ok || name == "" {
			// What stands here may be the secret itself: it is not repeated.
			return nil, console.BadInput("--secret: write NAME=@FILE; a secret itself never stands on the command line")
		}
		if !isFile || file == "" {
			return nil, console.BadInput("--secret %s=…: a secret never stands on the command line, where the shell's history and the process list show it; "+
				"write --secret %s=@FILE, --secret-stdin %s, or leave it out and be asked for it", name, name, name)
		}
		if _, twice := out[name]; twice || name == f.SecretStdn {
			return nil, console.BadInput("secret %s is given twice", name)
		}
		v, err := readSecretFile(p, file)
		if err != nil {
			return nil, console.BadInput("secret %s: %w", name, err)
		}
		warnAboutBlanks(p, name, v)
		out[name] = v
	}
	if f.SecretStdn != "" {
		v, err := readSecretFile(p, "-")
		if err != nil {
			return nil, console.BadInput("secret %s: %w", f.SecretStdn, err)
		}
		warnAboutBlanks(p, f.SecretStdn, v)
		out[f.SecretStdn] = v
	}
	return out, nil
}

// warnAboutBlanks says that a secret has blanks or line breaks at an end, which are sent with it: an editor may have put them there.
func warnAboutBlanks(p *console.Process, name, v string) {
	if strings.TrimSpace(v) != v {
		console.Printf(p.Stderr, "tokenbroker: warning: secret %s begins or ends with blanks or empty lines, which are part of it: is that meant?\n", name)
	}
}

// canPrompt reports whether somebody is there to be asked.
func canPrompt(p *console.Process) bool {
	return p.Stdin != nil && term.IsTerminal(int(p.Stdin.Fd()))
}

// confirmed asks a question whose answer is yes or no. Where nobody is there to be asked, it fails.
func confirmed(p *console.Process, question string) (bool, error) {
	if !canPrompt(p) {
		return false, console.BadInput("%s There is no terminal to ask at: say --yes", question)
	}
	console.Printf(p.Stderr, "%s Type yes: ", question)
	line, err := console.Awaited(p, func() (string, error) { return bufio.NewReader(p.Stdin).ReadString('\n') })
	return err == nil && strings.TrimSpace(line) == "yes", nil
}

// prompt asks for a secret without showing what is typed.
func prompt(p *console.Process, name string) (string, error) {
	fd := int(p.Stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	console.Printf(p.Stderr, "%s (not shown): ", name)
	b, err := console.Awaited(p, func() ([]byte, error) { return term.ReadPassword(fd) })
	console.Println(p.Stderr)
	if err != nil {
		_ = term.Restore(fd, before) // an interrupted read has left the terminal mute
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	if !isText(string(b)) {
		return "", console.BadInput("secret %s: what was typed is %w", name, errNotText)
	}
	return string(b), nil
}

// isText reports whether a value is UTF-8. The character that stands for bytes that were not counts as none.
func isText(s string) bool { return !strings.ContainsRune(s, utf8.RuneError) }

var errNotText = errors.New("no text in UTF-8, and is sent as text: write it in base64, hex or PEM, as the provider wants it")

// readSecretFile reads a secret from a file that the command line names or, for -, from standard input.
func readSecretFile(p *console.Process, name string) (string, error) {
	b, err := console.ReadAtMost(p, name, secretMost)
	if err != nil {
		return "", console.BadInput("read a secret: %w", err)
	}
	if name == "-" {
		name = "standard input"
	}
	return secretText(name, b)
}

// readReference reads a secret from a file that another file names, which is a regular one: nobody is there who would write a pipe.
func readReference(name string) (string, error) {
	b, err := readfile.Read(name, secretMost)
	var large *readfile.TooLarge
	switch {
	case errors.As(err, &large):
		return "", tooLarge(name)
	case errors.Is(err, readfile.ErrNotRegular):
		return "", console.BadInput("read a secret: %s: %w", name, err)
	case err != nil:
		return "", console.BadInput("read a secret: %w", err)
	}
	return secretText(name, b)
}

// secretText is the secret that a file holds. One final newline is not part of it.
func secretText(what string, b []byte) (string, error) {
	if len(b) > secretMost {
		return "", tooLarge(what)
	}
	s := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if s == "" {
		return "", console.BadInput("%s is empty", what)
	}
	if !isText(s) {
		return "", console.BadInput("%s is %w", what, errNotText)
	}
	return s, nil
}

func tooLarge(what string) error {
	return console.BadInput("%s is larger than %d bytes: is it the right one?", what, secretMost)
}

// secretMost bounds a secret in bytes.
const secretMost = 64 << 10
