package provider

import (
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

//go:embed catalog/*.yaml
var builtins embed.FS

// Origin says where a definition comes from.
type Origin int

// The origins.
const (
	Builtin Origin = iota
	File
	FileOverridingBuiltin
)

// An Entry is a definition as it is listed.
type Entry struct {
	Name, Title, Docs string
	Origin            Origin
	// Revision is a hash of what decides issuance.
	Revision string
	// Problems keep the file from being used; where a former version of it was good, that one is.
	Problems []Problem
	// Warnings are what is probably not meant in a file that is used.
	Warnings []Problem
	// Text is the definition as written; empty where it does not parse.
	Text string
}

// A Catalog holds the built-in definitions and a user's own. It implements broker.Upstream. Safe for concurrent use.
type Catalog struct {
	transport *transport.Transport
	dir       string
	log       *slog.Logger
	revision  atomic.Uint64
	reloaded  func()

	reload  sync.Mutex // one at a time
	mu      sync.RWMutex
	loaded  map[string]*definition
	entries map[string]Entry
	known   [32]byte // the files' fingerprint
}

// Load reads the built-in definitions and those in dir; empty: no others. A file that is wrong does not fail it: its entry
// says what is wrong. It fails when dir cannot be read.
func Load(t *transport.Transport, dir string) (*Catalog, error) {
	c := &Catalog{transport: t, dir: dir, log: slog.New(slog.DiscardHandler), reloaded: func() {}}
	return c, c.Reload()
}

// SetLog says where a reload tells what it found. Call it before the catalog is used.
func (c *Catalog) SetLog(l *slog.Logger) { c.log = l }

// OnReload says what is called after each reload; it must not wait. Call it before the catalog is used.
func (c *Catalog) OnReload(f func()) { c.reloaded = f }

// A source is a definition's file.
type source struct {
	file string
	text []byte
	user bool
	// wrong is why it is not even looked at; empty: nothing is.
	wrong string
}

func (s source) parse() (*definition, []Problem) {
	if s.wrong != "" {
		return nil, []Problem{{File: s.file, Message: s.wrong}}
	}
	return parse(s.file, s.text)
}

// Reload reads all files again. A file that became wrong keeps its former version, and its entry says so; a file that is gone
// takes its definition with it. It fails when the directory cannot be read, and nothing has changed then.
func (c *Catalog) Reload() error {
	c.reload.Lock()
	defer c.reload.Unlock()
	sources, err := c.sources()
	if err != nil {
		return err
	}
	c.mu.RLock()
	former := c.loaded
	c.mu.RUnlock()
	loaded, entries := map[string]*definition{}, map[string]Entry{}
	for _, s := range sources {
		// A file's name is its definition's: one that says another name takes nobody's place.
		name := strings.TrimSuffix(filepath.Base(s.file), filepath.Ext(s.file))
		there, taken := entries[name]
		d, found := s.parse()
		problems, warnings := yamldoc.Errors(found), yamldoc.Warnings(found)
		parses := len(problems) == 0
		if s.user && there.Origin == Builtin {
			problems = append(problems, clash(name, s, d, taken)...)
		} else if taken {
			problems = append(problems, Problem{File: s.file, Message: "the name " + name + " is another file's already; choose another"})
		}
		if len(problems) == 0 {
			d.transport, d.user, d.facts.Builtin = c.transport, s.user, !s.user
			loaded[name] = d
			entries[name] = Entry{Name: name, Title: d.title, Docs: d.docs, Origin: origin(s, taken), Revision: d.digest, Text: string(s.text), Warnings: warnings}
			for _, p := range warnings {
				c.log.Warn("definition used, with a warning", "provider", name, "problem", p.String())
			}
			continue
		}
		for _, p := range problems {
			c.log.Warn("definition not used", "problem", p.String())
		}
		e := Entry{Name: name, Origin: origin(s, taken)}
		if parses { // what does not is nobody's to read: it may be any file
			e.Text = string(s.text)
		}
		switch was := former[name]; {
		case taken && there.Origin != Builtin, taken && (was == nil || !was.user):
			e = there // what is there goes on being used
		case was != nil && s.user:
			loaded[name] = was
			e.Title, e.Docs, e.Revision = was.title, was.docs, was.digest
		}
		e.Problems = append(slices.Clone(e.Problems), problems...)
		entries[name] = e
	}
	c.mu.Lock()
	c.loaded, c.entries, c.known = loaded, entries, fingerprint(sources)
	c.mu.Unlock()
	c.revision.Add(1)
	c.reloaded()
	return nil
}

func origin(s source, taken bool) Origin {
	switch {
	case !s.user:
		return Builtin
	case taken:
		return FileOverridingBuiltin
	}
	return File
}

// clash: a built-in's name without override, and override without a built-in.
func clash(name string, s source, d *definition, builtin bool) []Problem {
	switch {
	case d == nil:
	case builtin && !d.override:
		return []Problem{{File: s.file, Message: "the name " + name + " is a built-in definition's: say override: true if this one is to take its place"}}
	case !builtin && d.override:
		return []Problem{{File: s.file, Message: "override: true, and there is no built-in definition of the name " + name + "; leave it out"}}
	}
	return nil
}

// sources reads all files: built-ins first, then the user's, by name.
func (c *Catalog) sources() ([]source, error) {
	var out []source
	files, err := fs.Glob(builtins, "catalog/*.yaml")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		text, err := builtins.ReadFile(f)
		if err != nil {
			return nil, err
		}
		out = append(out, source{file: f, text: text})
	}
	if c.dir == "" {
		return out, nil
	}
	user, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, err
	}
	for _, f := range user {
		if f.IsDir() || strings.HasPrefix(f.Name(), ".") {
			continue
		}
		s := source{file: filepath.Join(c.dir, f.Name()), user: true}
		switch filepath.Ext(f.Name()) {
		case ".yaml":
			large := &readfile.TooLarge{}
			switch s.text, err = readfile.Read(s.file, yamldoc.MostBytes); {
			case errors.Is(err, fs.ErrNotExist):
				continue // it went away meanwhile
			case errors.Is(err, readfile.ErrNotRegular), errors.As(err, &large):
				s.wrong = err.Error()
			case err != nil:
				s.wrong = "the file cannot be read"
			}
		case ".yml":
			s.wrong = "a definition's file is called " + strings.TrimSuffix(f.Name(), ".yml") + ".yaml"
		default:
			continue
		}
		out = append(out, s)
	}
	return out, nil
}

// Definition implements broker.Upstream.
func (c *Catalog) Definition(name string) (broker.Definition, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if d := c.loaded[name]; d != nil {
		return d, nil
	}
	f := &broker.Failure{Kind: broker.ProviderInvalid, Provider: name}
	switch _, wrong := c.entries[name]; {
	case wrong:
		f.Detail = "its file cannot be used: the broker's log says why, and so does `provider check`"
	case c.dir == "":
		f.Detail = "there is no definition " + name + ": set providers_dir to the directory that has its file"
	default:
		f.Detail = "there is no definition " + name + ": put its file back into providers_dir, or give the credential another provider"
	}
	return nil, f
}

// Revision implements broker.Upstream.
func (c *Catalog) Revision() uint64 { return c.revision.Load() }

// List returns all definitions, by name; those with problems too.
func (c *Catalog) List() []Entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]Entry, 0, len(c.entries))
	for _, e := range c.entries {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Check returns everything that is wrong with a definition's file, as one of a user's, and, where nothing is, what is probably not meant.
func Check(filename string, data []byte) []Problem {
	d, problems := parse(filename, data)
	if d == nil {
		return problems
	}
	_, err := builtins.Open("catalog/" + d.name + ".yaml")
	return append(problems, clash(d.name, source{file: filename}, d, err == nil)...)
}

// CheckDir is Check of all files that Load would read in a directory, and how many definitions they are. It fails when the directory cannot be read.
func CheckDir(dir string) (problems []Problem, definitions int, err error) {
	c, err := Load(nil, dir)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range c.List() {
		if e.Origin != Builtin || len(e.Problems) > 0 { // a file that takes no built-in's place is a problem of that one
			definitions++
		}
		problems = append(append(problems, e.Problems...), e.Warnings...)
	}
	sortProblems(problems)
	return problems, definitions, nil
}
