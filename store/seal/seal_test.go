package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/leaktest"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

func newKeyring(t testing.TB) *seal.Keyring {
	t.Helper()
	k, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSealAndOpen(t *testing.T) {
	k := newKeyring(t)
	plain, ad := []byte("refresh token"), []byte("its place")
	sealed, err := k.Seal(plain, ad)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Open(sealed, ad); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("open: got %q, %v", got, err)
	}
	if again, _ := k.Seal(plain, ad); bytes.Equal(again, sealed) {
		t.Error("two ciphertexts are equal")
	}
	if got := seal.SealedWith(sealed); got != k.ID() {
		t.Errorf("sealed with: got %q, want %q", got, k.ID())
	}
	other := newKeyring(t)
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, test := range map[string]struct {
		k          *seal.Keyring
		sealed, ad []byte
		want       seal.OpenError
	}{
		"moved":       {k, sealed, []byte("another place"), seal.OpenError{KeyID: k.ID(), Held: true}},
		"changed":     {k, changed, ad, seal.OpenError{KeyID: k.ID(), Held: true}},
		"another key": {other, sealed, ad, seal.OpenError{KeyID: k.ID()}},
		"cut":         {k, sealed[:3], ad, seal.OpenError{}},
		"empty":       {k, nil, ad, seal.OpenError{}},
		"not sealed":  {k, []byte("refresh token"), ad, seal.OpenError{}},
	} {
		got, err := test.k.Open(test.sealed, test.ad)
		var o *seal.OpenError
		if got != nil || !errors.As(err, &o) || *o != test.want {
			t.Errorf("%s: got %q, %v; want %v", name, got, err, &test.want)
		}
	}
}

func TestFingerprint(t *testing.T) {
	k := newKeyring(t)
	seen := map[[32]byte]string{}
	for _, parts := range [][]string{
		{"p"}, {"p", ""}, {"p", "", ""}, {"p", "a"}, {"p", "a", "b"}, {"p", "ab"}, {"p", "b", "a"}, {"pa"}, {"", "p"}, {"p", "a\x01b"},
	} {
		name := fmt.Sprintf("%q", parts)
		f := k.Fingerprint(parts[0], parts[1:]...)
		if other, ok := seen[f]; ok {
			t.Errorf("%s and %s have one fingerprint", name, other)
		}
		seen[f] = name
		if k.Fingerprint(parts[0], parts[1:]...) != f {
			t.Errorf("%s: two fingerprints", name)
		}
		if newKeyring(t).Fingerprint(parts[0], parts[1:]...) == f {
			t.Errorf("%s: the fingerprint does not depend on the key", name)
		}
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if _, err := seal.Load(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load of none: got %v", err)
	}
	k, err := seal.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	if _, err := seal.Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create over one: got %v", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("a key file was overwritten")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: got %v, %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("the directory has %v", left)
	}
	again, err := seal.Load(path)
	if err != nil || again.ID() != k.ID() || again.File() != path || len(again.IDs()) != 1 {
		t.Fatalf("load: got %v, %v", again, err)
	}
	sealed, _ := k.Seal([]byte("x"), nil)
	if got, err := again.Open(sealed, nil); err != nil || string(got) != "x" {
		t.Errorf("open with the loaded key: %q, %v", got, err)
	}
	if k.Fingerprint("p", "x") != again.Fingerprint("p", "x") {
		t.Error("the loaded key has other fingerprints")
	}
	var readable struct{ Comment string }
	if err := json.Unmarshal(before, &readable); err != nil || !strings.Contains(readable.Comment, "Back this file up") {
		t.Errorf("the comment: got %q, %v", readable.Comment, err)
	}
}

func TestCreateRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	var mu sync.Mutex
	var ids []string
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			k, err := seal.Create(path)
			if err != nil && !errors.Is(err, fs.ErrExist) {
				t.Errorf("create: %v", err)
			}
			if err == nil {
				mu.Lock()
				ids = append(ids, k.ID())
				mu.Unlock()
			}
		})
	}
	all.Wait()
	k, err := seal.Load(path)
	if err != nil || len(ids) != 1 || ids[0] != k.ID() {
		t.Errorf("created %v, loaded %v, %v", ids, k, err)
	}
}

// TestRefusedKeyFiles also looks for key material in what is printed.
func TestRefusedKeyFiles(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	k, err := seal.Create(good)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	material := keyMaterial(t, data)
	write := func(name string, content []byte, mode fs.FileMode) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	linked, err := seal.Load(link)
	if err != nil || linked.ID() != k.ID() {
		t.Errorf("a link to a good file: got %v, %v", linked, err)
	}
	loose := filepath.Join(dir, "loose link")
	if err := os.Symlink(write("group", data, 0o640), loose); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		write("readable by all", data, 0o644):    "chmod 600",
		write("writable by all", data, 0o602):    "chmod 600",
		loose:                                    "chmod 600",
		dir:                                      "not a regular file",
		os.DevNull:                               "not a regular file",
		write("empty", nil, 0o600):               "not a tokenbroker key file",
		write("text", []byte("hello"), 0o600):    "not a tokenbroker key file",
		write("other JSON", []byte("{}"), 0o600): "not a tokenbroker key file",
		write("cut", data[:len(data)/2], 0o600):  "not a tokenbroker key file",
		write("newer", bytes.Replace(data, []byte(`"format": 1`), []byte(`"format": 2`), 1), 0o600): "format 2",
		write("damaged", bytes.Replace(data, []byte(`"keyData"`), []byte(`"keyDatb"`), 1), 0o600):   "damaged",
		write("damaged 2", replaceLast(data, `"keyData"`, `"keyDatb"`), 0o600):                      "damaged",
		write("swapped", swap(t, data), 0o600):                                                      "keyset",
		write("huge", bytes.Repeat([]byte(" "), 2<<20), 0o600):                                      "too big",
	} {
		_, err := seal.Load(path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want %q and the path", path, err, want)
			continue
		}
		if found := leaktest.Find([]byte(fmt.Sprintf("%v %+v %#v", err, err, err)), material); found != nil {
			t.Errorf("%s: the error holds key material: %v", path, found)
		}
	}
	if found := leaktest.Find(data, material); len(found) < len(material) {
		t.Errorf("the search finds only %v in the key file itself", found)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for _, v := range []any{k, struct{ k *seal.Keyring }{k}, *k} {
			if found := leaktest.Find([]byte(fmt.Sprintf(verb, v)), material); found != nil {
				t.Errorf("a keyring prints key material with %s: %v", verb, found)
			}
		}
	}
}

func TestCreateWhereItCannot(t *testing.T) {
	if _, err := seal.Create(filepath.Join(t.TempDir(), "missing", "key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want one that matches fs.ErrNotExist", err)
	}
}

// keyMaterial returns the values of the keysets.
func keyMaterial(t *testing.T, data []byte) []string {
	t.Helper()
	var material []string
	for _, part := range strings.Split(string(data), `"value":`)[1:] {
		material = append(material, strings.SplitN(part, `"`, 3)[1])
	}
	if len(material) != 2 {
		t.Fatalf("found %d keys in the key file", len(material))
	}
	return material
}

func replaceLast(data []byte, old, new string) []byte {
	at := bytes.LastIndex(data, []byte(old))
	return append(append(bytes.Clone(data[:at]), new...), data[at+len(old):]...)
}

func swap(t *testing.T, data []byte) []byte {
	t.Helper()
	var f map[string]json.RawMessage
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	f["sealing"], f["fingerprints"] = f["fingerprints"], f["sealing"]
	swapped, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return swapped
}
