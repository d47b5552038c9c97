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
	return `Where the shell reads its settings:

  source <(tokenbroker completion bash)   # bash
  source <(tokenbroker completion zsh)    # zsh, after compinit
  tokenbroker completion fish | source    # fish`
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
	choices  string // what the first argument is one of; empty: anything
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
		c.names, c.choices = n.Positional[0].Tag.Get("names"), chosen(n.Positional[0].Enum)
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

// kindCases are the patterns by which a shell finds out of what the names are that may stand there: the command and the word before. Where a flag
// wants a value that is no name, the kind is value.
func kindCases(all []completed) string {
	var out strings.Builder
	for _, c := range all {
		for _, f := range c.flags {
			is := fmt.Sprintf("%q", c.path+" --"+f.Name)
			if f.Short != 0 {
				is += fmt.Sprintf("|%q", c.path+" -"+string(f.Short))
			}
			switch kind := f.Tag.Get("names"); {
			case kind != "":
				fmt.Fprintf(&out, "    %s) kind=%s ;;\n", is, kind)
			case !f.IsBool(): // a value is wanted, which nobody knows but for a choice
				fmt.Fprintf(&out, "    %s) kind=value words=%q ;;\n", is, chosen(f.Enum))
			}
		}
		switch {
		case c.names != "":
			fmt.Fprintf(&out, "    %q*) kind=%s ;;\n", c.path+" ", c.names)
		case c.choices != "":
			fmt.Fprintf(&out, "    %q) kind=value words=%q ;;\n", c.path+" "+lastOf(c.path), c.choices)
		}
	}
	return out.String()
}

func bashScript(w io.Writer, all []completed) {
	console.Printf(w, `_tokenbroker() {
  local at="" word words="" kind="" value i where=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    word="${COMP_WORDS[i]}"
    case "$word" in
      --config|--data-dir|--address)
        value="${COMP_WORDS[i+1]}"
        [[ "$value" == "=" ]] && value="${COMP_WORDS[i+2]}"
        where+=("$word=${value/#\~/$HOME}") ;;
    esac
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
  if [[ -n "$kind" && "$kind" != value && "$word" != -* ]]; then
    words="$words $("${COMP_WORDS[0]}" names "$kind" "${where[@]}" 2>/dev/null </dev/null)"
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _tokenbroker tokenbroker
`, kindCases(all))
}

func zshScript(w io.Writer, all []completed) {
	console.Printf(w, `#compdef tokenbroker
_tokenbroker() {
  local at="" word kind="" choices="" i where=()
  for ((i = 2; i < CURRENT; i++)); do
    word="${words[i]}"
    case "$word" in
      --config=*|--data-dir=*|--address=*) where+=("${(Q)word}") ;;
      --config|--data-dir|--address) where+=("$word=${${(Q)words[i+1]}/#\~/$HOME}") ;;
    esac
    case "$at $word" in
      %s) at="${at:+$at }$word" ;;
    esac
  done
  case "$at ${words[CURRENT-1]}" in
%s  esac
  if [[ "$kind" == value ]]; then
    [[ -n "$choices" ]] && compadd -- ${=choices} || _files
    return
  fi
  case "$at" in
`, paths(all), strings.ReplaceAll(kindCases(all), " words=", " choices="))
	for _, c := range all {
		console.Printf(w, "    %q) compadd -- %s ;;\n", c.path, c.words())
	}
	console.Printf(w, `  esac
  if [[ -n "$kind" && "${words[CURRENT]}" != -* ]]; then
    compadd -- ${(f)"$("${(Q)words[1]}" names "$kind" "${where[@]}" 2>/dev/null </dev/null)"}
  fi
  _files
}
compdef _tokenbroker tokenbroker
`)
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
function __tokenbroker_where
  set -l all (commandline -opc)
  for i in (seq 2 (count $all))
    switch $all[$i]
      case '--config=*' '--data-dir=*' '--address=*'
        printf '%%s\n' $all[$i]
      case --config --data-dir --address
        set -l next (math $i + 1)
        test $next -le (count $all); and printf '%%s=%%s\n' $all[$i] $all[$next]
    end
  end
end
`, strings.ReplaceAll(paths(all), "|", " "))
	const ask = " -f -a '(tokenbroker names %s (__tokenbroker_where) 2>/dev/null </dev/null)'"
	for _, c := range all {
		for _, n := range c.commands {
			console.Printf(w, "complete -c tokenbroker -n '__tokenbroker_at \"%s\"' -f -a %s -d %s\n", c.path, n.Name, fishText(n.Help))
		}
		if c.names != "" {
			console.Printf(w, "complete -c tokenbroker -n '__tokenbroker_at \"%s\"'"+ask+"\n", c.path, c.names)
		}
		if c.choices != "" {
			console.Printf(w, "complete -c tokenbroker -n '__tokenbroker_at \"%s\"' -f -a %s\n", c.path, fishText(c.choices))
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
			} else if f.Enum != "" {
				value += " -f -a " + fishText(chosen(f.Enum))
			}
			console.Printf(w, "complete -c tokenbroker -n '__tokenbroker_at \"%s\"' -l %s%s%s -d %s\n", c.path, f.Name, short, value, fishText(f.Help))
		}
	}
}

// chosen are the values of an enum, as a shell has words.
func chosen(enum string) string { return strings.TrimSpace(strings.ReplaceAll(enum, ",", " ")) }

// lastOf is the last word of a command: what stands before its first argument.
func lastOf(path string) string { return path[strings.LastIndex(path, " ")+1:] }

// fishText is a text as fish quotes it: the first sentence of it.
func fishText(s string) string {
	s, _, _ = strings.Cut(s, ". ")
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
