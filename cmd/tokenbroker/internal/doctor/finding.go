package doctor

import (
	"cmp"
	"fmt"
	"slices"
)

// A Code names a kind of finding. It is stable: scripts and the page go by it.
type Code string

// A Severity says how soon something should be done.
type Severity string

// The severities, the worst first.
const (
	// High: somebody who is there already can take secrets or rights, or nobody would see it.
	High Severity = "high"
	// Medium: it makes another fault worse, or becomes one soon.
	Medium Severity = "medium"
	// Low: it is to be put in order.
	Low Severity = "low"
)

// A Finding is one thing that is unsafe.
type Finding struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	// Is says what is so, Risk what somebody could do with it, Do what to do about it.
	Is   string `json:"is"`
	Risk string `json:"risk"`
	Do   string `json:"do"`
}

// An Unseen is something that could not be looked at.
type Unseen struct {
	What string `json:"what"`
	Why  string `json:"why"`
	// Again: it may be possible later. Else the broker may not look.
	Again bool `json:"again"`
}

// A Report is what was found, the worst first.
type Report struct {
	Findings []Finding `json:"findings"`
	// Looked is at what, in short.
	Looked []string `json:"looked_at"`
	Unseen []Unseen `json:"not_looked_at"`

	alone bool
}

// The codes.
const (
	SecretReadable    Code = "SECRET_READABLE"
	FileWritable      Code = "FILE_WRITABLE"
	ProvidersWritable Code = "PROVIDERS_WRITABLE"
	DirectoryWritable Code = "DIRECTORY_WRITABLE"
	ForeignOwner      Code = "FOREIGN_OWNER"
	SocketOpen        Code = "SOCKET_OPEN"
	RedisNoPassword   Code = "REDIS_NO_PASSWORD"
	RedisPlain        Code = "REDIS_PLAIN"
	UpstreamPlain     Code = "UPSTREAM_PLAIN"
	KeyBesideData     Code = "KEY_BESIDE_DATA"
	KEKBesideData     Code = "KEK_BESIDE_DATA"
	PolicyNone        Code = "POLICY_NONE"
	PolicyWide        Code = "POLICY_WIDE"
	ProxyWide         Code = "PROXY_WIDE"
	AuditLost         Code = "AUDIT_LOST"
	RunsAsRoot        Code = "RUNS_AS_ROOT"
	RedisDefaultUser  Code = "REDIS_DEFAULT_USER"
	RedisUserWide     Code = "REDIS_USER_WIDE"
	RedisLoses        Code = "REDIS_LOSES"
	RedisEvicts       Code = "REDIS_EVICTS"
	PolicyEverybody   Code = "POLICY_EVERYBODY"
	PolicyStale       Code = "POLICY_STALE"
	CertificateStale  Code = "CERTIFICATE_STALE"
	AuthorityNested   Code = "AUTHORITY_NESTED"
	CertificateEnds   Code = "CERTIFICATE_ENDS"
	AuthorityEnds     Code = "AUTHORITY_ENDS"
	// RevocationListEnds is of one that was not followed by another.
	RevocationListEnds Code = "REVOCATION_LIST_ENDS"
	CertificateWeak    Code = "CERTIFICATE_WEAK"
	DiskLow            Code = "DISK_LOW"
	IssuerPlain        Code = "ISSUER_PLAIN"
	AuditOff           Code = "AUDIT_OFF"
	AuditPlain         Code = "AUDIT_PLAIN"
	TracesPlain        Code = "TRACES_PLAIN"
	AuditUnconfirmed   Code = "AUDIT_UNCONFIRMED"
	CoreDumps          Code = "CORE_DUMPS"
	SelfWritable       Code = "SELF_WRITABLE"
	DataDirOpen        Code = "DATA_DIR_OPEN"
	PolicyNobody       Code = "POLICY_NOBODY"
)

// A kind is what all findings of a code have in common.
type kind struct {
	code     Code
	severity Severity
	risk, do string
}

// kinds are all of them, the worst first: the order in which they are told.
var kinds = []kind{
	{RedisNoPassword, High, "whoever reaches it sees which rows there are and, with the rights that the user default usually has, deletes all or puts older ones in place", "give every Redis user a password, turn the user default off (`user default off`), and set redis.username and redis.password_file"},
	{RedisPlain, High, "whoever is on the way reads the Redis password, and can change what the broker is answered", "have Redis speak TLS, and write rediss:// in store"},
	{UpstreamPlain, High, "whoever is on the way reads the secrets that are sent there, and the tokens that come back", "take the host out of upstream.allow_http, and have its definition say https"},
	{SecretReadable, High, "whoever reads it can pass for the broker, or open what it has sealed", "chmod 600 it, with the broker's user as its owner; replace what is in it if anybody may have read it"},
	{FileWritable, High, "who can write it decides whom the broker believes and what it does", "chmod go-w it, and look at what is in it"},
	{ProvidersWritable, High, "who can write there can put a definition in place that sends secrets elsewhere; it is held only until somebody accepts it", "chmod go-w it, and look at what is in it with `tokenbroker provider list`"},
	{DirectoryWritable, High, "who can write there can put a file of their own in the place of the broker's", "chmod go-w the directory"},
	{ForeignOwner, High, "its owner can change it, whatever its mode", "chown it to root, or to the broker's user"},
	{SocketOpen, High, "who can open it may be believed to be the broker's own user: admin.sock hands out backups and rotates keys", "chmod 600 it, and see who does that: the broker makes it with this mode"},
	{KeyBesideData, High, "whoever gets a copy of the data, such as a backup, has the key with it and reads every secret", "wrap the keys by keys.kek (docs/keys.md), or stop the broker and move the file where no backup of the data has it, with key_file"},
	{KEKBesideData, High, "whoever gets a copy of the data, such as a backup, has the key with it and reads every secret", "move the file where no backup of the data has it, and name it in keys.kek; have another KEK wrap the keys if a copy is out (`tokenbroker keys wrap --former-kek`)"},
	{PolicyNone, High, "every process on this machine, whoever's it is, gets every token and may change every credential", "write a policy_file (docs/policy.md), or set listen: none, so that the socket is left"},
	{PolicyWide, High, "whoever gets hold of any one of those callers has all of it", "name the callers, the credentials or labels, and the scopes that they need; `tokenbroker policy suggest` makes such a policy of the audit log"},
	{ProxyWide, High, "whoever gets hold of the proxy is any workload of the trust domain", "have forwards name the workloads for whom it calls"},
	{AuditLost, High, "nobody can tell who was given what, and what is changed meanwhile may be refused", "look at the broker's log for why, and give the sink room"},
	{RunsAsRoot, Medium, "a fault in it is one of the whole machine", "run it as a user of its own, as the example's unit does"},
	{RedisDefaultUser, Medium, "it has every right that the default has, and its password is everybody's who uses this Redis", "make an ACL user (docs/redis.md), and set redis.username"},
	{RedisUserWide, Medium, "who has the broker's password can do that too", "give the user the rights of docs/redis.md, and no others"},
	{RedisLoses, Medium, "a crash of Redis forgets refresh tokens, and a strict upstream then wants a human to authorize again", "set appendonly yes and appendfsync always in Redis, on all masters and replicas"},
	{RedisEvicts, Medium, "who fills its memory has it throw credentials and leases away", "set maxmemory-policy noeviction in Redis, on all masters and replicas"},
	{PolicyEverybody, Medium, "whoever gets any identity of that authority may do it", "name those that need it, in callers"},
	{PolicyStale, Medium, "a right that was taken in the file is still there", "mend the file: `tokenbroker policy check` says what is wrong"},
	{CertificateStale, Medium, "a renewed certificate is not shown, or an authority that was taken out may be believed still", "mend the files; the broker's log says what is wrong"},
	{AuthorityNested, Medium, "a caller whose certificate has names of both chooses whose caller it is by what it shows with it: blocked as the one, it goes on as the other", "give the trusts authorities that have nothing in common, or make them one; until then block a caller by both"},
	{CertificateEnds, Medium, "when it ends, connections that need it fail", "renew it, and see why that was not done by itself"},
	{AuthorityEnds, Medium, "when it ends, nobody whom it vouches for is believed", "add its successor beside it, and take it out once all have new certificates"},
	{RevocationListEnds, Medium, "when it ends, nobody whose certificate its issuer signed is let in, and connections that are open are closed", "have the authority issue the next one, and put it into crl_file; the broker follows"},
	{DiskLow, Medium, "when it is full nothing can be stored: changes are refused, and a refresh token that comes meanwhile is kept in memory alone", "give it room; see what grows there"},
	{CertificateWeak, Medium, "who has the means computes its key and passes for its owner", "issue another one with RSA of 2048 bits, or P-256, at least"},
	{IssuerPlain, Medium, "whoever takes that port on this machine can sign as anybody the issuer knows", "fetch its keys over https, or from a jwks_file"},
	{AuditOff, Medium, "nobody can tell later who was given what, and who changed what", "set audit.file, audit.stdout or audit.syslog (docs/audit.md)"},
	{AuditPlain, Medium, "whoever is on the way reads who uses what, and can leave lines out", "write to a syslog on this machine, which sends on with TLS"},
	{TracesPlain, Medium, "whoever is on the way reads who uses what, and whoever takes the collector's place gets it", "have the collector speak TLS, and write https:// in traces.collector; or have one on this machine send on with TLS"},
	{AuditUnconfirmed, Medium, "what that host had not read when it died is lost, and no gap says so", "keep an audit.file too"},
	{CoreDumps, Medium, "a dump of its memory has keys and tokens in cleartext", "have it run with LimitCORE=0: the broker turns dumps off when it starts, so somebody has turned them on since"},
	{SelfWritable, Low, "whoever takes over the broker once can stay: what it is started with is theirs to change", "make root the owner, and give the broker's user the right to read"},
	{DataDirOpen, Low, "other users learn what is in it, and one file with a wrong mode is theirs", "chmod 700 it"},
	{PolicyNobody, Low, "it looks like a right that somebody has; when the settings change, somebody may have it unawares", "correct who is meant, or delete it"},
}

// Codes are all codes, the worst first.
func Codes() []Code {
	out := make([]Code, 0, len(kinds))
	for _, k := range kinds {
		out = append(out, k.code)
	}
	return out
}

func rank(c Code) int { return slices.IndexFunc(kinds, func(k kind) bool { return k.code == c }) }

// found notes a finding, once.
func (r *Report) found(c Code, format string, args ...any) {
	k := kinds[rank(c)]
	f := Finding{c, k.severity, fmt.Sprintf(format, args...), k.risk, k.do}
	if !slices.Contains(r.Findings, f) {
		r.Findings = append(r.Findings, f)
	}
}

func (r *Report) looked(format string, args ...any) {
	r.Looked = append(r.Looked, fmt.Sprintf(format, args...))
}

func (r *Report) unseen(again bool, what, why string) {
	if u := (Unseen{what, why, again}); !slices.Contains(r.Unseen, u) {
		r.Unseen = append(r.Unseen, u)
	}
}

func (r *Report) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(rank(a.Code), rank(b.Code)), cmp.Compare(a.Is, b.Is))
	})
}
