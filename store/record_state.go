package store

import (
	"bytes"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// failureRecord is the failure of a token key. The key holds the definition's digest; the version is here.
type failureRecord struct {
	Version id               `json:"version"`
	Failure rememberedRecord `json:"failure"`
}

// healthRecord is what of a credential's history decides. It has no row while there is nothing to say.
type healthRecord struct {
	// Version and Digest are those of Failure.
	Version id                `json:"version,omitzero"`
	Digest  string            `json:"digest,omitzero"`
	Failure *rememberedRecord `json:"failure,omitzero"`
	// FormerWorked is the version whose last exchange that worked used the former secret.
	FormerWorked id `json:"former_worked,omitzero"`
}

func (r healthRecord) empty() bool { return r.Failure == nil && r.FormerWorked.IsZero() }

func (r healthRecord) failure(version broker.ID, digest string) *broker.Remembered {
	if r.Version.id() != version || r.Digest != digest {
		return nil
	}
	return r.Failure.pointer()
}

// historyRecord is what people see, and what makes a repeated Commit have the effect of one.
type historyRecord struct {
	LastSuccess instant         `json:"last_success,omitzero"`
	Attempts    []attemptRecord `json:"attempts,omitzero"`
	// Receipts are the last owners that committed or failed: 17 bytes each, owner and what was stored, the newest first.
	Receipts []byte `json:"receipts,omitzero"`
}

type attemptRecord struct {
	Start         instant  `json:"start,omitzero"`
	Duration      int64    `json:"duration_ns,omitzero"`
	Host          string   `json:"host,omitzero"`
	Status        int      `json:"status,omitzero"`
	UpstreamError string   `json:"upstream_error,omitzero"`
	Reason        string   `json:"reason,omitzero"`
	Taken         []string `json:"taken,omitzero"`
}

const (
	maxAttempts = 20
	maxReceipts = 64
	receiptSize = len(broker.ID{}) + 1

	receiptToken byte = 1
	receiptGrant byte = 2
)

// receipt returns what an owner's commit stored, if that is among the last.
func (r historyRecord) receipt(owner broker.ID) (broker.Committed, bool) {
	for b := r.Receipts; len(b) >= receiptSize; b = b[receiptSize:] {
		if bytes.Equal(b[:len(owner)], owner[:]) {
			stored := b[len(owner)]
			return broker.Committed{Token: stored&receiptToken != 0, Grant: stored&receiptGrant != 0}, true
		}
	}
	return broker.Committed{}, false
}

func (r *historyRecord) addReceipt(owner broker.ID, c broker.Committed) {
	var stored byte
	if c.Token {
		stored |= receiptToken
	}
	if c.Grant {
		stored |= receiptGrant
	}
	b := slices.Concat(owner[:], []byte{stored}, r.Receipts)
	r.Receipts = b[:min(len(b), maxReceipts*receiptSize)]
}

// addAttempts takes them in the order in which they were made.
func (r *historyRecord) addAttempts(attempts []broker.Attempt) {
	for _, a := range attempts {
		record := attemptRecord{
			Start: at(a.Start), Duration: int64(a.Duration), Host: a.Host, Status: a.Status,
			UpstreamError: a.UpstreamError, Reason: a.Reason, Taken: a.Taken,
		}
		r.Attempts = append([]attemptRecord{record}, r.Attempts...)
	}
	r.Attempts = r.Attempts[:min(len(r.Attempts), maxAttempts)]
}

func (r historyRecord) attempts() []broker.Attempt {
	var all []broker.Attempt
	for _, a := range r.Attempts {
		all = append(all, broker.Attempt{
			Start: a.Start.time(), Duration: time.Duration(a.Duration), Host: a.Host, Status: a.Status,
			UpstreamError: a.UpstreamError, Reason: a.Reason, Taken: a.Taken,
		})
	}
	return all
}

// backoffRecord is a broker.Backoff.
type backoffRecord struct {
	Failures int              `json:"failures"`
	Until    instant          `json:"until,omitzero"`
	Last     rememberedRecord `json:"last"`
}
