package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/licenseclassifier/v2/assets"
)

// allowed are the licences that a part of the binary may have, by their SPDX identifiers. Each lets a program under Apache-2.0 contain the part
// and asks that its text go with the binary. None asks for the program's source, or for its licence. Another one is a decision: say here why.
var allowed = map[string]bool{
	"Apache-2.0":   true, // ours; its section 4 asks for NOTICE files too
	"BSD-2-Clause": true,
	"BSD-3-Clause": true,
	"ISC":          true,
	"MIT":          true,
}

var (
	licenseFile = regexp.MustCompile(`(?i)licen[cs]e|copying`)
	noticeFile  = regexp.MustCompile(`(?i)^(notice|patents|copyright)`) // go with the binary too, and are no licence: Go's PATENTS gives rights and takes none
	source      = regexp.MustCompile(`(?i)\.(go|s|c|h)$`)
)

// A text is a file that has to go with the binary.
type text struct {
	name string // the file's
	body string
}

var known = sync.OnceValues(assets.DefaultClassifier)

// licenseOf reads the licences and notices in directories. The licence is an SPDX expression of all that are found, for all of them hold.
func licenseOf(dirs []string) (license string, texts []text, err error) {
	found := map[string]bool{}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return "", nil, err
		}
		for _, e := range entries {
			isLicense := licenseFile.MatchString(e.Name())
			if !e.Type().IsRegular() || source.MatchString(e.Name()) || !isLicense && !noticeFile.MatchString(e.Name()) {
				continue
			}
			body, err := os.ReadFile(filepath.Join(dir, e.Name())) //nolint:gosec // a licence in the module cache
			if err != nil {
				return "", nil, err
			}
			texts = append(texts, text{e.Name(), string(body)})
			if !isLicense {
				continue
			}
			ids, err := recognize(body)
			if err != nil {
				return "", nil, fmt.Errorf("%s: %w", filepath.Join(dir, e.Name()), err)
			}
			for _, id := range ids {
				found[id] = true
			}
		}
	}
	if len(found) == 0 {
		return "", nil, fmt.Errorf("no licence in %s", strings.Join(dirs, ", "))
	}
	ids := slices.Sorted(maps.Keys(found))
	for _, id := range ids {
		if !allowed[id] {
			return "", nil, fmt.Errorf("its licence is %s, which is not on the list of those that are allowed", id)
		}
	}
	return strings.Join(ids, " AND "), texts, nil
}

// recognize says which licences a text is, or refers to as those of files.
func recognize(body []byte) ([]string, error) {
	c, err := known()
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, m := range c.Match(body).Matches {
		if m.MatchType == "License" || m.MatchType == "Header" {
			ids = append(ids, m.Name)
		}
	}
	if len(ids) == 0 {
		return nil, errors.New("no licence that is known")
	}
	return ids, nil
}
