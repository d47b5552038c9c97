package authn_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/server/authn"
)

// TestWhatIsRevoked: who is let in with which lists. Each certificate below the root needs a list of its own issuer that counts now.
func TestWhatIsRevoked(t *testing.T) {
	r := newRigOf(t, withLists)
	below := must[*devcerts.Authority](t)(r.ca.Below("below", time.Hour))
	namesake := must[*devcerts.Authority](t)(devcerts.NewAuthority("corp", trustDomain, time.Hour))
	direct := r.svid(cart)
	through := issue(t, below, time.Hour, uris(cart))
	through.Certificate = slices.Concat(through.Certificate, below.PEM())
	serial := func(p devcerts.Pair) *big.Int {
		block, _ := pem.Decode(p.Certificate)
		return must[*x509.Certificate](t)(x509.ParseCertificate(block.Bytes)).SerialNumber
	}
	list := func(by *devcerts.Authority, revoked ...*big.Int) []byte {
		return must[[]byte](t)(by.Revoke(time.Hour, nil, revoked...))
	}
	ended := func(by *devcerts.Authority, revoked ...*big.Int) []byte {
		return must[[]byte](t)(by.Revoke(-time.Second, nil, revoked...))
	}
	young := must[[]byte](t)(r.ca.Revoke(2*time.Hour, func(l *x509.RevocationList) { l.ThisUpdate = time.Now().Add(time.Hour) }))
	der, _ := pem.Decode(list(r.ca, serial(direct)))
	for _, c := range []struct {
		name  string
		lists []byte
		pair  devcerts.Pair
		in    bool
	}{
		{"nobody is revoked", list(r.ca), direct, true},
		{"it is", list(r.ca, big.NewInt(7), serial(direct)), direct, false},
		{"it is, in DER", der.Bytes, direct, false},
		{"another one is", list(r.ca, big.NewInt(7), new(big.Int).Add(serial(direct), big.NewInt(1))), direct, true},
		{"the list has ended", ended(r.ca), direct, false},
		{"the list has ended, and its successor counts", slices.Concat(ended(r.ca), list(r.ca)), direct, true},
		{"the list that has it has ended", slices.Concat(ended(r.ca, serial(direct)), list(r.ca)), direct, false},
		{"the list does not count yet", young, direct, false},
		{"the list is a namesake's", list(namesake), direct, false},
		{"a namesake revokes it", slices.Concat(list(namesake, serial(direct)), list(r.ca)), direct, true},
		{"its issuer has no list", list(r.ca), through, false},
		{"both have", slices.Concat(list(r.ca), list(below)), through, true},
		{"its issuer has one, the root has none", list(below), through, false},
		{"it is revoked below", slices.Concat(list(r.ca), list(below, serial(through))), through, false},
		{"its issuer is revoked", slices.Concat(list(r.ca, below.Certificate.SerialNumber), list(below)), through, false},
		{"the root revokes its number, which is not the root's to revoke", slices.Concat(list(r.ca, serial(through)), list(below)), through, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := r.auth["services"].Changes()
			r.write(revocations, c.lists)
			within(t, changed, "the list is not read again")
			if err := getToken(t, r.dial("services", r.config(&c.pair))); (err == nil) != c.in || err != nil && status.Code(err) != codes.Unavailable {
				t.Errorf("got %v, want it let in: %t", err, c.in)
			}
		})
	}
}

// TestRevokedWhileItIsOpen: the connection of a certificate that is revoked ends, with its watches, and nobody else's does.
func TestRevokedWhileItIsOpen(t *testing.T) {
	r := newRigOf(t, withLists)
	leaked, other := r.svid(cart), r.svid(cart)
	of := r.once("services", r.config(&leaked))
	watched, stays := watch(t, of), watch(t, r.once("services", r.config(&other)))
	r.write(revocations, r.revoke(r.ca, leaked))
	if err := within(t, watched, "a watch goes on whose certificate was revoked"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the watch: got %v", err)
	}
	if err := getToken(t, r.dial("services", r.config(&leaked))); status.Code(err) != codes.Unavailable {
		t.Errorf("again: got %v", err)
	}
	open(t, stays)
	if !strings.Contains(r.log.String(), "was revoked") {
		t.Error("the log does not say why it was refused")
	}
}

// TestRevokedByAnotherTrustsList: a list that one trust has ends the connections of another's callers as well, where its issuer has signed their certificates.
func TestRevokedByAnotherTrustsList(t *testing.T) {
	company := must[*devcerts.Authority](t)(devcerts.NewAuthority("company", "", time.Hour))
	issuing := must[*devcerts.Authority](t)(company.Below("issuing", time.Hour))
	dir := t.TempDir()
	lists := writeTo(t, dir, "lists.pem", must[[]byte](t)(issuing.Revoke(time.Hour, nil)))
	r := newRig(t,
		authn.Trust{Name: "machines", CAFile: writeTo(t, dir, "company.pem", company.PEM()), Kind: broker.DNS, Names: []string{"*.svc.example"}},
		authn.Trust{Name: "batch", CAFile: writeTo(t, dir, "issuing.pem", issuing.PEM()), CRLFile: lists, Kind: broker.DNS, Names: []string{"*.batch.example"}},
	)
	caller := func(name string) devcerts.Pair {
		p := issue(t, issuing, time.Hour, func(c *x509.Certificate) { c.DNSNames = []string{name} })
		p.Certificate = slices.Concat(p.Certificate, issuing.PEM())
		return p
	}
	leaked, other, batch := caller("cart.svc.example"), caller("shop.svc.example"), caller("night.batch.example")
	watched, stays, staysToo := watch(t, r.once("services", r.config(&leaked))), watch(t, r.once("services", r.config(&other))), watch(t, r.once("services", r.config(&batch)))
	writeTo(t, dir, "next.pem", r.revoke(issuing, leaked))
	if err := os.Rename(filepath.Join(dir, "next.pem"), lists); err != nil {
		t.Fatal(err)
	}
	if err := within(t, watched, "a watch goes on whose certificate was revoked"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the watch: got %v", err)
	}
	if err := getToken(t, r.dial("services", r.config(&leaked))); status.Code(err) != codes.Unavailable {
		t.Errorf("again: got %v", err)
	}
	open(t, stays)
	open(t, staysToo)
}

// TestAnAuthorityThatIsRevokedIsBelievedNowhere: also where it stands in a ca_file itself, beside its root or without it, and whichever trust has the list. Who has its certificate connects no
// more, and what is open ends, whether the authority is shown or not. Without a list that has it, it is believed as any other.
func TestAnAuthorityThatIsRevokedIsBelievedNowhere(t *testing.T) {
	root := must[*devcerts.Authority](t)(devcerts.NewAuthority("company", "", time.Hour))
	namesake := must[*devcerts.Authority](t)(devcerts.NewAuthority("company", "", time.Hour))
	issuing := must[*devcerts.Authority](t)(root.Below("issuing", time.Hour))
	list := func(by *devcerts.Authority, revoked ...*devcerts.Authority) []byte {
		var serials []*big.Int
		for _, a := range revoked {
			serials = append(serials, a.Certificate.SerialNumber)
		}
		return must[[]byte](t)(by.Revoke(time.Hour, nil, serials...))
	}
	of := func(all ...*devcerts.Authority) (file []byte) {
		for _, a := range all {
			file = append(file, a.PEM()...)
		}
		return file
	}
	shown := issue(t, issuing, time.Hour, func(c *x509.Certificate) { c.DNSNames = []string{"cart.svc.example"} })
	alone := shown
	shown.Certificate = slices.Concat(shown.Certificate, issuing.PEM())
	direct := issue(t, root, time.Hour, func(c *x509.Certificate) { c.DNSNames = []string{"cart.svc.example"} })
	for _, x := range []struct {
		name          string
		ca, lists     []byte // of the trust of the caller; without lists it has no crl_file
		others        []byte // authorities of another trust, which has the list that changes
		pair          devcerts.Pair
		before, after []byte
		stays         bool
	}{
		{"it is beside its root", of(root, issuing), nil, nil, shown, slices.Concat(list(root), list(issuing)), slices.Concat(list(root, issuing), list(issuing)), false},
		{"it is beside its root, and not shown", of(root, issuing), nil, nil, alone, slices.Concat(list(root), list(issuing)), slices.Concat(list(root, issuing), list(issuing)), false},
		{"another trust has its root", of(issuing), nil, of(root), shown, list(root), list(root, issuing), false},
		{"another trust has its root, and its own has lists", of(issuing), list(issuing), of(root), shown, list(root), list(root, issuing), false},
		{"another one is revoked", of(root, issuing), nil, nil, shown, slices.Concat(list(root), list(issuing)), slices.Concat(list(root, namesake), list(issuing)), true},
		{"a namesake of its root takes it back", of(issuing), nil, of(root, namesake), shown, list(root), slices.Concat(list(root), list(namesake, issuing)), true},
		{"of its root there is no list", of(issuing), nil, nil, shown, list(issuing), slices.Concat(list(issuing), list(namesake)), true},
		{"a root takes itself back", of(root), nil, nil, direct, list(root), list(root, root), false},
	} {
		t.Run(x.name, func(t *testing.T) {
			dir := t.TempDir()
			lists := writeTo(t, dir, "lists.pem", x.before)
			all := []authn.Trust{{Name: "machines", CAFile: writeTo(t, dir, "ca.pem", x.ca), CRLFile: lists, Kind: broker.DNS, Names: []string{"*.svc.example"}}}
			if x.others != nil {
				all[0].CRLFile = ""
				if x.lists != nil {
					all[0].CRLFile = writeTo(t, dir, "own.pem", x.lists)
				}
				all = append(all, authn.Trust{Name: "people", CAFile: writeTo(t, dir, "others.pem", x.others), CRLFile: lists, Kind: broker.DNS, Names: []string{"*.ops.example"}})
			}
			r := newRig(t, all...)
			watched := watch(t, r.once("services", r.config(&x.pair)))
			changed := r.auth["services"].Changes()
			if err := os.Rename(writeTo(t, dir, "next.pem", x.after), lists); err != nil {
				t.Fatal(err)
			}
			within(t, changed, "the list is not read again")
			want := codes.OK
			if !x.stays {
				want = codes.Unavailable
				if err := within(t, watched, "a watch goes on whose authority was revoked"); status.Code(err) != codes.Unauthenticated {
					t.Errorf("the watch: got %v", err)
				}
			}
			if err := getToken(t, r.dial("services", r.config(&x.pair))); status.Code(err) != want {
				t.Errorf("again: got %v, want %s", err, want)
			}
			if x.stays {
				open(t, watched)
			}
		})
	}
}

// TestListsThatSayLess: a list that is damaged, or says less than all of its issuer, does not count, and the former one does.
func TestListsThatSayLess(t *testing.T) {
	r := newRigOf(t, withLists)
	pair := r.svid(cart)
	with := func(edit func(*x509.RevocationList)) []byte {
		return must[[]byte](t)(r.ca.Revoke(time.Hour, edit))
	}
	extension := func(critical bool, id ...int) []pkix.Extension {
		return []pkix.Extension{{Id: asn1.ObjectIdentifier(id), Critical: critical, Value: []byte{5, 0}}}
	}
	critical := func(id ...int) []pkix.Extension { return extension(true, id...) }
	good := r.revoke(r.ca)
	short := append(bytes.Clone(good), "-----BEGIN X509 CRL-----\nAAAA\n"...)
	for name, c := range map[string]struct {
		file []byte
		says string
	}{
		"nothing":                                {nil, "cannot be read"},
		"no list":                                {[]byte("no list"), "cannot be read"},
		"a certificate":                          {r.ca.PEM(), `block "CERTIFICATE"`},
		"a damaged second":                       {short, "and more that cannot"},
		"more lists of one issuer than there is": {bytes.Repeat(good, 17), `more than 16 revocation lists of the issuer "CN=corp"`},
		"a list of changes":                      {with(func(l *x509.RevocationList) { l.ExtraExtensions = critical(2, 5, 29, 27) }), "2.5.29.27"},
		"a list of some":                         {with(func(l *x509.RevocationList) { l.ExtraExtensions = critical(2, 5, 29, 28) }), "2.5.29.28"},
		"a list of changes that does not insist": {with(func(l *x509.RevocationList) { l.ExtraExtensions = extension(false, 2, 5, 29, 27) }), "2.5.29.27"},
		"a list of some that does not insist":    {with(func(l *x509.RevocationList) { l.ExtraExtensions = extension(false, 2, 5, 29, 28) }), "2.5.29.28"},
		"more than fits":                         {bytes.Repeat(good, 4<<20/len(good)+1), "larger than"},
		"an entry of another's": {with(func(l *x509.RevocationList) {
			l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(1), RevocationTime: time.Now(), ExtraExtensions: critical(2, 5, 29, 29)}}
		}), "another issuer"},
		"a list without successor": {withoutNext(t, good), "nextUpdate"},
	} {
		file := writeTo(t, t.TempDir(), "crl.pem", c.file)
		_, err := authn.New(context.Background(), authn.Settings{
			Listener: "services", CertFile: r.dir + "/tls.crt", KeyFile: r.dir + "/tls.key",
			Trust: []authn.Trust{{Name: "corp", CAFile: r.dir + "/ca.pem", TrustDomain: trustDomain, CRLFile: file}},
		})
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "trust corp: ") {
			t.Errorf("%s: got %v, want an error that says %q", name, err, c.says)
		}
	}

	r.write(revocations, []byte("no list"))
	eventually(t, "the list is not read again", func() bool { return r.auth["services"].Status().Stale })
	if err := getToken(t, r.dial("services", r.config(&pair))); err != nil {
		t.Errorf("with the former list: %v", err)
	}
	changed := r.auth["services"].Changes()
	r.write(revocations, r.revoke(r.ca, pair))
	within(t, changed, "the list is not read again")
	if s := r.auth["services"].Status(); s.Stale || s.ListEnds.Before(time.Now()) || s.ListEnds.After(time.Now().Add(time.Hour)) || !s.ListBegan.Before(time.Now()) {
		t.Errorf("status: got %+v", s)
	}
	if err := getToken(t, r.dial("services", r.config(&pair))); status.Code(err) != codes.Unavailable {
		t.Errorf("with the next list: %v", err)
	}
}

// TestTheListThatIsToBeFollowedFirst: the status tells of the one with the least share of its life left, among the newest of each issuer in each trust.
func TestTheListThatIsToBeFollowedFirst(t *testing.T) {
	r := newRig(t)
	one, other := must[*devcerts.Authority](t)(devcerts.NewAuthority("one", "", time.Hour)), must[*devcerts.Authority](t)(devcerts.NewAuthority("other", "", time.Hour))
	namesake := must[*devcerts.Authority](t)(devcerts.NewAuthority("one", "", time.Hour))
	const day = 24 * time.Hour
	now := time.Now().UTC().Truncate(time.Second)
	type list struct {
		by          *devcerts.Authority
		began, ends time.Duration // from now
	}
	for name, trusts := range map[string][][]list{ // the first list of the first trust is the one
		"the only one": {{{one, -day, day}}},
		"one that ends later, and had a longer life":       {{{other, -90 * day, 10 * day}, {one, -day, 6 * day}}},
		"the same in two trusts":                           {{{other, -90 * day, 10 * day}}, {{one, -day, 6 * day}}},
		"one that has ended":                               {{{one, -2 * day, -day}, {other, -day, day}}},
		"one that has ended beside its successor":          {{{one, -day, day}, {one, -3 * day, -2 * day}, {other, -day, 9 * day}}},
		"one that would count longer than its successor":   {{{one, -day, day}, {one, -2 * day, 90 * day}, {other, -day, 9 * day}}},
		"one that began when its successor did":            {{{one, -day, day}, {one, -day, -time.Hour}}},
		"one whose successor does not count yet":           {{{one, -day, -time.Hour}, {one, day, 9 * day}}},
		"one that counts, beside its successor":            {{{one, -day, day}, {one, time.Hour, 9 * day}}},
		"one that does not count yet":                      {{{one, day, 9 * day}, {other, -day, time.Hour}}},
		"one that has ended, and a namesake's that counts": {{{one, -2 * day, -day}, {namesake, -day, day}}},
		"one that has ended, and another trust's counts":   {{{one, -2 * day, -day}}, {{one, -day, day}}},
	} {
		for _, backwards := range []bool{false, true} {
			s := authn.Settings{Listener: "services", CertFile: r.dir + "/tls.crt", KeyFile: r.dir + "/tls.key", Now: func() time.Time { return now }}
			dir := t.TempDir()
			for i, lists := range trusts {
				var all [][]byte
				for _, l := range lists {
					all = append(all, must[[]byte](t)(l.by.Revoke(0, func(x *x509.RevocationList) { x.ThisUpdate, x.NextUpdate = now.Add(l.began), now.Add(l.ends) })))
				}
				if backwards {
					slices.Reverse(all)
				}
				in := "trust-" + string(rune('a'+i))
				s.Trust = append(s.Trust, authn.Trust{
					Name: in, CAFile: writeTo(t, dir, in+".pem", slices.Concat(one.PEM(), other.PEM(), namesake.PEM())),
					CRLFile: writeTo(t, dir, in+".crl", slices.Concat(all...)), Kind: broker.DNS, Names: []string{"*." + in + ".example"},
				})
			}
			if backwards {
				slices.Reverse(s.Trust)
			}
			c := must[*authn.Certificates](t)(authn.New(t.Context(), s))
			want := trusts[0][0]
			if is := c.Status(); !is.ListBegan.Equal(now.Add(want.began)) || !is.ListEnds.Equal(now.Add(want.ends)) {
				t.Errorf("%s: got the list from %s to %s, want %s to %s", name, is.ListBegan.Sub(now), is.ListEnds.Sub(now), want.began, want.ends)
			}
			c.Close()
		}
	}
}

// TestWhatIsBrokenOfATrustKeepsNothingElse: authorities and lists of one trust are followed each for itself.
func TestWhatIsBrokenOfATrustKeepsNothingElse(t *testing.T) {
	t.Run("an authority is taken away while the list is broken", func(t *testing.T) {
		r := newRigOf(t, withLists)
		second := must[*devcerts.Authority](t)(devcerts.NewAuthority("second", trustDomain, time.Hour))
		changed := r.auth["services"].Changes()
		r.write(revocations, slices.Concat(r.revoke(r.ca), r.revoke(second)))
		r.write("ca.pem", slices.Concat(r.ca.PEM(), second.PEM()))
		within(t, changed, "the authorities are not read again")
		p := issue(t, second, time.Hour, uris(cart))
		eventually(t, "the second authority is not trusted", func() bool { return getToken(t, r.once("services", r.config(&p))) == nil })
		watched := watch(t, r.once("services", r.config(&p)))
		r.write(revocations, []byte("no list"))
		eventually(t, "the list is not read again", func() bool { return r.auth["services"].Status().Stale })
		r.write("ca.pem", r.ca.PEM())
		if err := within(t, watched, "a watch goes on whose authority was taken away"); status.Code(err) != codes.Unauthenticated {
			t.Errorf("the watch: got %v", err)
		}
		if err := getToken(t, r.dial("services", r.config(&p))); status.Code(err) != codes.Unavailable {
			t.Errorf("again: got %v", err)
		}
	})
	t.Run("a certificate is revoked while the authorities are broken", func(t *testing.T) {
		r := newRigOf(t, withLists)
		p := r.svid(cart)
		watched := watch(t, r.once("services", r.config(&p)))
		r.write("ca.pem", []byte("no certificate"))
		eventually(t, "the authorities are not read again", func() bool { return r.auth["services"].Status().Stale })
		r.write(revocations, r.revoke(r.ca, p))
		if err := within(t, watched, "a watch goes on whose certificate was revoked"); status.Code(err) != codes.Unauthenticated {
			t.Errorf("the watch: got %v", err)
		}
	})
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	looked := time.NewTicker(10 * time.Millisecond)
	defer looked.Stop()
	for began := time.Now(); !is(); <-looked.C {
		if time.Since(began) > 30*time.Second {
			t.Fatal(what)
		}
	}
}

// withoutNext takes the nextUpdate out of a list, whose signature is not looked at before who it is of is known.
func withoutNext(t *testing.T, list []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(list)
	var l pkix.CertificateList
	if _, err := asn1.Unmarshal(block.Bytes, &l); err != nil {
		t.Fatal(err)
	}
	l.TBSCertList.Raw, l.TBSCertList.NextUpdate = nil, time.Time{}
	return must[[]byte](t)(asn1.Marshal(l))
}
