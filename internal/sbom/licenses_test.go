package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const copyleft = `Copyright (C) 2026 Somebody

This program is free software: you can redistribute it and/or modify it under the terms of the GNU General Public License as published by
the Free Software Foundation, either version 3 of the License, or (at your option) any later version.

This program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY; without even the implied warranty of MERCHANTABILITY
or FITNESS FOR A PARTICULAR PURPOSE. See the GNU General Public License for more details.

You should have received a copy of the GNU General Public License along with this program. If not, see <http://www.gnu.org/licenses/>.
`

const isc = `Copyright (c) 2026 Somebody

Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted, provided that the above
copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF
MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES
WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR
IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
`

func TestLicences(t *testing.T) {
	apache, err := os.ReadFile(filepath.Join(root, "LICENSE"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string // an expression, or what is wrong
		texts int
	}{
		{"one", map[string]string{"LICENSE": isc}, "ISC", 1},
		{"in two files", map[string]string{"LICENSE": string(apache), "LICENSE-ISC.txt": isc}, "Apache-2.0 AND ISC", 2},
		{"in one file", map[string]string{"COPYING": string(apache) + "\n---\n\n" + isc}, "Apache-2.0 AND ISC", 1},
		{"with a notice", map[string]string{"License.md": isc, "NOTICE": "thanks to somebody", "license.go": "package x"}, "ISC", 2},
		{"copyleft", map[string]string{"LICENSE": copyleft}, "GPL-3.0, which is not on the list", 0},
		{"copyleft beside another", map[string]string{"LICENSE": isc, "COPYING": copyleft}, "GPL-3.0, which is not on the list", 0},
		{"words of somebody's own", map[string]string{"LICENSE": "Ask me before you use this."}, "no licence that is known", 0},
		{"such words beside another", map[string]string{"LICENSE": isc, "LICENSE.images": "Ask me before you use these."}, "no licence that is known", 0},
		{"none", map[string]string{"README.md": "Free for all!"}, "no licence in", 0},
		{"a notice alone", map[string]string{"NOTICE": isc}, "no licence in", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, body := range c.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, texts, err := licenseOf([]string{dir})
			if err != nil {
				got = err.Error()
				if !strings.Contains(got, c.want) || c.texts > 0 {
					t.Errorf("got %v, want %s", err, c.want)
				}
				return
			}
			if got != c.want || len(texts) != c.texts {
				t.Errorf("got %s with %d texts, want %s with %d", got, len(texts), c.want, c.texts)
			}
		})
	}
}
