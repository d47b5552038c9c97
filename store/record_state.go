package store

import (
	"reflect"
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

func (r healthRecord) failure(version broker.ID, digest string) *rememberedRecord {
	if r.Version.id() != version || r.Digest != digest {
		return nil
	}
	return r.Failure
}

// historyRecord is what people see.
type historyRecord struct {
	LastSuccess instant         `json:"last_success,omitzero"`
	Attempts    []attemptRecord `json:"attempts,omitzero"`
	// Receipts are of brokers of a former version, for which they make a repeated Commit have the effect of one. They are passed
	// on for as long as such a broker may share the store.
	Receipts []byte `json:"receipts,omitzero"`
}

type attemptRecord struct {
	Start         instant  `json:"start,omitzero"`
	Duration      int64    `json:"duration_ns,omitzero"`
	Host          string   `json:"host,omitzero"`
	Status        int      `json:"status,omitzero"`
	UpstreamError string   `json:"upstream_error,omitzero"`
	Reason        string   `json:"reason,omitzero"`
	Detail        string   `json:"detail,omitzero"`
	Taken         []string `json:"taken,omitzero"`
}

const maxAttempts = 20

// addAttempts takes them in the order in which they were made.
func (r *historyRecord) addAttempts(attempts []broker.Attempt) {
	for _, a := range attempts {
		record := attemptRecord{
			Start: at(a.Start), Duration: int64(a.Duration), Host: a.Host, Status: a.Status,
			UpstreamError: a.UpstreamError, Reason: a.Reason, Detail: a.Detail, Taken: a.Taken,
		}
		if !r.has(record) { // else its exchange is noted again, because the answer was lost
			r.Attempts = append([]attemptRecord{record}, r.Attempts...)
		}
	}
	r.Attempts = r.Attempts[:min(len(r.Attempts), maxAttempts)]
}

func (r historyRecord) has(a attemptRecord) bool {
	return !a.Start.IsZero() && slices.ContainsFunc(r.Attempts, func(there attemptRecord) bool {
		same := there.Start.time().Equal(a.Start.time())
		there.Start = a.Start
		return same && reflect.DeepEqual(there, a)
	})
}

func (r historyRecord) attempts() []broker.Attempt {
	var all []broker.Attempt
	for _, a := range r.Attempts {
		all = append(all, broker.Attempt{
			Start: a.Start.time(), Duration: time.Duration(a.Duration), Host: a.Host, Status: a.Status,
			UpstreamError: a.UpstreamError, Reason: a.Reason, Detail: a.Detail, Taken: a.Taken,
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
