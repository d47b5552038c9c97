package daemon

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
)

// A deadlineRecorder is an answer that notes by when it has to be taken.
type deadlineRecorder struct {
	*httptest.ResponseRecorder
	within []time.Duration
}

// SetWriteDeadline is for http.ResponseController.
func (r *deadlineRecorder) SetWriteDeadline(t time.Time) error {
	r.within = append(r.within, time.Until(t))
	return nil
}

// TestBackupIsBounded: each part has its own bound, so that a slow reader gets all, and one that has stopped is broken off.
func TestBackupIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Running{log: slog.New(slog.DiscardHandler)}
		w := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
		r.answerBackup(w, func(to io.Writer) error {
			for range 3 {
				if _, err := io.WriteString(to, "part"); err != nil {
					return err
				}
				<-time.After(takeMost - time.Second)
			}
			return nil
		})
		if len(w.within) != 3 || w.within[0] != takeMost || w.within[2] != takeMost {
			t.Errorf("got bounds %v, want %v for each part", w.within, takeMost)
		}
		if w.Body.String() != "partpartpart" || w.Header().Get(settings.BackupComplete) != "yes" {
			t.Errorf("got %q, header %v", w.Body, w.Header())
		}
	})
}

// TestFailedBackup: why it failed is in the answer, unless it has begun.
func TestFailedBackup(t *testing.T) {
	r := &Running{log: slog.New(slog.DiscardHandler)}
	w := httptest.NewRecorder()
	r.answerBackup(w, func(io.Writer) error { return errors.New("the disk is full") })
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "the disk is full") || w.Header().Get(settings.BackupComplete) != "" {
		t.Errorf("got %d, %q, header %v", w.Code, w.Body, w.Header())
	}
	begun := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
	r.answerBackup(begun, func(to io.Writer) error {
		_, _ = io.WriteString(to, "part")
		return errors.New("the disk is full")
	})
	if begun.Body.String() != "part" || begun.Header().Get(settings.BackupComplete) != "" {
		t.Errorf("got %q, header %v", begun.Body, begun.Header())
	}
}
