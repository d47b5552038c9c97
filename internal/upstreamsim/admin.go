package upstreamsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

var errNoSuchPath = errors.New("no such path; see the package comment of upstreamsim")

// admin answers what the package comment says under Control. It needs no login: the listener is a loopback one, and what a
// web page makes a browser send is refused.
func (s *Sim) admin(w http.ResponseWriter, r *http.Request) {
	result, err := s.control(r)
	status := http.StatusOK
	if err != nil {
		status, result = http.StatusBadRequest, map[string]string{"error": err.Error()}
		if errors.Is(err, errNoSuchPath) {
			status = http.StatusNotFound
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(result) // the client is gone
}

func (s *Sim) control(r *http.Request) (any, error) {
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return nil, err
	}
	p, err := readParameters(r)
	if err != nil {
		return nil, err
	}
	act := map[string]func() (any, error){
		"GET /stats":    func() (any, error) { return s.allStats(), p.done() },
		"GET /ledger":   func() (any, error) { return s.systemLedger(p.system()), p.done() },
		"GET /refusals": func() (any, error) { return s.Refusals(p.system()), p.done() },
		"POST /fault":   func() (any, error) { return s.addFault(p) },
		"POST /clear":   func() (any, error) { return p.then(s.ClearFaults) },
		"POST /down":    func() (any, error) { systems := p.systems(); return p.then(func() { s.Down(systems...) }) },
		"POST /up":      func() (any, error) { systems := p.systems(); return p.then(func() { s.Up(systems...) }) },
		"POST /reject":  func() (any, error) { return s.reject(p) },
	}[r.Method+" "+r.URL.Path]
	if act == nil {
		return nil, errNoSuchPath
	}
	return act()
}

var done = map[string]bool{"ok": true}

func (s *Sim) addFault(p *parameters) (any, error) {
	f := Fault{
		Kind: FaultKind(p.text("kind")), System: p.system(), Account: AccountID(p.text("account")),
		Endpoint: Endpoint(p.text("endpoint")), Count: int(p.number("count", 32)), After: p.yes("after"), Code: p.text("code"),
		Size: p.number("size", 64), Value: p.text("value"), RetryAfter: p.duration("retry_after"), Interval: p.duration("interval"),
		Skew: p.duration("skew"),
	}
	if err := p.done(); err != nil {
		return nil, err
	}
	_, err := s.AddFault(f)
	return done, err
}

func (s *Sim) reject(p *parameters) (any, error) {
	account, system := AccountID(p.text("account")), p.system()
	if err := p.done(); err != nil {
		return nil, err
	}
	if account == "" {
		return map[string]int{"rejected": s.rejectSystem(system)}, nil
	}
	n, err := s.RejectTokens(account)
	return map[string]int{"rejected": n}, err
}

// parameters gives out what a request says, by name. The first error stays, and what was not asked for is one.
type parameters struct {
	values url.Values
	asked  []string
	err    error
}

// readParameters takes them from the query and from a flat JSON object in the body.
func readParameters(r *http.Request) (*parameters, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	if len(bytes.TrimSpace(body)) > 0 {
		if !bodyJSON.is(r.Header["Content-Type"]) {
			return nil, errors.New("content type is not application/json")
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal(body, &object); err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		for name, value := range object {
			text := string(value)
			if value[0] == '"' {
				if err := json.Unmarshal(value, &text); err != nil {
					return nil, fmt.Errorf("body: %w", err)
				}
			}
			values.Add(name, text)
		}
	}
	return &parameters{values: values}, nil
}

func (p *parameters) text(name string) string {
	p.asked = append(p.asked, name)
	return p.values.Get(name)
}

func (p *parameters) system() System {
	system := System(p.text("system"))
	if system != "" && !system.known() {
		p.fail(fmt.Errorf("system %q is not simulated", system))
	}
	return system
}

func (p *parameters) systems() []System {
	if system := p.system(); system != "" {
		return []System{system}
	}
	return nil
}

func (p *parameters) number(name string, bits int) int64 {
	text := p.text(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, bits)
	p.fail(err)
	return n
}

func (p *parameters) duration(name string) time.Duration {
	text := p.text(name)
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	p.fail(err)
	return d
}

func (p *parameters) yes(name string) bool {
	text := p.text(name)
	if text == "" {
		return false
	}
	yes, err := strconv.ParseBool(text)
	p.fail(err)
	return yes
}

func (p *parameters) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// done returns what was wrong with them.
func (p *parameters) done() error {
	for name, values := range p.values {
		if !slices.Contains(p.asked, name) {
			p.fail(fmt.Errorf("parameter %q is unknown", name))
		} else if len(values) > 1 {
			p.fail(fmt.Errorf("parameter %q is repeated", name))
		}
	}
	return p.err
}

// then acts if nothing was wrong with them.
func (p *parameters) then(act func()) (any, error) {
	if err := p.done(); err != nil {
		return nil, err
	}
	act()
	return done, nil
}

// allStats is the answer of GET /stats.
func (s *Sim) allStats() any {
	systems, accounts := make(map[System]Stats), make(map[AccountID]Stats)
	for _, system := range Systems() {
		systems[system] = s.SystemStats(system)
	}
	for _, a := range s.Accounts() {
		accounts[a.ID] = s.Stats(a.ID)
	}
	s.mu.Lock()
	down := []System{}
	for _, system := range Systems() {
		if s.down[system] {
			down = append(down, system)
		}
	}
	s.mu.Unlock()
	return map[string]any{"connections": s.Connections(), "systems": systems, "accounts": accounts, "down": down}
}
