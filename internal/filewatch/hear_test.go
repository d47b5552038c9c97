package filewatch

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/fsnotify/fsnotify"
)

// TestAWatcherIsAlwaysHeard: it tells errors while it holds what it needs to answer, so that whoever asks it something, and does not hear it meanwhile, waits for ever. It is heard also while
// nobody takes the word that something has changed.
func TestAWatcherIsAlwaysHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &fsnotify.Watcher{Events: make(chan fsnotify.Event), Errors: make(chan error)}
		var to atomic.Pointer[way]
		to.Store(&way{names: map[string]bool{"/etc": true, "/etc/file": true}, own: map[string]bool{"/etc": true}})
		changed, ended := make(chan struct{}, 1), make(chan struct{})
		go func() {
			defer close(ended)
			hear(w, &to, changed)
		}()
		told := func() bool {
			synctest.Wait()
			select {
			case <-changed:
				return true
			default:
				return false
			}
		}
		for range 3 {
			w.Errors <- errors.New("there was more")
			w.Events <- fsnotify.Event{Name: "/etc/file"}
		}
		if !told() || told() {
			t.Error("what has changed is told once until it is taken")
		}
		for name, want := range map[string]bool{"/etc/beside": true, "/etc": true, "/elsewhere": false, "/elsewhere/file": false} {
			if w.Events <- (fsnotify.Event{Name: name}); told() != want {
				t.Errorf("%s: told: %v", name, !want)
			}
		}
		close(w.Events)
		<-ended
	})
}
