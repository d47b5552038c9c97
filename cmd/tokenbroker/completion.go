package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`

	model *kong.Application
}

// Help implements kong.HelpProvider.
func (*completionCommand) Help() string {
	return `bash: source <(tokenbroker completion bash)
zsh: source <(tokenbroker completion zsh), after compinit
fish: tokenbroker completion fish | source`
}

// Run prints a script that knows all commands and flags. Names it asks the broker for, through the command names.
func (c *completionCommand) Run(p *console.Process) error { //nolint:unparam // kong wants one
	var all []completed
	collect(c.model.Node, "", &all)
	map[string]func(io.Writer, []completed){"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Shell](p.Stdout, all)
	return nil
}

// A completed command is what may come after it.
type completed struct {
	path     string // empty: the program itself
	commands []*kong.Node
	flags    []*kong.Flag
	names    string // of what the first argument is the name, as the command names has it; empty: of nothing there is a list of
}

func collect(n *kong.Node, path string, all *[]completed) {
	c := completed{path: path}
	for _, child := range n.Children {
		if !child.Hidden {
			c.commands = append(c.commands, child)
		}
	}
	for _, group := range n.AllFlags(true) {
		c.flags = append(c.flags, group...)
	}
	if len(n.Positional) > 0 {
		c.names = n.Positional[0].Tag.Get("names")
	}
	*all = append(*all, c)
	for _, child := range c.commands {
		collect(child, strings.TrimSpace(path+" "+child.Name), all)
	}
}

// words are what may follow.
func (c completed) words() string {
	var out []string
	for _, n := range c.commands {
		out = append(out, n.Name)
	}
	for _, f := range c.flags {
		out = append(out, "--"+f.Name)
	}
	return strings.Join(out, " ")
}

// paths are the patterns by which a shell finds out which command it is in: the command so far, and the next word.
func paths(all []completed) string {
	var out []string
	for _, c := range all {
		for _, n := range c.commands {
			out = append(out, fmt.Sprintf("%q", c.path+" "+n.Name))
		}
	}
	return strings.Join(out, "|")
}

// kindCases are the patterns by which a shell finds out of what the names are that may stand there: the command and the word before.
func kindCases(all []completed) string {
	var out strings.Builder
	for _, c := range all {
		for _, f := range c.flags {
			if kind := f.Tag.Get("names"); kind != "" {
				fmt.Fprintf(&out, "    %q) kind=%s ;;\n", c.path+" --"+f.Name, kind)
			}
		}
		if c.names != "" {
			fmt.Fprintf(&out, "    %q*) kind=%s ;;\n", c.path+" ", c.names)
		}
	}
	return out.String()
}

func bashScript(w io.Writer, all []completed) {
	console.Printf(w, `_tokenbroker() {
  local at="" word words="" kind=""
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$at $word" in
      %s) at="${at:+$at }$word" ;;
    esac
  done
  case "$at" in
`, paths(all))
	for _, c := range all {
		console.Printf(w, "    %q) words=%q ;;\n", c.path, c.words())
	}
	console.Printf(w, `  esac
  case "$at ${COMP_WORDS[COMP_CWORD-1]}" in
%s  esac
  word="${COMP_WORDS[COMP_CWORD]}"
  if [[ -n "$kind" && "$word" != -* ]]; then
    words="$words $("${COMP_WORDS[0]}" names "$kind" 2>/dev/null </dev/null)"
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _tokenbroker tokenbroker
`, kindCases(all))
}

func zshScript(w io.Writer, all []completed) {
	console.Printf(w, `#compdef tokenbroker
_tokenbroker() {
  local at="" word kind=""
  for word in ${words[2,CURRENT-1]}; do
    case "$at $word" in
      %s) at="${at:+$at }$word" ;;
    esac
  done
  case "$at" in
`, paths(all))
	for _, c := range all {
		console.Printf(w, "    %q) compadd -- %s ;;\n", c.path, c.words())
	}
	console.Printf(w, `  esac
  case "$at ${words[CURRENT-1]}" in
%s  esac
  if [[ -n "$kind" && "${words[CURRENT]}" != -* ]]; then
    compadd -- ${(f)"$("${(Q)words[1]}" names "$kind" 2>/dev/null </dev/null)"}
  fi
  _files
}
compdef _tokenbroker tokenbroker
`, kindCases(all))
}

func fishScript(w io.Writer, all []completed) {
	console.Printf(w, `function __tokenbroker_at
  set -l at ""
  for word in (commandline -opc)[2..]
    switch "$at $word"
      case %s
        set at (string trim "$at $word")
    end
  end
  test "$at" = "$argv[1]"
end
`, strings.ReplaceAll(paths(all), "|", " "))
	const ask = " -f -a '(tokenbroker names %s 2>/dev/null </dev/null)'"
	for _, c := range all {
		for _, n := range c.commands {
			console.Printf(w, "complete -c tokenbroker -n '__tokenbroker_at \"%s\"' -f -a %s -d %s\n", c.path, n.Name, fishText(n.Help))
		}
		if c.names != "" {
			console.Printf(w, "complete -c tokenbroker -n '__tokenbroker_at \"%s\"'"+ask+"\n", c.path, c.names)
		}
		for _, f := range c.flags {
			short, value := "", ""
			if f.Short != 0 {
				short = " -s " + string(f.Short)
			}
			if !f.IsBool() {
				value = " -r"
			}
			if kind := f.Tag.Get("names"); kind != "" {
				value += fmt.Sprintf(ask, kind)
			}
			console.Printf(w, "complete -c tokenbroker -n '__tokenbroker_at \"%s\"' -l %s%s%s -d %s\n", c.path, f.Name, short, value, fishText(f.Help))
		}
	}
}

// fishText is a text as fish quotes it: the first sentence of it.
func fishText(s string) string {
	s, _, _ = strings.Cut(s, ". ")
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
