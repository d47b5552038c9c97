// Package filewatch says when files may have changed. It reads none of them.
package filewatch

import (
	"context"
	"maps"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/tokenbroker/tokenbroker/internal/steps"
)

const (
	// Settle is how long after the last change in a directory the files are looked at: editors write in several steps, and a certificate and its key
	// are two files. Where something changes all the time, they are looked at after atMost.
	Settle = 200 * time.Millisecond
	atMost = time.Second
	// watchedMost is how many of the last steps to a file are watched.
	watchedMost = 64
	// Every is the safety net below the file system's notifications, which not every file system has.
	Every = 30 * time.Second
)

// Watch calls look after something has changed in a file's directory, or on the way to it, and every so often whatever happens (Every), until ctx ends. It watches
// directories: editors put another file in the place of one, Kubernetes moves a link beside it to another directory, and others move a directory further up. look is
// never called concurrently.
func Watch(ctx context.Context, files []string, every time.Duration, look func()) {
	changed := make(chan struct{}, 1)
	again := func() {}
	if w, err := fsnotify.NewWatcher(); err == nil {
		var to atomic.Pointer[way]
		again = func() { to.Store(follow(w, files)) }
		heard := make(chan struct{})
		go func() {
			defer close(heard)
			hear(w, &to, changed)
		}()
		defer func() {
			_ = w.Close() // nothing is left to be done
			<-heard
		}()
	}
	again()
	tick := time.NewTicker(every)
	defer tick.Stop()
	quiet := time.NewTimer(Settle)
	defer quiet.Stop()
	var since time.Time // the first change that has not been looked at
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			quiet.Reset(min(Settle, max(0, since.Add(atMost).Sub(now))))
			continue
		case <-quiet.C:
		case <-tick.C:
		}
		since = time.Time{}
		again()
		look()
	}
}

// hear tells what the watcher says until it is closed. It asks the watcher nothing: that may say something while it holds what it needs to answer.
func hear(w *fsnotify.Watcher, to *atomic.Pointer[way], changed chan<- struct{}) {
	for {
		select {
		case e, ok := <-w.Events:
			if !ok {
				return
			}
			if is := to.Load(); is != nil && !is.concerns(e.Name) {
				continue
			}
		case _, ok := <-w.Errors: // there was more than is told
			if !ok {
				return
			}
		}
		select {
		case changed <- struct{}{}:
		default: // it is told
		}
	}
}

// A way is what decides where files are.
type way struct {
	// names are those that are looked up on the way, and dirs the directories in which that is done.
	names, dirs map[string]bool
	// own are the directories that have the files.
	own map[string]bool
}

// concerns reports whether a change of this name may be one of the files. The directories above may be busy with others'.
func (w *way) concerns(name string) bool {
	return w.names[name] || w.own[name] || w.own[filepath.Dir(name)]
}

// follow has the directories watched that lead to the files now, and no others.
func follow(w *fsnotify.Watcher, files []string) *way {
	is := wayTo(files)
	for range 3 { // it may change before it is watched
		for d := range is.dirs {
			_ = w.Add(d) // also what is watched: a directory that was replaced is another one
		}
		was := is
		if is = wayTo(files); maps.Equal(is.names, was.names) {
			break
		}
	}
	for _, d := range w.WatchList() {
		if !is.dirs[d] {
			_ = w.Remove(d)
		}
	}
	return is
}

func wayTo(files []string) *way {
	w := &way{map[string]bool{}, map[string]bool{}, map[string]bool{}}
	for _, f := range files {
		all, _ := steps.To(f)                    // where one is missing, it may appear
		all = all[max(0, len(all)-watchedMost):] // who may write on the way could make it long
		for i, s := range all {
			w.names[s.Path], w.dirs[filepath.Dir(s.Path)] = true, true
			if i == len(all)-1 {
				w.own[filepath.Dir(s.Path)] = true
			}
		}
	}
	return w
}
