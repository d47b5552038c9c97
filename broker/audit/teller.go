package audit

import "sync"

// A teller says what is said of sinks, one after the other, in a goroutine of its own: where it is said may hang as a sink does, and is often the same
// pipe. What there is no room for is not said.
type teller struct {
	says chan func()
	stop chan struct{}
	over chan struct{}
	once sync.Once
}

func newTeller() *teller {
	return &teller{says: make(chan func(), 64), stop: make(chan struct{}), over: make(chan struct{})}
}

func (t *teller) run() {
	defer close(t.over)
	for {
		select {
		case say := <-t.says:
			say()
		case <-t.stop:
			for {
				select {
				case say := <-t.says:
					say()
				default:
					return
				}
			}
		}
	}
}

func (t *teller) say(what func()) {
	select {
	case t.says <- what:
	default:
	}
}

// finish has it end once all is said.
func (t *teller) finish() { t.once.Do(func() { close(t.stop) }) }
