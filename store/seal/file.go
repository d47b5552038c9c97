package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/tokenbroker/tokenbroker/internal/newfile"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// keyFile is the stored form, format 1: readable, because a person has to recognise it in a backup.
//
//	{
//	  "comment":      what this file is,
//	  "format":       1,
//	  "sealing":      a Tink keyset of AEAD keys; its primary seals, all of them open,
//	  "fingerprints": a Tink keyset of one PRF key
//	}
type keyFile struct {
	Comment      string          `json:"comment"`
	Format       int             `json:"format"`
	Sealing      json.RawMessage `json:"sealing"`
	Fingerprints json.RawMessage `json:"fingerprints"`
}

const (
	format     = 1
	maxKeyFile = 1 << 20
	comment    = "The keys of a tokenbroker. Back this file up, apart from the data, and keep it as secret: whoever has " +
		"both can read every credential and token, and without this file nobody can, not even you."
)

// Create draws fresh keys and writes them to path, with mode 0600. The file appears whole or not at all, and a file that
// is there is never overwritten: Create then fails with fs.ErrExist. The directory must exist.
func Create(path string) (*Keyring, error) {
	k, err := New()
	if err != nil {
		return nil, err
	}
	data, err := k.marshal()
	if err != nil {
		return nil, err
	}
	err = newfile.Write(path, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("seal: create the key file %s: %w", path, reason(err))
	}
	// Read back what was written, by the rules that the next start goes by.
	return Load(path)
}

// Load reads the key file at path. It fails with fs.ErrNotExist where there is none. It refuses a file that others can
// read, that belongs to another user, or that is no regular file. A symbolic link is followed (that is how secrets are
// mounted), and the rules hold for what it leads to. No error holds anything of the file's content.
func Load(path string) (*Keyring, error) {
	data, err := readfile.Private(path, maxKeyFile)
	var loose *readfile.TooOpen
	var large *readfile.TooLarge
	switch {
	case errors.As(err, &loose):
		return nil, fmt.Errorf("seal: the key file %s: %w %s", path, err, path)
	case errors.As(err, &large):
		return nil, fmt.Errorf("seal: the key file %s: it is too big for a key file", path)
	case err != nil:
		return nil, fmt.Errorf("seal: the key file %s: %w", path, reason(err))
	}
	k, err := unmarshal(data)
	if err != nil {
		return nil, fmt.Errorf("seal: the key file %s: %w", path, err)
	}
	k.file = path
	return k, nil
}

func (k *Keyring) marshal() ([]byte, error) {
	f := keyFile{Comment: comment, Format: format}
	for _, part := range []struct {
		handle *keyset.Handle
		to     *json.RawMessage
	}{{k.secrets.sealing, &f.Sealing}, {k.secrets.fingerprints, &f.Fingerprints}} {
		var b bytes.Buffer
		if err := insecurecleartextkeyset.Write(part.handle, keyset.NewJSONWriter(&b)); err != nil {
			return nil, errors.New("seal: write a keyset: the cryptographic library refuses")
		}
		*part.to = b.Bytes()
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, errors.New("seal: write the key file: a keyset is not JSON")
	}
	return append(data, '\n'), nil
}

func unmarshal(data []byte) (*Keyring, error) {
	var f keyFile
	if err := json.Unmarshal(data, &f); err != nil || f.Format == 0 {
		return nil, errors.New("it is not a tokenbroker key file, or is damaged: restore it from a backup")
	}
	if f.Format != format {
		return nil, fmt.Errorf("it has format %d, and this tokenbroker reads format %d: use a newer one", f.Format, format)
	}
	sealing, err := readKeyset(f.Sealing)
	if err != nil {
		return nil, errors.New("its sealing keyset is damaged: restore it from a backup")
	}
	fingerprints, err := readKeyset(f.Fingerprints)
	if err != nil {
		return nil, errors.New("its fingerprint keyset is damaged: restore it from a backup")
	}
	return newKeyring(sealing, fingerprints)
}

func readKeyset(data []byte) (*keyset.Handle, error) {
	return insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(data)))
}

// reason strips the paths that the os package adds: the messages name the file themselves.
func reason(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	if l := (*os.LinkError)(nil); errors.As(err, &l) {
		return l.Err
	}
	return err
}
