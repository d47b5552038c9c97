package provider

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A flow is something that leaves the broker by a definition: what it is, and where it goes. Immutable.
type flow struct {
	use broker.Use
	// what is an input, or a value of an answer and all that it is taken by. Empty: that something goes there.
	what string
	// to is the URL that it goes to, of which the origin counts; told: an issuer, whose document says where, and of which all counts. Nil: callers.
	to   *urlTemplate
	told bool
}

// mostFlows bounds them: as many destinations one AcceptCredential may name.
const mostFlows = 128

// tooManyFlows finds what goes where, and says that it is more than somebody can accept.
func (c *checker) tooManyFlows() {
	if c.d.flows = flowing(c.d); len(c.d.flows) > mostFlows {
		c.Wrong(position{}, "definition: more than %d ways of secrets and values: each secret to each host, and each value that callers get, is one; leave some out", mostFlows)
	}
}

// flows are what leaves by a definition, while that is found. It depends on no credential: inputs stand in it by name.
type flows struct {
	d      *definition
	told   map[takenBy]bool // the takes of which callers get the value as it is
	untold map[string]bool  // the names of the others
	hidden map[string]bool  // what hides has found
	renews map[*where]bool  // what readsRefreshToken has found
	kept   []spot           // where refresh tokens are taken
	all    []flow
	seen   map[[4]string]bool
	before map[*request]provenances // when it is sent
	chains map[string]bool          // names that several answers of one exchange may bring
}

// flowing finds all that leaves, or more than may.
func flowing(d *definition) []flow {
	f := &flows{d: d, told: map[takenBy]bool{}, untold: map[string]bool{}, hidden: map[string]bool{}, renews: map[*where]bool{}, seen: map[[4]string]bool{}, before: map[*request]provenances{}, chains: map[string]bool{}}
	for _, q := range slices.Concat(d.obtain, d.refresh) {
		for _, t := range q.take {
			if t.name == "refresh_token" {
				f.kept = append(f.kept, d.spotsOf(t.where)...)
			}
		}
	}
	obtained := f.through(d.obtain, nil)
	held := kept(obtained, f.through(d.refresh, nil))
	refreshed := f.through(d.refresh, held)
	for n := range d.shownToCallers() {
		for _, o := range slices.Concat(obtained[n], refreshed[n]) {
			f.told[o.takenBy] = true
		}
	}
	for _, q := range slices.Concat(d.obtain, d.refresh) {
		for i := range q.take {
			if t := (takenBy{&q.take[i], q}); !f.told[t] {
				f.untold[t.name] = true
			}
		}
	}
	for _, q := range slices.Concat(d.obtain, d.refresh) {
		to := q.target()
		f.add(flow{use: broker.Requests, to: &to})
		if q.issuer != nil {
			f.add(flow{use: broker.Requests, to: &to, told: true})
		}
		f.carried(q)
		f.sentAs(q)
	}
	visible := d.visibleToCallers()
	for _, end := range []provenances{obtained, refreshed} {
		for _, n := range slices.Sorted(maps.Keys(end)) {
			for _, o := range end[n] {
				if visible[n] {
					f.shown(o)
				}
			}
		}
	}
	if d.token != nil {
		f.add(flow{use: broker.TokenFrom, what: "token, made of inputs"})
	}
	if d.baseURL != nil {
		f.add(flow{use: broker.API, to: d.baseURL})
	}
	for _, name := range slices.Sorted(maps.Keys(d.inputs)) {
		if in := d.inputs[name]; in.secret && in.handedOut {
			f.add(flow{use: broker.Callers, what: in.called(name)})
		}
	}
	if !f.full() {
		d.keeps, d.needs = f.known(held), f.needed(refreshed, visible)
	}
	return f.all
}

func (f *flows) full() bool { return len(f.all) > mostFlows }

func (f *flows) add(x flow) {
	key := [4]string{string(x.use), x.what}
	if x.to != nil {
		key[2] = writtenAs(x.to.origin())
	}
	if x.told {
		key[3] = writtenAs(x.to.written.parts)
	}
	if !f.seen[key] && !f.full() {
		f.seen[key] = true
		f.all = append(f.all, x)
	}
}

// carried adds the secrets, grants and values of answers that a request brings to where it goes. What came from there is no news there, but
// for a refresh token that was kept: by which file that ever was.
func (f *flows) carried(q *request) {
	to := q.target()
	add := func(what string) { f.add(flow{use: broker.Carried, what: what, to: &to, told: q.issuer != nil}) }
	names := f.d.named(f.d.sent(q))
	if q.withToken {
		names["token"] = true
	}
	address := map[string]bool{} // what an answer says of it is in the place itself
	for _, n := range q.ledBy() {
		f.d.behind(n, address)
	}
	spends := slices.Contains(f.d.refresh, q)
	for _, n := range slices.Sorted(maps.Keys(names)) {
		in := cmp.Or(f.d.inputs[n], f.d.parameters[n])
		switch {
		case in != nil && in.secret:
			add(in.called(n))
		case n == "refresh_token":
			add(n + f.d.seeded())
		}
		for _, o := range f.before[q][n] {
			switch {
			case f.full() || address[n] || o.q.place() == q.place() && !(spends && n == "refresh_token"):
			case n == "token" && !f.chains[n]: // where that is taken is a flow of its own
				add(n)
			case n != "refresh_token" || f.chains[n] || !o.standard():
				add(f.called(o))
			}
		}
	}
}

// sentAs adds in which part of a request something stands that callers do not get, and what is made of it: an upstream may repeat any part of a request
// in what they do get. Client authentication, RFC 6749's parameters, and a part that is called as the secret in it, say nothing new.
func (f *flows) sentAs(q *request) {
	to := q.target()
	for _, s := range f.d.slots(q) {
		if f.full() || !slices.ContainsFunc(s.names(), f.hides) {
			continue
		}
		alone, is := s.alone()
		names := slices.Sorted(maps.Keys(f.d.named([]text{s.text})))
		place, made := " in "+s.where, f.made(s)
		if !is && !s.implied {
			place += ": " + strconv.Quote(inLines(writtenAs(s.parts)))
		}
		add := func(what, made string) {
			f.add(flow{use: broker.SentAs, what: shortened(what+place+made, longestPlace*3/4), to: &to, told: q.issuer != nil})
		}
		for _, n := range names {
			standard := made == "" && !s.query && (s.implied || is && alone == n && (s.name == n || s.client))
			in := cmp.Or(f.d.inputs[n], f.d.parameters[n])
			switch {
			case f.full() || f.d.let[n] != nil || !f.hides(n):
			case in != nil && s.url: // no secret stands there
			case in != nil:
				if cut := in.cuts(); !standard || cut != "" {
					add(in.called(n), cut+made)
				}
			case n == "refresh_token":
				if !standard {
					add(n, made)
				}
			case slices.ContainsFunc(f.before[q][n], f.mayRenew):
				for _, o := range f.before[q][n] {
					if f.mayRenew(o) {
						add("what may be a refresh token, taken from "+o.where.source, made)
					}
				}
			case s.url:
			case slices.ContainsFunc(f.before[q][n], func(o provenance) bool { return !f.told[o.takenBy] }): // which, says nothing: a file gives names
				add("a value of an answer", made)
			}
		}
	}
}

// made is what is made of the names in a part of a request: the computations. Where what comes out depends on what is there, the digest of all that
// decides what is sent stands for the rest: a definition has too many ways to say what is there. Empty: it stands there as it is.
func (f *flows) made(s slot) string {
	var b strings.Builder
	depends := s.inList
	whole := sha256.New()
	for _, n := range slices.Sorted(maps.Keys(f.d.named([]text{s.text}))) {
		x := f.d.let[n]
		if x == nil {
			continue
		}
		depends = depends || x.depends() || x.text != nil && len(x.text.names()) > 1 // nothing escapes what stands there together
		says := "; " + n + " is " + x.source
		whole.Write([]byte(says))
		if b.Len() < longestPlace/4 {
			b.WriteString(shortened(says, longestPlace/4))
		}
	}
	if b.Len() >= longestPlace/4 {
		b.WriteString("; and so on, by " + hex.EncodeToString(whole.Sum(nil)))
	}
	if depends {
		b.WriteString("; whichever is there, by " + f.d.sends)
	}
	return b.String()
}

func (f *flows) mayRenew(o provenance) bool { return f.readsRefreshToken(o.where) }

// readsRefreshToken reports whether something that is taken may be a refresh token, or what one is in, or a part of it.
func (f *flows) readsRefreshToken(w *where) bool {
	reads, known := f.renews[w]
	if !known {
		reads = slices.ContainsFunc(f.d.spotsOf(w), func(s spot) bool {
			return s.whole() && len(f.kept) > 0 || s.namesRefreshToken() || slices.ContainsFunc(f.kept, func(k spot) bool { return !s.apart(k) })
		})
		f.renews[w] = reads
	}
	return reads
}

// inLines is a text without blanks that say nothing.
func inLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.Join(strings.Fields(l), " ")
	}
	return strings.Join(lines, "\\n")
}

// hides reports whether a name is of what callers do not get, or computed of that: a secret, a refresh token, a value of an answer.
func (f *flows) hides(n string) bool {
	if h, ok := f.hidden[n]; ok {
		return h
	}
	f.hidden[n] = false // for one that is computed from itself
	in := cmp.Or(f.d.inputs[n], f.d.parameters[n])
	h := in != nil && in.secret && !in.handedOut || n == "refresh_token" || in == nil && f.untold[n]
	if x := f.d.let[n]; x != nil {
		h = slices.ContainsFunc(x.names(), f.hides)
	}
	f.hidden[n] = h
	return h
}

// cuts is what is cut off a value that was given, and what JSON has it as.
func (in *input) cuts() (s string) {
	for _, cut := range [][2]string{{"in front", in.prefix}, {"behind", in.suffix}} {
		if cut[1] != "" {
			s += "; without " + strconv.Quote(cut[1]) + " " + cut[0]
		}
	}
	if in.format == "integer" || in.format == "boolean" { // in JSON
		s += "; as " + in.format
	}
	return s
}

// shown adds a value of an answer that callers get.
func (f *flows) shown(o provenance) {
	switch {
	case f.full():
	case !builtinNames[o.name]:
		f.add(flow{use: broker.Callers, what: f.called(o)})
	case !slices.Contains([]string{"token", "token_type", "scope"}, o.name):
	case !o.standard(), o.name == "token" && f.chains[o.name]:
		f.add(flow{use: broker.TokenFrom, what: f.called(o)})
	case o.name == "token":
		f.add(flow{use: broker.TokenFrom, what: "token, as RFC 6749 has it"})
	}
}

// seeded is what the first refresh token is given as.
func (d *definition) seeded() string {
	for _, name := range slices.Sorted(maps.Keys(d.inputs)) {
		if d.inputs[name].seed {
			return ", first " + d.inputs[name].called(name)
		}
	}
	return ""
}

// called is what a secret input is called where it goes: what was kept as another one may come out of it.
func (in *input) called(name string) string {
	if in.was == "" {
		return name
	}
	return name + ", formerly " + in.was
}

// place is where a request goes, as it is written.
func (q *request) place() string {
	if q.issuer != nil {
		return "as told by " + writtenAs(q.issuer.written.parts)
	}
	return writtenAs(q.url.origin())
}
