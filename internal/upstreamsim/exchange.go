package upstreamsim

import (
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

const maxBody = 64 << 10

// exchange is one request and what is known about it.
type exchange struct {
	sim      *Sim
	w        http.ResponseWriter
	r        *http.Request
	host     string
	number   int64
	route    *route // nil: the path is unknown
	system   System // empty: so is the host
	endpoint Endpoint
	id       string // what stands for the route's "{id}"

	values  map[string][]string // of the form, JSON object or query
	invalid string              // why values could not be read
	hasBody bool

	account  *account // nil until the request names one of ours
	oddities []*fault
	working  []*counters // where it is counted as in flight
}

// serve handles every request of the listener.
func (s *Sim) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	s.handlers.Add(1)
	s.mu.Unlock()
	defer s.handlers.Done()
	defer s.emit()

	host := requestHost(r)
	if host == hostAdmin && r.TLS != nil && (r.TLS.ServerName == "" || strings.EqualFold(r.TLS.ServerName, hostAdmin)) {
		if s.opts.Exposed && checkLoopback(r.RemoteAddr) != nil {
			http.Error(w, "orders are taken from this machine alone", http.StatusForbidden)
			return
		}
		s.admin(w, r)
		return
	}
	x := s.arrive(w, r, host)
	defer x.leave()
	s.emit()
	s.play(x)
}

// play carries the request through gates, faults and the system's own judgement, in this order.
func (s *Sim) play(x *exchange) {
	x.waitGates(false, answer{})
	s.mu.Lock()
	if s.down[x.system] {
		x.noteRefusal(0, ReasonDown, "")
		s.mu.Unlock()
		resetConn(x.r)
		panic(http.ErrAbortHandler)
	}
	f := s.takeFaults(x)
	s.mu.Unlock()

	if f != nil && !f.After && f.Kind != FaultSlowBody {
		if ans, instead := x.suffer(f, answer{}); instead {
			x.finish(ans, f)
			return
		}
		f = nil // it hung, and was released
	}
	s.mu.Lock()
	ans := x.decide()
	s.mu.Unlock()
	s.emit()

	x.waitGates(true, ans)
	if f != nil && f.Kind != FaultSlowBody {
		if after, instead := x.suffer(f, ans); instead {
			x.lose(ans)
			x.finish(after, f)
			return
		}
		f = nil
	}
	x.finish(ans, f)
}

// arrive counts the request and finds out what and whom it is for.
func (s *Sim) arrive(w http.ResponseWriter, r *http.Request, host string) *exchange {
	x := &exchange{sim: s, w: w, r: r, host: host}
	x.route, x.id = s.findRoute(host, r.URL.EscapedPath())
	if systems := hostSystems[host]; len(systems) > 0 {
		x.system = systems[0]
	}
	if x.route != nil {
		x.system, x.endpoint = x.route.system, x.route.endpoint
		if x.route.systemOf != nil {
			x.system = x.route.systemOf(r)
		}
	}
	x.read()

	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	x.number = s.requests
	x.account = s.identify(x)
	if x.account != nil && x.endpoint == EndpointAPI && x.system == Snov {
		x.system = x.account.system // the two share the API
	}
	x.count(func(c *counters) {
		c.requests[x.endpoint]++
		if x.endpoint != EndpointAPI {
			c.enter()
			x.working = append(x.working, c)
		}
	})
	x.record(Event{Kind: KindArrived})
	return x
}

// leave ends the counting as in flight; more than once is once.
func (x *exchange) leave() {
	x.sim.mu.Lock()
	defer x.sim.mu.Unlock()
	for _, c := range x.working {
		c.inFlight--
	}
	x.working = nil
}

// count changes the counters of the request's system and account; s.mu is held.
func (x *exchange) count(f func(*counters)) {
	if c := x.sim.counters[x.system]; c != nil {
		f(c)
	}
	if x.account != nil {
		f(x.account.counters)
	}
}

// record reports an event about the request; s.mu is held.
func (x *exchange) record(e Event) {
	e.System, e.Endpoint, e.Request = x.system, x.endpoint, x.number
	if x.account != nil {
		e.Account = x.account.id
	}
	x.sim.record(e)
}

// date is the present as the answer tells it.
func (x *exchange) date() time.Time {
	now := x.sim.now()
	for _, f := range x.oddities {
		if f.Kind == OddSkewedDate {
			now = now.Add(f.Skew)
		}
	}
	return now
}

// decide judges what every request of an endpoint must observe, then leaves it to the system; s.mu is held.
func (x *exchange) decide() answer {
	r := x.r
	if origin := x.sim.follows[r.URL.Path]; origin != nil {
		origin.count(func(c *counters) { c.redirects++ })
		origin.record(Event{Kind: KindFollowed})
		x.noteRefusal(http.StatusOK, reasonFollowed, "")
		return tokenAnswer(map[string]any{"access_token": "redirected", "token_type": "Bearer", "expires_in": 3600})
	}
	if x.system == "" || r.TLS == nil || !strings.EqualFold(r.TLS.ServerName, x.host) {
		return x.refuse(http.StatusMisdirectedRequest, "invalid_request", ReasonHost, "")
	}
	if x.route == nil {
		return x.refuse(http.StatusNotFound, "invalid_request", ReasonPath, "")
	}
	bad := func(reason Reason) answer { return x.refuse(http.StatusBadRequest, "invalid_request", reason, "") }
	switch {
	case !slices.Contains(x.route.methods, r.Method):
		ans := x.refuse(http.StatusMethodNotAllowed, "invalid_request", ReasonMethod, "")
		ans.header.Set("Allow", strings.Join(x.route.methods, ", "))
		return ans
	case r.Header.Get("User-Agent") == "":
		return bad(ReasonUserAgent)
	case len(r.Header["Cookie"]) > 0 && !x.route.cookies:
		return bad(ReasonCookie)
	case len(r.Header["Authorization"]) > 0 && !x.route.authorization, len(r.Header["Authorization"]) > 1:
		return bad(ReasonAuthorization)
	case (r.URL.RawQuery != "" || r.URL.ForceQuery) && !(x.route.query && r.Method == http.MethodGet):
		return bad(ReasonQuery)
	case r.Method == http.MethodGet && x.hasBody:
		return bad(ReasonBody)
	case r.Method == http.MethodPost && !x.route.body.is(r.Header["Content-Type"]):
		return x.refuse(http.StatusUnsupportedMediaType, "invalid_request", ReasonContentType, "")
	case x.invalid != "":
		return x.refuse(http.StatusBadRequest, "invalid_request", ReasonBody, x.invalid)
	}
	return x.route.handle(x.sim, x)
}

// read takes in body and query, as far as they are what the endpoint takes.
func (x *exchange) read() {
	body, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, maxBody))
	x.hasBody = len(body) > 0
	switch {
	case err != nil:
		x.invalid = "unreadable or too long"
	case x.route == nil:
	case x.r.Method == http.MethodGet:
		x.values, x.invalid = parseForm(x.r.URL.RawQuery)
	case x.route.body == bodyForm:
		x.values, x.invalid = parseForm(string(body))
	case x.route.body == bodyJSON:
		x.values, x.invalid = parseJSON(body)
	}
}

// requestHost is the host that a request is for, without port 443. The loopback names are all the admin handler.
func requestHost(r *http.Request) string {
	host := strings.ToLower(r.Host)
	if name, port, err := net.SplitHostPort(host); err == nil {
		ip := net.ParseIP(name)
		if port == "443" || name == hostAdmin || ip != nil && ip.IsLoopback() {
			host = name
		}
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return hostAdmin
	}
	return host
}

// bodyKind is what the body of a POST must be.
type bodyKind int

const (
	bodyNone bodyKind = iota
	bodyForm
	bodyJSON
)

// is reports whether the Content-Type says so, once; only the charset UTF-8 may be added.
func (k bodyKind) is(header []string) bool {
	if k == bodyNone || len(header) != 1 {
		return false
	}
	media, params, err := mime.ParseMediaType(header[0])
	if err != nil {
		return false
	}
	for name, value := range params {
		if name != "charset" || !strings.EqualFold(value, "utf-8") {
			return false
		}
	}
	return media == map[bodyKind]string{bodyForm: "application/x-www-form-urlencoded", bodyJSON: "application/json"}[k]
}
