package audit

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/tame"
)

// version is of the lines. Within it members are only added.
const version = 1

// gap is the event of lines that could not be written.
const gap broker.AuditEvent = "audit.gap"

// The outcomes.
const (
	ok     = "ok"
	intent = "intent"
	failed = "failed"
	denied = "denied"
)

// A line is what a line of the log has. What is not known, or not there, is left out.
type line struct {
	V int `json:"v"`
	// Time is when it was written, in UTC.
	Time time.Time `json:"time"`
	// Boot is drawn for each process, and Seq counts its lines: what is missing shows.
	Boot  string            `json:"boot"`
	Seq   uint64            `json:"seq"`
	Event broker.AuditEvent `json:"event"`
	// Outcome is ok, denied, failed, or intent: somebody is about to change something. Of is the Seq of that, in the line of what came of it.
	Outcome string `json:"outcome"`
	Of      uint64 `json:"of,omitempty"`
	// Reason is the failure's kind, in snake case.
	Reason     string           `json:"reason,omitempty"`
	Detail     string           `json:"detail,omitempty"`
	Caller     *caller          `json:"caller,omitempty"`
	Operation  broker.Operation `json:"operation,omitempty"`
	Credential string           `json:"credential,omitempty"`
	Provider   string           `json:"provider,omitempty"`
	Rule       string           `json:"rule,omitempty"`
	// Policy is the digest of the policy that decided.
	Policy         string   `json:"policy,omitempty"`
	Scopes         []string `json:"scopes,omitempty"`
	Granted        []string `json:"granted,omitempty"`
	Audience       string   `json:"audience,omitempty"`
	Resources      []string `json:"resources,omitempty"`
	ParameterNames []string `json:"parameter_names,omitempty"`
	TokenID        string   `json:"token_id,omitempty"`
	Fields         []string `json:"fields,omitempty"`
	// Tokens is how many were dropped.
	Tokens int `json:"tokens,omitempty"`
	// Count is how often it happened, from First to Last; left out: once.
	Count     int64      `json:"count,omitempty"`
	First     *time.Time `json:"first,omitempty"`
	Last      *time.Time `json:"last,omitempty"`
	RequestID string     `json:"request_id,omitempty"`
	TraceID   string     `json:"trace_id,omitempty"`
}

type caller struct {
	ID       string       `json:"id,omitempty"`
	Proof    broker.Proof `json:"proof,omitempty"`
	Listener string       `json:"listener,omitempty"`
	Peer     string       `json:"peer,omitempty"`
}

// textMost bounds a text that callers choose.
const textMost = 1024

func clip(s string) string {
	if len(s) > textMost {
		s = s[:textMost] + "…"
	}
	return tame.Line(s)
}

func clipped(all []string) []string {
	const most = 100
	out := make([]string, 0, min(len(all), most))
	for _, s := range all[:min(len(all), most)] {
		out = append(out, clip(s))
	}
	return out
}

// lineOf is a record as it is written, without what tells it from others.
func lineOf(r broker.AuditRecord) line {
	l := line{
		V: version, Event: r.Event, Outcome: ok, Detail: clip(r.Detail), Operation: r.Operation, Credential: clip(string(r.Credential)), Provider: clip(r.Provider), Rule: r.Rule,
		Scopes: clipped(r.Selection.Scopes.List()), Granted: clipped(r.Granted), Audience: clip(r.Selection.Audience), Resources: clipped(r.Selection.Resources.List()),
		TokenID: r.TokenID, Fields: clipped(r.Fields), Tokens: r.Count,
	}
	for name := range r.Selection.Parameters.Map() {
		l.ParameterNames = append(l.ParameterNames, clip(name))
	}
	slices.Sort(l.ParameterNames)
	who := caller{Listener: r.Listener, Peer: clip(r.Peer)}
	if c := r.Caller; c != nil {
		who.ID, who.Proof, who.Listener = clip(c.Identity), c.Proof, c.Listener
	}
	if who != (caller{}) {
		l.Caller = &who
	}
	l.ends(r.Outcome)
	return l
}

// ends says what came of it.
func (l *line) ends(err error) {
	if err == nil {
		return
	}
	kind := broker.KindOf(err)
	l.Outcome, l.Reason = failed, kind.Name()
	if kind == broker.CallerNotAllowed || kind == broker.CallerUnauthenticated {
		l.Outcome = denied
	}
}

// encode is the line, with its end. Whatever a text has in it, there is one end.
func (l *line) encode() []byte {
	b, err := json.Marshal(l)
	if err != nil { // there is nothing in it that cannot be written
		b = []byte(`{"v":1,"event":"audit.gap","outcome":"failed","detail":"a line could not be encoded"}`)
	}
	return append(b, '\n')
}
