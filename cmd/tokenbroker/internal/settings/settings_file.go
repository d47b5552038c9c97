package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// groups are the first parts of flags that the settings file writes with a dot, or as a mapping.
var groups = []string{"upstream", "limits", "log", "redis", "audit", "keys", "traces"}

// fileVariable is the environment variable that names the settings file.
const fileVariable = prefix + "CONFIG"

// A File is what a settings file says. The zero value says nothing.
type File struct {
	// Name is where it lies; empty: there is none.
	Name string
	set  map[string]fileSetting // by flag
	// Listeners are what has no flag.
	Listeners Listeners
}

type fileSetting struct {
	value any // as kong reads it
	at    Position
}

// A Position in a file of the operator's; zero: in none.
type Position struct {
	file string
	yamldoc.Position
}

func (p Position) String() string { return fmt.Sprintf("%s:%d:%d", p.file, p.Line, p.Column) }

// Problem is something wrong with what stands there.
func (p Position) Problem(format string, args ...any) yamldoc.Problem {
	return yamldoc.Problem{File: p.file, Line: p.Line, Column: p.Column, Message: fmt.Sprintf(format, args...)}
}

// without are the commands that have nothing to do with a broker of this machine: they read no settings file, and no setting of the environment.
var without = []string{"demo", "config", "policy", "certs", "version", "help", "completion"}

// Named reads the file that --config or TOKENBROKER_CONFIG names, and everything that is wrong with it; the zero value: none is named. It fails if it cannot be
// read.
func Named(args []string) (f File, wrong []yamldoc.Problem, err error) {
	if len(args) == 0 || slices.Contains(without, args[0]) {
		return f, nil, nil
	}
	name := os.Getenv(fileVariable)
	for i, a := range args {
		if a == "--" { // the rest is another program's
			break
		}
		if v, ok := strings.CutPrefix(a, "--config="); ok {
			name = v
		} else if a == "--config" && i+1 < len(args) {
			name = args[i+1]
		}
	}
	if name == "" {
		return f, nil, nil
	}
	data, err := readfile.Read(name, yamldoc.MostBytes)
	if large := (&readfile.TooLarge{}); errors.As(err, &large) {
		return f, nil, console.BadInput("settings file %s: %w", name, err)
	}
	return readSettings(name, data, err)
}

// Resolver gives kong the values for which there is neither a flag nor an environment variable, and notes in used where they
// stand.
func (f File) Resolver(used map[string]Position) kong.Resolver {
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		v, ok := f.set[flag.Name]
		if !ok || slices.ContainsFunc(flag.Envs, func(name string) bool { return os.Getenv(name) != "" }) {
			return nil, nil //nolint:nilnil // the file says nothing about it, or the environment wins
		}
		used[flag.Name] = v.at
		return v.value, nil
	})
}

// WithoutEnvironment makes a parser read no environment variable for which drop is true.
func WithoutEnvironment(k *kong.Kong, drop func(name string) bool) error {
	return kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
		if f, ok := node.(*kong.Flag); ok {
			f.Tag.Envs = slices.DeleteFunc(slices.Clone(f.Tag.Envs), drop)
			f.Envs = f.Tag.Envs
		}
		return next(nil)
	})
}

// dropped reports whether an environment variable is not handed on to kong: it is set to nothing.
func dropped(name string) bool {
	v, set := os.LookupEnv(name)
	return set && (v == "" || isBlank(v) && isSetting(name))
}

// isSetting reports whether an environment variable is that of a setting, or names the file of them.
func isSetting(name string) bool { return slices.Contains(variables(), name) }

// variables are the environment variables of settings, and the one that names the file of them.
func variables() []string {
	out := []string{fileVariable}
	for _, v := range knownSettings() {
		out = append(out, v.Tag.Envs...)
	}
	return out
}

// knownSettings are the settings by flag, with what kind of value each has. Nobody changes them.
var knownSettings = sync.OnceValue(func() map[string]*kong.Value {
	var s struct{ Settings }
	k := kong.Must(&s, Options("d"), kong.Exit(func(int) {}))
	out := map[string]*kong.Value{}
	for _, f := range k.Model.Flags {
		if f.Name != "help" {
			out[f.Name] = f.Value
		}
	}
	return out
})

// readSettings reads a settings file, from what is in it or why that cannot be read: what it says, and what is wrong with it, in order. It fails
// if it cannot be read.
func readSettings(name string, data []byte, err error) (f File, wrong []yamldoc.Problem, _ error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, nil, console.BadInput("settings file %s does not exist", name)
	case errors.Is(err, readfile.ErrNotRegular):
		return f, nil, console.BadInput("settings file %s: %w", name, err)
	case err != nil:
		return f, nil, console.BadInput("read the settings file: %w", err)
	}
	return parseSettings(name, data)
}

// parseSettings is readSettings of a file's content.
func parseSettings(name string, data []byte) (f File, wrong []yamldoc.Problem, err error) {
	r := &settingsReader{Reader: yamldoc.Reader{File: name}, known: knownSettings(), out: File{Name: name, set: map[string]fileSetting{}}}
	if root := r.Document(data); root != nil {
		r.mapping(root, "")
	} else if len(r.Problems) > 0 {
		return f, nil, Together(r.Problems)
	}
	yamldoc.Sort(r.Problems)
	return r.out, r.Problems, nil
}

type settingsReader struct {
	yamldoc.Reader
	known map[string]*kong.Value
	out   File
}

// wrong notes what is wrong with a setting. The value is not quoted: somebody may have put a secret there.
func (r *settingsReader) wrong(n *yaml.Node, word, format string, args ...any) {
	r.Wrong(yamldoc.At(n), "setting %s: %s", word, fmt.Sprintf(format, args...))
	r.Problems[len(r.Problems)-1].Word = word
}

func (r *settingsReader) mapping(n *yaml.Node, prefix string) {
	if n.Kind != yaml.MappingNode {
		r.Wrong(yamldoc.At(n), "settings are names with values")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		word := k.Value
		if prefix != "" {
			word = prefix + "." + k.Value
		}
		flag := FlagOf(word)
		if known, ok := r.known[flag]; ok && !strings.Contains(k.Value, "-") {
			r.setting(k, v, word, known)
			continue
		}
		switch {
		case prefix != "":
		case k.Value == Services && r.out.Listeners.Services == nil:
			r.out.Listeners.Services = r.listener(v, Services)
			continue
		case k.Value == Operators && r.out.Listeners.Operators == nil:
			r.out.Listeners.Operators = r.listener(v, Operators)
			continue
		case k.Value == "trust" && r.out.Listeners.Trust == nil:
			r.out.Listeners.Trust = r.trusts(v)
			continue
		case k.Value == "issuers" && r.out.Listeners.Issuers == nil:
			r.out.Listeners.Issuers = r.issuers(v)
			continue
		case k.Value == "proxies" && r.out.Listeners.Proxies == nil:
			r.out.Listeners.Proxies = r.proxies(v)
			continue
		case slices.Contains(ofListeners, k.Value):
			r.Wrong(yamldoc.At(k), "setting %s: it is there twice", k.Value)
			continue
		}
		if prefix == "" && slices.Contains(groups, flag) {
			r.mapping(v, word)
			continue
		}
		r.Unknown(yamldoc.At(k), fmt.Sprintf("unknown setting %q", yamldoc.Clip(word)), word, r.words())
	}
}

// ofListeners are the words of Listeners.
var ofListeners = []string{Services, Operators, "trust", "issuers", "proxies"}

// words are the settings as they are written in the file.
func (r *settingsReader) words() []string {
	out := slices.Clone(ofListeners)
	for name := range r.known {
		word := strings.ReplaceAll(name, "-", "_")
		for _, g := range groups {
			if rest, ok := strings.CutPrefix(word, g+"_"); ok {
				word = g + "." + rest
			}
		}
		out = append(out, word)
	}
	slices.Sort(out)
	return out
}

// setting reads one value, and keeps it if it is of its kind.
func (r *settingsReader) setting(k, v *yaml.Node, word string, known *kong.Value) {
	if first, twice := r.out.set[known.Name]; twice {
		r.wrong(k, word, "it is there twice, first at %s", first.at)
		return
	}
	before := len(r.Problems)
	value := r.value(v, word, known)
	if len(r.Problems) > before {
		return
	}
	if why := kindOf(known, value); why != "" {
		r.wrong(v, word, "%s", why)
		return
	}
	r.out.set[known.Name] = fileSetting{value: value, at: Position{r.File, yamldoc.At(v)}}
}

// value makes of a node what kong reads.
func (r *settingsReader) value(n *yaml.Node, word string, known *kong.Value) any {
	switch n.Kind {
	case yaml.SequenceNode:
		if !known.IsSlice() {
			r.wrong(n, word, "one value is wanted, not a list")
			return nil
		}
		out := []any{}
		for _, c := range n.Content {
			text := r.text(c, word, known)
			if why := kindOf(known, text); why != "" {
				r.wrong(c, word, "%s", why)
			}
			out = append(out, text)
		}
		return out
	case yaml.MappingNode:
		if !known.IsMap() {
			r.wrong(n, word, "one value is wanted, not a mapping")
			return nil
		}
		out := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := r.text(n.Content[i], word, known)
			if _, twice := out[name]; twice {
				r.wrong(n.Content[i], word, "this name is there twice")
			}
			out[name] = r.text(n.Content[i+1], word, known)
		}
		return out
	default:
		if known.IsMap() {
			r.wrong(n, word, "names with values are wanted")
			return nil
		}
		return r.text(n, word, known)
	}
}

// text is one value. Where a text is wanted, such as a path, a number is a mistake.
func (r *settingsReader) text(n *yaml.Node, word string, known *kong.Value) string {
	switch {
	case n.Kind != yaml.ScalarNode, n.Tag == "!!null":
		r.wrong(n, word, "a value is wanted")
	case n.Tag != "!!str" && wantsText(known):
		r.wrong(n, word, "a text is wanted, not %s; if it is meant, write it in quotes", yamldoc.KindName(n))
	}
	return n.Value
}

// wantsText reports whether a setting is a text, or a list of them.
func wantsText(known *kong.Value) bool {
	t := known.Target.Type()
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t.Kind() == reflect.String
}
