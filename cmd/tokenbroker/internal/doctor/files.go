package doctor

import (
	"errors"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
	"github.com/tokenbroker/tokenbroker/internal/steps"
	"github.com/tokenbroker/tokenbroker/store/redis"
)

// A role is what a file is to the broker.
type role int

const (
	// believed: who writes it decides what the broker does.
	believed role = iota
	// secret: who reads it is the broker, or opens what it has sealed.
	secret
	// elsewhere: it is looked at by itself.
	elsewhere
)

// roles are those of the files that settings name, by their fields. A test holds them against the settings.
var roles = map[string]role{
	"File": believed, "PolicyFile": believed, "CertFile": believed, "CAFile": believed, "CRLFile": believed, "JWKSFile": believed, "AuditFile": believed,
	"UpstreamCAFile": believed, "RedisCAFile": believed, "RedisCertFile": believed, "KeysCAFile": believed, "TracesCAFile": believed, "KeysCertFile": believed,
	"KeyFile": secret, "RedisKeyFile": secret, "KeysKeyFile": secret, "RedisPasswordFile": secret, "RedisSentinelPasswordFile": secret, "TokenFile": secret,
	"KeysTransitTokenFile": secret, "KeysTransitJWTFile": secret, "KeysAWSCredentialsFile": secret, "KeysAWSJWTFile": secret, "KeysAWSContainerTokenFile": secret,
	"KeysGCPCredentialsFile": secret,
	"DataDir":                elsewhere, "ProvidersDir": elsewhere,
}

// podsOwn is where a container engine puts a pod's tokens, in a file system that nobody else has, readable by all that is in it.
const podsOwn = "/var/run/secrets/"

// podsTokens are what may lie there, by their fields.
var podsTokens = []string{"TokenFile", "KeysTransitTokenFile", "KeysTransitJWTFile", "KeysAWSJWTFile", "KeysAWSContainerTokenFile"}

// files looks at the modes and owners of all files, and of the directories above them.
func (r *Report) files(s *settings.Settings) {
	n := 0
	look := func(path, what string, as role) {
		n++
		r.file(path, what, as)
	}
	s.Files(func(field, path string) {
		as, known := roles[field]
		switch {
		case known && as == elsewhere, slices.Contains(podsTokens, field) && strings.HasPrefix(filepath.Clean(path), podsOwn):
		case field == "KeyFile" && path == s.KeyFile && s.Wrapped(): // below
		case field == "File" && hasPassword(s):
			look(path, "the settings, with the password of Redis in them,", secret)
		case field == "AuditFile":
			look(path, "the audit log", as)
		default:
			look(path, words[field], as)
		}
	})
	if _, err := os.Stat(s.KeyPath()); s.KeyFile == "auto" && !s.Wrapped() || s.Wrapped() && err == nil {
		look(s.KeyPath(), "the key", secret)
	}
	if path := kekFile(s); path != "" {
		look(path, "the key that wraps the keys", secret)
	}
	if s.IsEmbedded() {
		look(filepath.Join(s.DataDir, settings.DataFile), "the store", secret)
	}
	if binary, err := os.Executable(); err == nil {
		look(binary, "the program", believed)
	}
	for _, path := range s.Sockets() {
		r.socket(path)
	}
	r.dataDir(s.DataDir)
	n += r.providers(s.ProvidersDir)
	r.looked("modes and owners: %d files, and the directories above them", n)
}

// A file system is low on room with less than a twentieth of it free, and less than a gigabyte.
const (
	lowPart = 20
	lowMost = 1 << 30
)

// room looks at what is left where the broker writes.
func (r *Report) room(s *settings.Settings) {
	written := map[string]string{}
	if s.IsEmbedded() {
		written["the store"] = s.DataDir
	}
	if s.AuditFile != "" {
		written["the audit log"] = filepath.Dir(s.AuditFile)
	}
	for _, what := range slices.Sorted(maps.Keys(written)) {
		if free, all, ok := roomAt(written[what]); ok && free < lowMost && free < all/lowPart {
			r.found(DiskLow, "of the file system of %s, %s, %d MiB of %d are free", what, written[what], free>>20, all>>20)
		}
	}
}

// words are what the files are to people, by field.
var words = map[string]string{
	"File": "the settings", "PolicyFile": "the policy", "CertFile": "a certificate", "CAFile": "an authority", "CRLFile": "a revocation list", "JWKSFile": "an issuer's keys",
	"UpstreamCAFile": "an authority of upstreams", "RedisCAFile": "an authority of Redis", "RedisCertFile": "a certificate", "KeysCAFile": "an authority of KMSs", "TracesCAFile": "an authority of the collector's", "KeysCertFile": "a certificate",
	"KeyFile": "the key", "RedisKeyFile": "the key of a certificate", "KeysKeyFile": "the key of a certificate", "RedisPasswordFile": "the password of Redis",
	"RedisSentinelPasswordFile": "the password of the Sentinels", "TokenFile": "a token", "KeysTransitTokenFile": "a token of Transit", "KeysTransitJWTFile": "a token",
	"KeysAWSCredentialsFile": "credentials of AWS", "KeysAWSJWTFile": "a token", "KeysAWSContainerTokenFile": "a token", "KeysGCPCredentialsFile": "credentials of Google Cloud",
}

// hasPassword reports whether the settings file has one, in the address of Redis.
func hasPassword(s *settings.Settings) bool {
	_, there := s.At["store"]
	a, err := redis.ParseAddress(s.Store)
	return there && err == nil && a.HasPassword()
}

// kekFile is the file of keys.kek; empty: it is none.
func kekFile(s *settings.Settings) string {
	if u, err := url.Parse(s.KeysKEK); err == nil && u.Scheme == "file" {
		return u.Path
	}
	return ""
}

// whole is a path that leads to the same for whoever reads it elsewhere.
func whole(path string) string {
	here, err := os.Getwd()
	if filepath.IsAbs(path) || err != nil {
		return path
	}
	if strings.Contains(path, "..") { // what stands before it may be a link, and is not to be dropped
		return here + string(filepath.Separator) + path
	}
	return filepath.Join(here, path)
}

// stat looks at what a path leads to. A file that is gone is no finding: what is in memory goes on.
func (r *Report) stat(path, what string) fs.FileInfo {
	i, err := os.Stat(path)
	if err != nil {
		r.unseen(!errors.Is(err, fs.ErrPermission), what+" "+path, readfile.Why(err).Error())
		return nil
	}
	return i
}

func (r *Report) file(path, what string, as role) {
	path = whole(path)
	i := r.stat(path, what)
	if i == nil {
		return
	}
	mode := i.Mode().Perm()
	if i.Mode().IsRegular() && readfile.OthersWrite(path, i) { // a device may be everybody's
		r.found(FileWritable, "others may write %s %s (mode %04o)", what, path, mode)
	}
	if as == secret && mode&0o044 != 0 && readfile.OthersRead(path, i) {
		r.found(SecretReadable, "others may read %s %s (mode %04o)", what, path, mode)
	}
	r.owner(i, what+" "+path)
	r.above(path)
}

func (r *Report) owner(i fs.FileInfo, what string) {
	if uid, ok := ownerOf(i); ok && uid != 0 && uid != os.Geteuid() {
		r.found(ForeignOwner, "%s belongs to the user %d, who is neither root nor the broker's", what, uid)
	}
}

// above looks at what leads to a path: the directories in which something is looked up, and the links.
func (r *Report) above(path string) {
	r.way(onTheWay(path), path)
}

// onTheWay are the steps to a path but the last, which is what it leads to. Where it leads nowhere, nobody is served by what is there.
func onTheWay(path string) []steps.Step {
	all, _ := steps.To(path) // it is gone, or may not be looked at, and somebody else says so
	return all[:max(0, len(all)-1)]
}

// way looks at steps to a path. Who owns a directory can put something else in it, whatever its mode. A link is what it is, and its owner can have it lead elsewhere only by another one in
// its place: where others may write to the directory, and in a sticky one that is all that they may.
func (r *Report) way(all []steps.Step, path string) {
	for _, s := range all {
		if s.IsLink() {
			if othersWriteTo(filepath.Dir(s.Path)) {
				r.owner(s.Info, "the link "+s.Path+", by which "+path+" is found,")
			}
			continue
		}
		if readfile.OthersWrite(s.Path, s.Info) && s.Info.Mode()&fs.ModeSticky == 0 && !r.alone {
			r.found(DirectoryWritable, "others may write to the directory %s (mode %04o), above %s", s.Path, s.Info.Mode().Perm(), path)
		}
		r.owner(s.Info, "the directory "+s.Path)
	}
}

// othersWriteTo reports whether others may write to a directory, if only what is their own.
func othersWriteTo(dir string) bool {
	i, err := os.Stat(dir)
	return err == nil && readfile.OthersWrite(dir, i)
}

func (r *Report) socket(path string) {
	path = whole(path)
	if i, err := os.Lstat(path); err == nil && i.Mode().Perm()&0o077 != 0 {
		r.found(SocketOpen, "others may open the socket %s (mode %04o)", path, i.Mode().Perm())
	}
}

func (r *Report) dataDir(path string) {
	path = whole(path)
	i := r.stat(path, "the data directory")
	if i == nil {
		return
	}
	switch mode := i.Mode().Perm(); {
	case mode&0o022 != 0:
		r.found(DirectoryWritable, "others may write to the directory %s (mode %04o), where the data are", path, mode)
	case mode&0o077 != 0:
		r.found(DataDirOpen, "others may enter the data directory %s (mode %04o)", path, mode)
	}
	r.owner(i, "the data directory "+path)
	r.above(path)
}

// providers looks at the directory of definitions and at what is in it, and returns how many files that is.
func (r *Report) providers(dir string) int {
	if dir == "" {
		return 0
	}
	dir = whole(dir)
	names, err := os.ReadDir(dir)
	if err != nil {
		r.unseen(true, "providers_dir "+dir, readfile.Why(err).Error())
		return 0
	}
	look := func(p string) {
		i, err := os.Stat(p)
		if err != nil {
			return // a link that leads nowhere, or gone since
		}
		if readfile.OthersWrite(p, i) && (!i.IsDir() || !r.alone) {
			r.found(ProvidersWritable, "others may write %s (mode %04o), where definitions are", p, i.Mode().Perm())
		}
		r.owner(i, p+", where definitions are,")
	}
	look(dir)
	r.above(dir)
	before, _ := steps.To(dir)
	for _, n := range names {
		p := dir + string(filepath.Separator) + n.Name()
		look(p)
		if way := onTheWay(p); len(way) > len(before) { // it is a link
			r.way(way[len(before):], p)
		}
	}
	return len(names)
}

// beside looks for a key where the data are.
func (r *Report) beside(s *settings.Settings) {
	if !s.IsEmbedded() {
		return // the data are elsewhere
	}
	key, code := s.KeyPath(), KeyBesideData
	if s.Wrapped() {
		key, code = kekFile(s), KEKBesideData
	}
	r.looked("where the key and the data lie")
	if key == "" {
		return // a KMS has it
	}
	key, data := whole(key), whole(s.DataDir)
	if settings.Within(key, data) {
		r.found(code, "the key %s lies in the data directory %s", key, data)
	} else if volume := sharedVolume(data, key); volume != "" {
		r.found(code, "the key %s and the data in %s lie on one volume, %s", key, data, volume)
	}
}

// everybodys are directories that are often a file system of their own, and no volume of the broker's.
var everybodys = []string{"/", "/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/var", "/var/lib", "/var/tmp"}

// sharedVolume is where the file system is mounted that the data and the key have to themselves; empty: they do not share one.
func sharedVolume(data, key string) string {
	on, ok := deviceOf(data)
	if other, there := deviceOf(key); !ok || !there || on != other {
		return ""
	}
	at, err := filepath.EvalSymlinks(data)
	if err != nil {
		return ""
	}
	for up := filepath.Dir(at); up != at; up = filepath.Dir(at) {
		if d, ok := deviceOf(up); !ok || d != on {
			break
		}
		at = up
	}
	if slices.Contains(everybodys, at) || !settings.Within(key, at) {
		return ""
	}
	return at
}
