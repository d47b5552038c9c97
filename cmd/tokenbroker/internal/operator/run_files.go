package operator

import (
	"errors"
	"os"
	"path/filepath"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// The environment variables that name the files of a tokenFiles.
const tokenVariable, headerVariable = "ACCESS_TOKEN_FILE", "HEADER_FILE"

// tokenFiles are a token in files of mode 0600, in a directory of mode 0700 that is nobody else's.
type tokenFiles struct{ dir string }

// newTokenFiles makes them below XDG_RUNTIME_DIR, which is in memory and the user's own, else below the directory for what is temporary.
func newTokenFiles(t *tokenbrokerv1.Token) (*tokenFiles, error) {
	dir, err := os.MkdirTemp(os.Getenv("XDG_RUNTIME_DIR"), "tokenbroker-run-")
	if err != nil {
		return nil, err
	}
	f := &tokenFiles{dir}
	if err := f.put(t); err != nil {
		f.remove()
		return nil, err
	}
	return f, nil
}

// put replaces what is in the files: whoever opens one finds either token whole.
func (f *tokenFiles) put(t *tokenbrokerv1.Token) error {
	return errors.Join(f.replace("token", t.GetAccessToken()), f.replace("header", headerLines(t)))
}

func (f *tokenFiles) replace(name, text string) (err error) {
	next, err := os.CreateTemp(f.dir, name+"-") // of mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(next.Name())
		}
	}()
	_, err = next.WriteString(text)
	if err := errors.Join(err, next.Close()); err != nil {
		return err
	}
	return os.Rename(next.Name(), filepath.Join(f.dir, name))
}

// environment tells a command where they are.
func (f *tokenFiles) environment() []string {
	return []string{tokenVariable + "=" + filepath.Join(f.dir, "token"), headerVariable + "=" + filepath.Join(f.dir, "header")}
}

func (f *tokenFiles) remove() { _ = os.RemoveAll(f.dir) }
