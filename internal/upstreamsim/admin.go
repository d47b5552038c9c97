package upstreamsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// faultRequest is a [Fault] in JSON, and for the other paths the system or account that they are about.
type faultRequest struct {
	Kind       FaultKind `json:"kind"`
	System     System    `json:"system"`
	Account    AccountID `json:"account"`
	Endpoint   Endpoint  `json:"endpoint"`
	Count      int       `json:"count"`
	After      bool      `json:"after"`
	RetryAfter duration  `json:"retry_after"`
	Code       string    `json:"code"`
	Interval   duration  `json:"interval"`
	Size       int64     `json:"size"`
	Skew       duration  `json:"skew"`
	Value      string    `json:"value"`
}

// duration is text such as "1m30s" in JSON.
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = duration(parsed)
	return err
}

func (f faultRequest) fault() Fault {
	return Fault{
		Kind: f.Kind, System: f.System, Account: f.Account, Endpoint: f.Endpoint, Count: f.Count, After: f.After,
		RetryAfter: time.Duration(f.RetryAfter), Code: f.Code, Interval: time.Duration(f.Interval), Size: f.Size,
		Skew: time.Duration(f.Skew), Value: f.Value,
	}
}

// admin answers what the package comment says under Control. It needs no login: the listener is a loopback one, and a web page
// cannot make a browser send this Content-Type without asking first.
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

var errNoSuchPath = errors.New("no such path; see the package comment of upstreamsim")

func (s *Sim) control(r *http.Request) (any, error) {
	if r.Method == http.MethodGet {
		system := System(r.URL.Query().Get("system"))
		if system != "" && !system.known() {
			return nil, fmt.Errorf("system %q is not simulated", system)
		}
		switch r.URL.Path {
		case "/stats":
			return s.allStats(), nil
		case "/ledger":
			return s.systemLedger(system), nil
		case "/refusals":
			return s.Refusals(system), nil
		}
		return nil, errNoSuchPath
	}
	if r.Method != http.MethodPost {
		return nil, errNoSuchPath
	}
	request, err := readControl(r)
	if err != nil {
		return nil, err
	}
	ok := map[string]any{"ok": true}
	switch r.URL.Path {
	case "/fault":
		_, err := s.AddFault(request.fault())
		return ok, err
	case "/clear":
		s.ClearFaults()
		return ok, nil
	case "/down":
		s.Down(request.systems()...)
		return ok, nil
	case "/up":
		s.Up(request.systems()...)
		return ok, nil
	case "/reject":
		if request.Account != "" {
			n, err := s.RejectTokens(request.Account)
			return map[string]int{"rejected": n}, err
		}
		return map[string]int{"rejected": s.rejectSystem(request.System)}, nil
	}
	return nil, errNoSuchPath
}

func (f faultRequest) systems() []System {
	if f.System == "" {
		return nil
	}
	return []System{f.System}
}

// readControl reads one JSON object; nothing at all is an empty one.
func readControl(r *http.Request) (faultRequest, error) {
	var request faultRequest
	if !bodyJSON.is(r.Header["Content-Type"]) {
		return request, errors.New("content type is not application/json")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return request, fmt.Errorf("read body: %w", err)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return request, nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&request); err != nil {
		return request, fmt.Errorf("body: %w", err)
	}
	if request.System != "" && !request.System.known() {
		return request, fmt.Errorf("system %q is not simulated", request.System)
	}
	return request, nil
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
