package bolt_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/leaktest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// TestNothingLeaksIntoTheFiles plants secrets in every record, and looks for them in whatever lies on the disk.
func TestNothingLeaksIntoTheFiles(t *testing.T) {
	var planted []string
	plant := func(what string) broker.Secret {
		s := fmt.Sprintf("planted %s no. %d: /+&=%%\"é", what, len(planted))
		planted = append(planted, s)
		return broker.NewSecret(s)
	}
	ctx, path := t.Context(), newPath(t)
	d := open(t, path)
	keys, err := store.LoadKeyring(ctx, d, filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t, d, keys)
	for n := range 3 {
		storetest.Plant(t, s, broker.CredentialName(fmt.Sprint("credential-", n)), plant)
	}
	if err := s.DeleteCredential(ctx, "credential-1", broker.ID{}); err != nil {
		t.Fatal(err) // its pages are free, and still on the disk
	}
	if err := d.BackupFile(ctx, filepath.Join(filepath.Dir(path), "backup")); err != nil {
		t.Fatal(err)
	}
	if len(planted) < 20 {
		t.Fatalf("only %d secrets are planted", len(planted))
	}

	// The search finds each of them where it is not hidden, in every form.
	for i, p := range planted {
		for _, fixture := range []string{
			p, base64.StdEncoding.EncodeToString([]byte(p)), base64.StdEncoding.EncodeToString([]byte("x" + p)),
			base64.URLEncoding.EncodeToString([]byte("xy" + p)), url.QueryEscape(p), hex.EncodeToString([]byte(p)),
		} {
			if found := leaktest.Find([]byte("before "+fixture+" after"), planted[i:i+1]); found == nil {
				t.Fatalf("the search does not find secret %d in %q", i, fixture)
			}
		}
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 3 {
		t.Fatalf("files: got %v, %v, want the data, the lock and the backup", files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(path), f.Name()))
		if err != nil || len(data) == 0 {
			t.Fatalf("%s: %d bytes, %v", f.Name(), len(data), err)
		}
		for _, found := range leaktest.Find(data, planted) {
			t.Errorf("%s: %s", f.Name(), found)
		}
		// Nor do names stand anywhere but in the index: their hashes are keyed.
		if n := strings.Count(string(data), "credential-2"); f.Name() != "tokenbroker.db.lock" && n == 0 {
			t.Errorf("%s: the index does not have the names", f.Name())
		}
	}
}
