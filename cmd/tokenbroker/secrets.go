package main

import (
	"fmt"
	"io"
	"strings"

	"golang.org/x/term"
)

// secretFlags say where secrets come from: a file, standard input or a hidden prompt, and never the command line, which the
// shell's history and every user's process list show.
type secretFlags struct {
	Secret     []string `sep:"none" placeholder:"NAME=@FILE" help:"Read a secret input from a file; repeat for several."`
	SecretStdn string   `name:"secret-stdin" placeholder:"NAME" help:"Read this secret input from standard input."`
}

// read returns the secrets that the flags name.
func (f *secretFlags) read(p *process) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range f.Secret {
		name, from, ok := strings.Cut(s, "=")
		file, isFile := strings.CutPrefix(from, "@")
		if !ok || name == "" {
			// What stands here may be the secret itself: it is not repeated.
			return nil, badInput("--secret: write NAME=@FILE; a secret itself never stands on the command line")
		}
		if !isFile || file == "" {
			return nil, badInput("--secret %s=…: a secret never stands on the command line, where the shell's history and the process list show it; "+
				"write --secret %s=@FILE, --secret-stdin %s, or leave it out and be asked for it", name, name, name)
		}
		if _, twice := out[name]; twice || name == f.SecretStdn {
			return nil, badInput("secret %s is given twice", name)
		}
		v, err := readSecretFile(p, file)
		if err != nil {
			return nil, err
		}
		out[name] = v
	}
	if f.SecretStdn != "" {
		v, err := readSecretFile(p, "-")
		if err != nil {
			return nil, err
		}
		out[f.SecretStdn] = v
	}
	return out, nil
}

// canPrompt reports whether somebody is there to be asked.
func canPrompt(p *process) bool {
	return p.stdin != nil && term.IsTerminal(int(p.stdin.Fd()))
}

// prompt asks for a secret without showing what is typed.
func prompt(p *process, name string) (string, error) {
	fd := int(p.stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	printf(p.stderr, "%s (not shown): ", name)
	b, err := awaited(p, func() ([]byte, error) { return term.ReadPassword(fd) })
	printline(p.stderr)
	if err != nil {
		_ = term.Restore(fd, before) // an interrupted read has left the terminal mute
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return string(b), nil
}

// readSecretFile reads a secret from a file or, for -, from standard input. One final newline is not part of it.
func readSecretFile(p *process, name string) (string, error) {
	var b []byte
	var err error
	what := name
	if name == "-" {
		what = "standard input"
		b, err = awaited(p, func() ([]byte, error) { return io.ReadAll(io.LimitReader(p.stdin, secretMost+1)) })
	} else {
		b, err = readAtMost(name, secretMost)
	}
	if err != nil {
		return "", badInput("read a secret: %w", err)
	}
	if len(b) > secretMost {
		return "", badInput("%s is larger than %d bytes: is it the right one?", what, secretMost)
	}
	s := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if s == "" {
		return "", badInput("%s is empty", what)
	}
	return s, nil
}

// secretMost bounds a secret in bytes.
const secretMost = 64 << 10
