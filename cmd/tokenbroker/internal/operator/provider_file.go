package operator

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/provider"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// isFile reports whether what was given is a definition's file, and not the name of one.
func isFile(s string) bool {
	ext := filepath.Ext(s)
	return ext == ".yaml" || ext == ".yml" || strings.ContainsRune(s, filepath.Separator)
}

// loadDefinition returns the catalog with the definition, and its name. A file with anything wrong is refused: what has its name may be a
// built-in, and the secrets are not meant for that.
func loadDefinition(tr *transport.Transport, file string) (catalog *provider.Catalog, name string, err error) {
	dir, name, ext := "", file, filepath.Ext(file)
	isFile := isFile(file)
	if isFile {
		if _, err := os.Stat(file); err != nil {
			return nil, "", console.BadInput("read the definition: %w", err)
		}
		if ext != ".yaml" {
			return nil, "", console.BadInput("%s: a definition's file is called NAME.yaml", file)
		}
		dir, name = filepath.Dir(file), strings.TrimSuffix(filepath.Base(file), ext)
	}
	if catalog, err = provider.Load(tr, dir); err != nil {
		return nil, "", console.BadInput("read %s: %w", dir, err)
	}
	var wrong []string
	for _, e := range catalog.List() {
		for _, problem := range e.Problems {
			if isFile && problem.File == filepath.Join(dir, filepath.Base(file)) {
				wrong = append(wrong, problem.String())
			}
		}
	}
	if len(wrong) > 0 {
		return nil, "", console.BadInput("%s", strings.Join(wrong, "\n"))
	}
	return catalog, name, nil
}
