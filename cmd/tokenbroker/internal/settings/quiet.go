package settings

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// forms are what is to be written, by the kind of value. kong's own messages quote what was written, and somebody may have put a secret there.
var forms = []struct {
	of   any
	form string
}{
	{time.Duration(0), "a duration, as 30s, 5m or 1h30m"}, {netip.Prefix{}, "a range of addresses, as 10.1.0.0/16"}, {map[string]string{}, "NAME=VALUE"},
	{false, "true or false"}, {float64(0), "a number, as 0.01"}, {0, "a whole number, as 500"}, {uint32(0), "a whole number, as 500, not negative"},
}

// A quiet mapper says what is to be written, and not what was.
type quiet struct {
	kong.Mapper
	form string
	flag bool
}

// wholeNumber is how one is written, in a file and elsewhere: kong alone would take 010 for 8, and YAML for 10.
var wholeNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

// Decode implements kong.Mapper.
func (q quiet) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	if target.CanInt() && target.Type().PkgPath() == "" || target.CanUint() {
		if !wholeNumber.MatchString(fmt.Sprint(ctx.Scan.Peek().Value)) {
			return errors.New("write " + q.form)
		}
	}
	if q.Mapper.Decode(ctx, target) != nil {
		return errors.New("write " + q.form)
	}
	return nil
}

// IsBool implements kong.BoolMapper: whether a flag stands without a value.
func (q quiet) IsBool() bool { return q.flag }

// readQuietly makes a parser say what is to be written.
func readQuietly(k *kong.Kong) error {
	usual, own := kong.NewRegistry().RegisterDefaults(), kong.NewRegistry().RegisterDefaults()
	for _, f := range forms {
		typ := reflect.TypeOf(f.of)
		q := quiet{usual.ForType(typ), f.form, typ.Kind() == reflect.Bool}
		option := kong.KindMapper(typ.Kind(), q)
		if typ.PkgPath() != "" {
			option = kong.TypeMapper(typ, q)
			own.RegisterType(typ, q)
		} else {
			own.RegisterKind(typ.Kind(), q)
		}
		if err := option.Apply(k); err != nil {
			return err
		}
	}
	for name, m := range byType(own) {
		if err := kong.NamedMapper(name, m).Apply(k); err != nil {
			return err
		}
	}
	return nil
}

// kindOf says why a value is not of the setting's kind; empty: it is.
func kindOf(known *kong.Value, value any) string {
	target := reflect.New(known.Target.Type()).Elem()
	scan := kong.Scan().PushTyped(value, kong.FlagValueToken)
	if err := known.Mapper.Decode(&kong.DecodeContext{Value: known, Scan: scan}, target); err != nil {
		return err.Error()
	}
	if text, ok := value.(string); ok && known.Enum != "" && !slices.Contains(known.EnumSlice(), text) {
		return chosenOf(known)
	}
	return ""
}

func chosenOf(v *kong.Value) string {
	some := slices.DeleteFunc(v.EnumSlice(), func(s string) bool { return s == "" })
	return "write one of " + strings.Join(some, ", ")
}

// CheckEnvironment says which environment variable has a value of another kind than its setting's; kong would quote it. One that is to be chosen
// is left to whoever chooses: a flag may win over it.
func CheckEnvironment(model *kong.Application) error {
	var wrong []error
	seen := map[string]bool{}
	err := kong.Visit(model, func(node kong.Visitable, next kong.Next) error {
		if f, ok := node.(*kong.Flag); ok {
			for _, name := range f.Tag.Envs {
				value := os.Getenv(name)
				if value == "" {
					continue
				}
				if why := kindOf(f.Value, value); why != "" && f.Enum == "" && !seen[name] {
					seen[name] = true
					wrong = append(wrong, fmt.Errorf("the environment variable %s: %s", name, why))
				}
			}
		}
		return next(nil)
	})
	return errors.Join(append(wrong, err)...)
}

// WrongChoice is the error of a command line on which a flag, wherever its value comes from, is none of those that it can be; nil: there is none.
func WrongChoice(c *kong.Context) error {
	for _, f := range c.Flags() {
		if text, ok := c.FlagValue(f).(string); ok && f.Enum != "" && text != "" && !slices.Contains(f.EnumSlice(), text) {
			return fmt.Errorf("--%s: %s", f.Name, chosenOf(f.Value))
		}
	}
	return nil
}
