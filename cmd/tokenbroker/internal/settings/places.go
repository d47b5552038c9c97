package settings

import (
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
)

// places are the paths of all files, sockets and directories that the settings name, but for the audit log, and of those that the broker keeps in its data
// directory. A field whose name ends in File or Dir is one, and so is an address unix:///path or file:///path, wherever it is, so that nobody has to think of a
// new one here.
func (s *Settings) places() []string {
	out := []string{s.KeyPath(), filepath.Join(s.DataDir, DataFile)}
	each("", reflect.ValueOf(*s), func(name, value string) {
		u, err := url.Parse(value)
		switch {
		case name == "AuditFile" || name == "KeyFile" && value == "auto":
		case strings.HasSuffix(name, "File"), strings.HasSuffix(name, "Dir"):
			out = append(out, value)
		case err == nil && (u.Scheme == "unix" || u.Scheme == "file"):
			out = append(out, u.Path)
		}
	})
	return append(out, s.sockets()...)
}

// Files hands over the path of each file or directory that the settings name, with the name of its field.
func (s *Settings) Files(do func(field, path string)) {
	each("", reflect.ValueOf(*s), func(field, value string) {
		if (strings.HasSuffix(field, "File") || strings.HasSuffix(field, "Dir")) && (field != "KeyFile" || value != "auto") {
			do(field, value)
		}
	})
}

// Sockets are the paths of the sockets on which the broker answers.
func (s *Settings) Sockets() []string { return s.sockets() }

// Within reports whether a path leads to a directory, or below it; links are followed.
func Within(path, dir string) bool { return within(settled(path), settled(dir)) }

// sockets are the paths of the sockets on which the broker answers.
func (s *Settings) sockets() []string {
	out := []string{filepath.Join(s.DataDir, AdminSocket)}
	if path := s.SocketPath(); path != "" {
		out = append(out, path)
	}
	return out
}

// each hands over every text that is set in a value, or below it, by the name of its field.
func each(name string, in reflect.Value, do func(field, value string)) {
	switch in.Kind() {
	case reflect.String:
		if in.Len() > 0 {
			do(name, in.String())
		}
	case reflect.Pointer:
		if !in.IsNil() {
			each(name, in.Elem(), do)
		}
	case reflect.Slice:
		for i := range in.Len() {
			each(name, in.Index(i), do)
		}
	case reflect.Map:
		for _, key := range in.MapKeys() {
			each(name, in.MapIndex(key), do)
		}
	case reflect.Struct:
		for i := range in.NumField() {
			if f := in.Type().Field(i); f.IsExported() {
				each(f.Name, in.Field(i), do)
			}
		}
	default:
	}
}

// isOwn reports whether a file is one of the settings' places, or would be in the way of one: by its path, by links that lead to it, or as the same file under
// another name. What is in the directory of definitions is the definitions'.
func (s *Settings) isOwn(path string) bool {
	at := settled(path)
	for _, own := range s.places() {
		if own != "" && (within(settled(own), at) || same(own, path)) {
			return true
		}
	}
	if s.ProvidersDir == "" {
		return false
	}
	if within(at, settled(s.ProvidersDir)) {
		return true
	}
	definitions, _ := os.ReadDir(s.ProvidersDir) // what cannot be read is a problem of that setting
	for _, d := range definitions {
		if same(filepath.Join(s.ProvidersDir, d.Name()), path) {
			return true
		}
	}
	return false
}

// same reports whether there is one file at both paths.
func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
