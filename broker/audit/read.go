package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// An Entry is a line of an audit log, as far as it says who wanted what. What the line does not say is zero.
type Entry struct {
	Time time.Time
	// Caller is the identity, and Proof and Listener how and where it was proven; empty: it was nobody who is known.
	Caller, Proof, Listener string
	Event                   broker.AuditEvent
	Operation               broker.Operation
	// Denied: they may not.
	Denied     bool
	Credential string
	// Scopes are those that were asked for, and Granted those that the token had.
	Scopes, Granted []string
	Audience        string
	Resources       []string
	TokenID         string
	// Rule is the one that allowed it.
	Rule string
	// Parameters are their names.
	Parameters []string
	// Clipped: something of this was longer than a line may be.
	Clipped bool
}

// Read calls each with the entries of an audit log, in their order. skipped is how many lines are none of this version: torn ones, and what others have
// written there. It fails with what the reader or each fails with.
func Read(r io.Reader, each func(Entry) error) (skipped int, err error) {
	b := bufio.NewReaderSize(r, lineMost)
	for {
		text, err := b.ReadSlice('\n')
		for errors.Is(err, bufio.ErrBufferFull) { // it is longer than any line
			_, err = b.ReadSlice('\n')
			text = nil
		}
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return skipped, fmt.Errorf("read an audit log: %w", err)
		}
		switch e, ok := entryOf(text); {
		case ok:
			if err := each(e); err != nil {
				return skipped, err
			}
		case !end || len(text) > 0:
			skipped++
		}
		if end {
			return skipped, nil
		}
	}
}

func entryOf(text []byte) (Entry, bool) {
	var l struct {
		V    int       `json:"v"`
		Time time.Time `json:"time"`
		line
	}
	if err := json.Unmarshal(bytes.TrimSpace(text), &l); err != nil || l.V != version || l.Event == "" {
		return Entry{}, false
	}
	e := Entry{
		Time: l.Time, Event: l.Event, TokenID: l.TokenID, Rule: l.Rule, Operation: l.Operation, Denied: l.Outcome == denied, Credential: l.Credential, Scopes: l.Scopes, Granted: l.Granted,
		Audience: l.Audience, Resources: l.Resources, Parameters: l.ParameterNames, Clipped: l.Clipped,
	}
	if l.Caller != nil {
		e.Caller, e.Proof, e.Listener = l.Caller.ID, string(l.Caller.Proof), l.Caller.Listener
	}
	return e, true
}
