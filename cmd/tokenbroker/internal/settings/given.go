package settings

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/alecthomas/kong"
)

// What a setting is, as its field's tag type says. Every text, list and mapping is one of them.
const (
	givenType = "given" // a value that is left out rather than empty
	placeType = "place" // the same, and the path of a file, a directory or a socket
	pathType  = "path"  // a place that kong makes absolute
	offTag    = "off"   // the word for having none of it, where leaving it out is the default
)

// A given mapper reads a value that is left out rather than empty: an empty one would turn off what somebody believes to be on, such as a policy whose
// variable a script has lost.
type given struct {
	kong.Mapper
	place bool
}

// Decode implements kong.Mapper.
func (g given) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	if text, ok := ctx.Scan.Peek().Value.(string); ok {
		if isBlank(text) {
			return emptyOf(ctx.Value)
		}
		if g.place && !isPath(text) {
			return errPath
		}
	}
	if err := g.Mapper.Decode(ctx, target); err != nil {
		return err
	}
	off := ctx.Value.Tag.Get(offTag)
	if target.Kind() == reflect.Slice && off != "" && target.Len() == 1 && target.Index(0).String() == off {
		target.SetZero()
	}
	return nil
}

// byType are the mappers of the types above, by their names.
func byType(usual *kong.Registry) map[string]kong.Mapper {
	path := usual.ForNamedType(pathType, reflect.TypeFor[string]())
	return map[string]kong.Mapper{givenType: given{Mapper: ofKind{usual}}, placeType: given{ofKind{usual}, true}, pathType: given{path, true}}
}

// ofKind maps to whatever kind of value there is.
type ofKind struct{ *kong.Registry }

// Decode implements kong.Mapper. kong takes the type for that of the keys and values of a mapping, where there is one.
func (k ofKind) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	value, tag := *ctx.Value, *ctx.Value.Tag
	value.Tag, tag.Type = &tag, ""
	return k.ForType(target.Type()).Decode(&kong.DecodeContext{Value: &value, Scan: ctx.Scan}, target)
}

var (
	errEmpty = errors.New("it is empty: leave it out, or give it a value")
	errPath  = errors.New("it is no path: it begins or ends with a blank, or has a control character in it")
)

// emptyOf says what to do about a setting that is given and empty.
func emptyOf(v *kong.Value) error {
	if off := v.Tag.Get(offTag); off != "" {
		return fmt.Errorf("it is empty: leave it out for the default, or write %s where it is not wanted", off)
	}
	return errEmpty
}

func isBlank(text string) bool { return strings.TrimSpace(text) == "" }

// isPath reports whether a text can be meant as a path, and told about in a line.
func isPath(text string) bool {
	return strings.TrimSpace(text) == text && !strings.ContainsFunc(text, unicode.IsControl)
}

// Blanks are the environment variables that are set to nothing, by the flag that reads them, where that is a mistake: those of settings, and of the settings file.
type Blanks map[*kong.Flag][]string

// DropBlank makes a parser read no environment variable that is set to nothing, and says which those of settings are. For a command that has nothing to do
// with a broker of this machine no variable of a setting counts.
func DropBlank(k *kong.Kong, args []string) (Blanks, error) {
	if len(args) > 0 && slices.Contains(without, args[0]) {
		return nil, WithoutEnvironment(k, func(name string) bool { return isSetting(name) || dropped(name) })
	}
	blank := Blanks{}
	err := kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
		if f, ok := node.(*kong.Flag); ok {
			if of := slices.DeleteFunc(slices.Clone(f.Tag.Envs), func(name string) bool { return !isSetting(name) || !dropped(name) }); len(of) > 0 {
				blank[f] = of
			}
		}
		return next(nil)
	})
	if err != nil {
		return nil, err
	}
	return blank, WithoutEnvironment(k, dropped)
}

// Of are sentences about those that a command reads, and that no flag wins over, in order.
func (b Blanks) Of(c *kong.Context) []string {
	var out []string
	for f, names := range b {
		won := func(p *kong.Path) bool { return p.Flag == f && !p.Resolved }
		if !slices.Contains(c.Flags(), f) || slices.ContainsFunc(c.Path, won) {
			continue
		}
		for _, name := range names {
			out = append(out, fmt.Sprintf("the environment variable %s: %s", name, emptyOf(f.Value)))
		}
	}
	slices.Sort(out)
	return out
}
