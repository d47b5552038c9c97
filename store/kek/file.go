package kek

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/tokenbroker/tokenbroker/internal/newfile"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// A fileKEK is a cleartext Tink keyset in a file: its primary key wraps, all of them unwrap.
type fileKEK struct {
	aead tink.AEAD // its keys are unexported fields of Tink's, which print nothing of them
	keys []string
}

const (
	maxKeyset  = 1 << 20
	prefixSize = 5 // of Tink: a byte, then the key's id in four
)

// CreateFile draws a key and writes it to path as a cleartext Tink keyset, with mode 0600. It fails with fs.ErrExist where there is a
// file, and never writes over one. Keep it apart from the data and from their backups: whoever has both has everything.
func CreateFile(path string) error {
	handle, err := keyset.NewHandle(aead.XAES256GCM192BitNonceKeyTemplate())
	if err != nil {
		return errors.New("kek: draw a key: the cryptographic library refuses")
	}
	var b bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&b)); err != nil {
		return errors.New("kek: write a keyset: the cryptographic library refuses")
	}
	b.WriteByte('\n')
	err = newfile.Write(path, func(f *os.File) error {
		_, err := f.Write(b.Bytes())
		return err
	})
	if err != nil {
		return fmt.Errorf("kek: create the key file %s: %w", path, readfile.Why(err))
	}
	return nil
}

func openFile(uri string) (*fileKEK, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Host != "" || !filepath.IsAbs(u.Path) || filepath.Clean(u.Path) != u.Path {
		return nil, invalid("it names no file: want " + formFile)
	}
	data, err := readfile.Private(u.Path, maxKeyset)
	var loose *readfile.TooOpen
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, failure(KeyUnavailable, "there is no such file: restore it from its backup, or create one if nothing was wrapped yet")
	case errors.As(err, &loose):
		return nil, invalid(loose.Error() + " " + u.Path)
	case err != nil:
		return nil, invalid("the file cannot be read: " + readfile.Why(err).Error())
	}
	defer clear(data)
	damaged := failure(KeyUnavailable, "the file is no cleartext Tink keyset of AEAD keys, or is damaged: restore it from its backup")
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(data)))
	if err != nil {
		return nil, damaged
	}
	k := &fileKEK{}
	if k.aead, err = aead.New(handle); err != nil {
		return nil, damaged
	}
	for i := range handle.Len() {
		e, err := handle.Entry(i)
		if err != nil {
			return nil, damaged
		}
		k.keys = append(k.keys, fmt.Sprintf("%08x", e.KeyID()))
	}
	return k, nil
}

// name is the same for every file, because files move: the key's id is in what it wraps.
func (k *fileKEK) name() string { return schemeFile }

func (k *fileKEK) wrap(_ context.Context, dataKey []byte, bound [sha256.Size]byte) ([]byte, error) {
	wrapped, err := k.aead.Encrypt(dataKey, bound[:])
	if err != nil {
		return nil, invalid("the cryptographic library refuses to encrypt with its keyset")
	}
	if k.wrappedWith(wrapped) == "" {
		return nil, invalid("its keyset is of keys without Tink's prefix, so that nobody could tell them apart: make it with the template XAES_256_GCM_192_BIT_NONCE or AES256_GCM")
	}
	return wrapped, nil
}

func (k *fileKEK) unwrap(_ context.Context, wrapped []byte, bound [sha256.Size]byte) ([]byte, error) {
	dataKey, err := k.aead.Decrypt(wrapped, bound[:])
	if err == nil {
		return dataKey, nil
	}
	if len(wrapped) > prefixSize && k.wrappedWith(wrapped) == "" {
		return nil, failure(Another, "this was wrapped by key "+hex.EncodeToString(wrapped[1:prefixSize])+", which is not in the file: set the file that wrapped it, or restore it from its backup")
	}
	return nil, damaged()
}

// wrappedWith names the key of ours that wrapped something; empty: none of ours.
func (k *fileKEK) wrappedWith(wrapped []byte) string {
	if len(wrapped) > prefixSize && wrapped[0] == 1 {
		if id := hex.EncodeToString(wrapped[1:prefixSize]); slices.Contains(k.keys, id) {
			return id
		}
	}
	return ""
}
