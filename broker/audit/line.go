package audit

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// version is of the lines. Within it members are only added.
const version = 1

// gap is the event of lines that a sink does not have.
const gap broker.AuditEvent = "audit.gap"

// The outcomes.
const (
	ok     = "ok"
	intent = "intent"
	failed = "failed"
	denied = "denied"
)

// lineMost bounds a line with its end, in bytes.
const lineMost = 16 << 10

// A line is what a line of the log says, behind what each begins with: version, time, boot and number (head). What is not known, or not there, is left
// out.
type line struct {
	Event broker.AuditEvent `json:"event"`
	// Outcome is ok, denied, failed, or intent: somebody is about to change something. Of is the number of that, in the line of what came of it.
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
	// Count is how often it happened, between First and Last; left out: once.
	Count     int64      `json:"count,omitempty"`
	First     *time.Time `json:"first,omitempty"`
	Last      *time.Time `json:"last,omitempty"`
	RequestID string     `json:"request_id,omitempty"`
	TraceID   string     `json:"trace_id,omitempty"`
	// Clipped: a text was too long and ends in an ellipsis, or a list has more.
	Clipped bool `json:"clipped,omitempty"`
}

type caller struct {
	ID       string       `json:"id,omitempty"`
	Proof    broker.Proof `json:"proof,omitempty"`
	Via      string       `json:"via,omitempty"`
	Listener string       `json:"listener,omitempty"`
	Peer     string       `json:"peer,omitempty"`
}

// lineOf is a record as it is written. No more than lineMost bytes come of it, whatever is in the record.
func lineOf(r broker.AuditRecord, requestID, traceID, policy string) line {
	c := clipper{left: textsMost}
	l := line{Outcome: ok, Tokens: r.Count}
	// What says who did what comes first: what is last is cut first.
	l.Event = broker.AuditEvent(c.text(string(r.Event), wordMost))
	l.Operation = broker.Operation(c.text(string(r.Operation), wordMost))
	who := caller{Listener: r.Listener}
	if by := r.Caller; by != nil {
		who.ID, who.Proof, who.Via, who.Listener = c.text(by.Identity, idMost), broker.Proof(c.text(string(by.Proof), wordMost)), c.text(by.Via, wordMost), by.Listener
	}
	who.Listener, who.Peer = c.text(who.Listener, wordMost), c.text(r.Peer, wordMost)
	if who != (caller{}) {
		l.Caller = &who
	}
	l.Credential, l.Provider, l.Rule = c.text(string(r.Credential), textMost), c.text(r.Provider, textMost), c.text(r.Rule, textMost)
	l.TokenID, l.Policy = c.text(r.TokenID, wordMost), c.text(policy, wordMost)
	l.RequestID, l.TraceID = c.text(requestID, wordMost), c.text(traceID, wordMost)
	l.Audience, l.Detail = c.text(r.Selection.Audience, textMost), c.text(r.Detail, textMost)
	l.Granted, l.Scopes = c.list(r.Granted), c.list(r.Selection.Scopes.List())
	l.Resources, l.Fields = c.list(r.Selection.Resources.List()), c.list(r.Fields)
	var names []string
	for name := range r.Selection.Parameters.Map() { // of a secret parameter, too, the name is no secret
		names = append(names, name)
	}
	slices.Sort(names)
	l.ParameterNames = c.list(names)
	l.Clipped = c.clipped
	l.ends(r.Outcome)
	if r.Outcome == nil && (r.Event == broker.AuditDenied || r.Event == broker.AuditUnauthenticated) {
		l.Outcome = denied
	}
	return l
}

// ends says what came of it. Of an error it keeps the kind, and no text.
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

// counts says how often it happened.
func (l *line) counts(n int64, first, last time.Time) {
	first, last = stamp(first), stamp(last)
	l.Count, l.First, l.Last = n, &first, &last
}

// tail is what follows the head, with the line's end.
func (l *line) tail() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(l); err != nil { // a time of the year 10000
		b.Reset()
		_ = e.Encode(line{Event: l.Event, Outcome: l.Outcome, Of: l.Of, Detail: "the rest of this line could not be encoded"})
	}
	out := escaped(b.Bytes())
	out[0] = ','
	return out
}

// head is what each line begins with.
func head(at time.Time, boot string, seq uint64) []byte {
	b := make([]byte, 0, 1024)
	b = append(b, `{"v":`...)
	b = strconv.AppendInt(b, version, 10)
	b = append(b, `,"time":"`...)
	b = stamp(at).AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","boot":"`...)
	b = append(b, boot...)
	b = append(b, `","seq":`...)
	return strconv.AppendUint(b, seq, 10)
}

// stamp is a time as lines have it: in UTC, to the microsecond.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
