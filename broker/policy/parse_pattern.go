package policy

import (
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
)

// The dialects of patterns.
var (
	credentialNames = dialect{form: whole, anything: true, check: checkName}
	labelValues     = dialect{form: whole, anything: true}
	scopes          = dialect{form: words, anything: true, check: checkElement}
	audiences       = dialect{form: several, anything: true, check: checkAddress}
	resources       = dialect{form: slashes, anything: true, check: checkResource, canonical: lowerHost}
	parameterValues = dialect{form: whole, anything: true}

	spiffeIDs   = dialect{form: slashes, check: checkSPIFFE}
	dnsNames    = dialect{form: dots, check: checkDNS, canonical: lower}
	uriNames    = dialect{form: uris, check: checkURI}
	commonNames = dialect{form: whole}

	subjects        = dialect{form: uris}
	serviceAccounts = dialect{form: slashes, check: checkServiceAccount}
	claimValues     = dialect{form: whole, anything: true}
)

// checkName finds what no credential can be called: a wildcard could be a letter.
func checkName(s string) string {
	if broker.IsCredentialName(strings.ReplaceAll(s, "*", "a")) {
		return ""
	}
	return "no credential can have this name: it " + broker.NameForm
}

func checkElement(s string) string {
	if strings.Contains(s, " ") {
		return "there is no blank in a value; write each as one of its own"
	}
	if strings.ContainsRune(s, utf8.RuneError) {
		return "U+FFFD stands for what is not known of an upstream's answer; leave it out"
	}
	return ""
}

var scheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)

// checkAddress refuses a wildcard that could lead to another host.
func checkAddress(s string) string {
	i := strings.Index(s, "://")
	if i < 0 {
		return ""
	}
	host, _, _ := strings.Cut(s[i+len("://"):], "/")
	if hasWildcard(s[:i]) || hasWildcard(host) {
		return "no wildcard may be in a scheme or a host; write one pattern for each"
	}
	return ""
}

func checkResource(s string) string {
	if why := checkElement(s); why != "" {
		return why
	}
	if hasWildcard(s) && !scheme.MatchString(s) {
		return `no wildcard may be in a scheme or a host; begin with both, as "https://api.example.com/**"`
	}
	return checkAddress(s)
}

func checkURI(s string) string {
	if hasWildcard(s) && !scheme.MatchString(s) {
		return `no wildcard may be in a scheme; begin with it, as "urn:corp:shop:*"`
	}
	return checkAddress(s)
}

var (
	trustDomain = regexp.MustCompile(`^[a-z0-9._-]{1,255}$`)
	spiffePath  = regexp.MustCompile(`^[a-zA-Z0-9._*-]+(/[a-zA-Z0-9._*-]+)*$`)
)

func checkSPIFFE(s string) string {
	domain, path, _ := strings.Cut(s, "/")
	switch {
	case strings.HasPrefix(s, "spiffe://"):
		return "leave out spiffe://"
	case hasWildcard(domain):
		return "no wildcard may be in a trust domain"
	case !trustDomain.MatchString(domain):
		return "a trust domain has a-z 0-9 . _ - in it"
	case path == "":
		return `a path is missing; write it behind the trust domain, as "corp.example/ns/shop/sa/*"`
	case !spiffePath.MatchString(path):
		return "no path of a SPIFFE ID: its segments have a-z A-Z 0-9 . _ - in them"
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return "no path of a SPIFFE ID has . or .. in it"
		}
	}
	return ""
}

var dnsPattern = regexp.MustCompile(`^[a-z0-9_*-]+(\.[a-z0-9_*-]+)*$`)

func checkDNS(s string) string {
	if !dnsPattern.MatchString(s) {
		return "no DNS name: labels have a-z 0-9 _ - in them, with a dot between them"
	}
	return ""
}

var serviceAccount = regexp.MustCompile(`^[a-z0-9.*-]+(/[a-z0-9.*-]+)?$`)

// checkServiceAccount refuses what no service account is called (Kubernetes: RFC 1123 names).
func checkServiceAccount(s string) string {
	issuer, account, _ := strings.Cut(s, "/")
	namespace, name, _ := strings.Cut(account, "/")
	switch {
	case hasWildcard(issuer):
		return "no wildcard may be in the name of an issuer"
	case !broker.IsCredentialName(issuer) || account == "":
		return `an issuer of the settings, a namespace and a service account are wanted, as "prod/batch/importer"`
	case account == "**":
		return ""
	case namespace == "" || name == "" || namespace == "**":
		return `a namespace and a service account are wanted behind the issuer, as "prod/batch/importer" or "prod/batch/*"`
	case !serviceAccount.MatchString(account):
		return "no service account: namespaces and names have a-z 0-9 . - in them"
	}
	return ""
}
