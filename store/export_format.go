package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	stdhash "hash"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// An export is a file of lines. Each is a JSON object with exactly one of these:
//
//	header      the first: format and version, when the export began, the source's check record (see check.go) and, where a KEK
//	            wraps its keys, its keyring (seal.Wrapped): such an export has version 2, and every other version 1
//	credential  each credential, in order of name: its name, incarnation, rows, and when they were read
//	end         the last: how many credentials there are, and the SHA-256 of all lines before this one
//
// Rows are as the backend has them: sealed, and bound to name, incarnation and place, but to no backend. The group is not in
// the file; it follows from the name and the key file. A row that ends has how long it still lived when it was read. The
// times are by the clock of the machine that made the export. Names are in the clear, as they are in the index.
//
// Leases and suspensions are not exported, nor backoffs: those are of upstreams, and of the day.
//
// The checksum tells what was cut off or damaged. Against somebody who changes the file on purpose the seals stand: rows
// cannot be read, made or moved to another place; they could be left out, or replaced by older ones of the same place.
const (
	exportFormat  = "tokenbroker export"
	exportVersion = 1
	exportComment = "Everything in it is sealed: it can be read with the key file of the exported store only. Delete it once it is imported."
	// Of a store whose keys are wrapped.
	exportVersionWrapped = 2
	exportCommentWrapped = "Everything in it is sealed: it can be read with the key that wraps the keyring only. Delete it once it is imported."
	// maxExportLine bounds what is read into memory for one credential.
	maxExportLine = 256 << 20
)

// exportedKinds are the kinds of rows in an export, in their order.
var exportedKinds = []Kind{kindCredential, kindHealth, kindHistory, kindGrant, kindToken, kindFailure}

type exportLine struct {
	Header     *exportHeader       `json:"header,omitempty"`
	Credential *exportedCredential `json:"credential,omitempty"`
	End        *exportEnd          `json:"end,omitempty"`
}

type exportHeader struct {
	Format  string      `json:"format"`
	Version int         `json:"version"`
	Comment string      `json:"comment"`
	Time    time.Time   `json:"time"`
	Check   checkRecord `json:"check"`
	// Keyring is a seal.Wrapped.
	Keyring json.RawMessage `json:"keyring,omitempty"`
}

// wrapped is the keyring; nil: there is none.
func (h *exportHeader) wrapped() (*seal.Wrapped, error) {
	if h.Version != exportVersionWrapped {
		return nil, nil //nolint:nilnil // the keys are in a key file
	}
	w, err := seal.ParseWrapped(h.Keyring)
	if err != nil {
		return nil, &BadExport{err.Error()}
	}
	return w, nil
}

type exportedCredential struct {
	Name        string        `json:"name"`
	Incarnation id            `json:"incarnation"`
	ReadAt      time.Time     `json:"read_at"`
	Rows        []exportedRow `json:"rows"`
}

type exportedRow struct {
	Kind     Kind   `json:"kind"`
	ID       hash   `json:"id,omitzero"`
	Revision id     `json:"revision"`
	Sealed   []byte `json:"sealed"`
	// LeftMS is for how many milliseconds the row still lived; 0: for ever.
	LeftMS int64 `json:"left_ms,omitzero"`
}

type exportEnd struct {
	Credentials int    `json:"credentials"`
	SHA256      string `json:"sha256"`
}

func (r exportedRow) key() Key { return Key{r.Kind, r.ID} }

// row returns one of the rows, or a zero one.
func (c *exportedCredential) row(key Key) exportedRow {
	for _, r := range c.Rows {
		if r.key() == key {
			return r
		}
	}
	return exportedRow{}
}

// problem says what is wrong with a line that was read; empty: nothing.
func (c *exportedCredential) problem() string {
	seen := make(map[Key]bool, len(c.Rows))
	for _, r := range c.Rows {
		switch {
		case !slices.Contains(exportedKinds, r.Kind):
			return "it has a row of a kind that is not exported"
		case seen[r.key()]:
			return "it has a row twice"
		case r.Revision.IsZero() || len(r.Sealed) == 0:
			return "it has a row without a content"
		case r.LeftMS < 0 || time.Duration(r.LeftMS) > 2*maxTTL/time.Millisecond:
			return "it has a row with an impossible time"
		}
		seen[r.key()] = true
	}
	if !seen[credentialKey] || c.Incarnation.IsZero() || c.Name == "" || c.ReadAt.IsZero() {
		return "it has a credential that is not whole"
	}
	return ""
}

// An exportWriter writes the lines.
type exportWriter struct {
	w     io.Writer
	sum   stdhash.Hash
	count int
}

func newExportWriter(w io.Writer) *exportWriter { return &exportWriter{w: w, sum: sha256.New()} }

func (e *exportWriter) line(l exportLine) error {
	if l.Credential != nil {
		e.count++
	}
	data, err := json.Marshal(l)
	if err != nil {
		return misused("a line of an export cannot be encoded")
	}
	if data = append(data, '\n'); len(data) > maxExportLine {
		return fmt.Errorf("the credential %s has more than fits into a line of an export", l.Credential.Name)
	}
	if l.End == nil {
		_, _ = e.sum.Write(data) // never fails
	}
	if _, err := e.w.Write(data); err != nil {
		return fmt.Errorf("write the export: %w", err)
	}
	return nil
}

func (e *exportWriter) end() error {
	return e.line(exportLine{End: &exportEnd{Credentials: e.count, SHA256: hex.EncodeToString(e.sum.Sum(nil))}})
}

// A BadExport is a file that is no export, or not all of one, or one that this tokenbroker cannot read.
type BadExport struct{ why string }

// Error implements error.
func (e *BadExport) Error() string { return "this export cannot be used: " + e.why }

var (
	errNoExport      = &BadExport{"it is not a tokenbroker export"}
	errExportCut     = &BadExport{"its end is missing: it was cut off"}
	errExportDamaged = &BadExport{"it was changed after it was written"}
)

// An Exported is an export that was read from end to end and found to be whole, and of this keyring.
type Exported struct {
	// Time is when it began, by its maker's clock; Credentials is how many it has.
	Time        time.Time
	Credentials int

	from  io.ReadSeeker
	check checkRecord
	// wrapped is the keyring, as keyring has it; nil: the keys are in a key file.
	wrapped *seal.Wrapped
	keyring []byte
	// sums are those of all lines up to each credential's, so that nothing of a file that was changed since is imported.
	sums [][sha256.Size]byte
	sum  string
}

// ReadExport reads an export to its end, before anything of it is used. It fails with *BadExport if it is not as it was
// written, and with RecordUnreadable if it is of a store with other keys, or a credential cannot be read. r is read once more
// by Import.
func ReadExport(r io.ReadSeeker, keyring *seal.Keyring) (*Exported, error) {
	s := &Store{}
	s.keyring.Store(keyring)
	e := &Exported{from: r}
	foreign := sync.OnceValue(func() string { return verify(&e.check, keyring) })
	var unreadable error // said once it is known that the file is whole
	err := e.read(func(c *exportedCredential) error {
		e.Credentials++
		if unreadable == nil && foreign() == "" {
			unreadable = s.readable(c)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if why := foreign(); why != "" {
		return nil, &broker.Failure{Kind: broker.RecordUnreadable, Detail: "the export's data are " + why}
	}
	if unreadable != nil {
		return nil, unreadable
	}
	return e, nil
}

// readable tries the credential, and looks whether there is a key for every other row.
func (s *Store) readable(c *exportedCredential) error {
	k := s.keys()
	for _, r := range c.Rows {
		if with := seal.SealedWith(r.Sealed); with != "" && !k.Opens(with) {
			return &broker.Failure{
				Kind: broker.RecordUnreadable, Credential: broker.CredentialName(c.Name),
				Detail: fmt.Sprintf("the export's %s record is sealed with key %s, which is not in %s: %s", r.Kind, with, k.Where(), withoutKey(k, with)),
			}
		}
	}
	there, err := s.openCredential(broker.CredentialName(c.Name), Row{Value: c.row(credentialKey).Sealed})
	if err == nil && there.Incarnation != c.Incarnation.id() {
		return errExportDamaged
	}
	return err
}

// withoutKey is what to do where a key is missing.
func withoutKey(k *seal.Keyring, id string) string {
	if _, ok := k.Key(id); ok {
		return "it is retired, and `tokenbroker keys restore " + id + "` undoes that"
	}
	return "export again, once all is sealed with keys that there are"
}

// ReadExport is ReadExport by the keys of a store.
func (s *Store) ReadExport(r io.ReadSeeker) (*Exported, error) { return ReadExport(r, s.keys()) }

// ReadWrappedExport is ReadExport by the keys that the export brings, which kek opens. It fails with *Refused where it brings none, or kek does not open them.
func ReadWrappedExport(ctx context.Context, r io.ReadSeeker, kek seal.KEK) (*Exported, error) {
	errHeader := errors.New("the header is enough")
	head := &Exported{from: r}
	if err := head.read(func(*exportedCredential) error { return errHeader }); err != nil && !errors.Is(err, errHeader) {
		return nil, err
	}
	if head.wrapped == nil {
		return nil, refused("the export is of a store whose keys are in a key file: import it with that, without keys.kek, and then `tokenbroker keys wrap`")
	}
	k, err := head.wrapped.Unwrap(ctx, kek)
	switch {
	case err == nil:
		return ReadExport(r, k)
	case passes(err):
		return nil, fromKEK(err)
	}
	return nil, refused("the keys of the export are wrapped by %s, and keys.kek does not open them: %s", head.wrapped.KEK, err)
}

// AdoptKeyring gives an empty store the keys of an export. One that has keys, or data, is left as it is.
func AdoptKeyring(ctx context.Context, backend Backend, e *Exported) error {
	if e.wrapped == nil {
		return misused("an export without a keyring")
	}
	err := fromBackend(backend.Apply(ctx, Batch{
		Group: metaGroup, Conditions: []Condition{{Key: keyringKey}, {Key: checkKey}},
		Puts: []Put{{Key: keyringKey, Revision: newRevision(), Value: e.keyring}}, Keep: true,
	}))
	if errors.Is(err, broker.ErrConflict) || errors.Is(err, ErrUnconfirmed) {
		return nil
	}
	return err
}

// WrappedBy is the URI of the KEK that wraps the keys of what backend holds; empty: they are in a key file, or there is nothing.
func WrappedBy(ctx context.Context, backend Backend) (string, error) {
	w, _, _, err := readKeyring(ctx, backend)
	if err != nil || w == nil {
		return "", err
	}
	return w.KEK, nil
}

// read calls f with every credential, and fails if the file is not whole, or not the one that was read before.
func (e *Exported) read(f func(*exportedCredential) error) error {
	if _, err := e.from.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the export: %w", err)
	}
	r := &exportReader{from: bufio.NewReaderSize(e.from, 1<<16), sum: sha256.New()}
	l, err := r.line()
	switch {
	case errors.Is(err, errExportDamaged), errors.Is(err, errExportCut), err == nil && (l.Header == nil || l.Header.Format != exportFormat):
		return errNoExport
	case err != nil:
		return err
	}
	header := l.Header
	e.Time, e.check = header.Time, header.Check
	if header.Version != exportVersion && header.Version != exportVersionWrapped || header.Check.Schema != schema {
		return &BadExport{fmt.Sprintf("it has version %d of schema %d, and this tokenbroker reads version %d of schema %d: use one of the same version",
			header.Version, header.Check.Schema, exportVersion, schema)}
	}
	if e.wrapped, err = header.wrapped(); err != nil {
		return err
	}
	e.keyring = header.Keyring
	count, last := 0, ""
	for {
		sum := hex.EncodeToString(r.sum.Sum(nil))
		switch l, err = r.line(); {
		case err != nil:
			return err
		case l.Credential != nil:
			c := l.Credential
			if why := c.problem(); why != "" {
				return &BadExport{why}
			}
			if count > 0 && c.Name <= last {
				return &BadExport{"its credentials are not in order"}
			}
			upTo := [sha256.Size]byte(r.sum.Sum(nil))
			if e.sum == "" {
				e.sums = append(e.sums, upTo)
			} else if count >= len(e.sums) || e.sums[count] != upTo {
				return errExportDamaged
			}
			count, last = count+1, c.Name
			if err := f(c); err != nil {
				return err
			}
		case l.End != nil:
			if l.End.Credentials != count || l.End.SHA256 != sum || e.sum != "" && e.sum != sum {
				return errExportDamaged
			}
			if _, err := r.from.ReadByte(); !errors.Is(err, io.EOF) {
				return errExportDamaged
			}
			e.sum = sum
			return nil
		default:
			return errExportDamaged
		}
	}
}

// An exportReader reads the lines.
type exportReader struct {
	from *bufio.Reader
	sum  stdhash.Hash
}

// line reads one. Its errors quote nothing of it.
func (r *exportReader) line() (exportLine, error) {
	var data []byte
	for {
		part, err := r.from.ReadSlice('\n')
		data = append(data, part...)
		switch {
		case len(data) > maxExportLine:
			return exportLine{}, errExportDamaged
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return exportLine{}, errExportCut
		case err != nil:
			return exportLine{}, fmt.Errorf("read the export: %w", err)
		}
		break
	}
	_, _ = r.sum.Write(data) // never fails
	var l exportLine
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return exportLine{}, errExportDamaged
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return exportLine{}, errExportDamaged
	}
	return l, nil
}
