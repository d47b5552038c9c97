package upstreamsim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// answer is a response that is decided but not written.
type answer struct {
	status int
	header http.Header
	body   []byte
	grant  *refreshToken // the refresh token whose fate hangs on it
}

func newAnswer(status int, contentType string, body []byte) answer {
	header := http.Header{}
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	return answer{status: status, header: header, body: body}
}

func jsonAnswer(status int, value any) answer {
	body, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("upstreamsim: encode answer: %v", err)) // an oddity's value was checked when it was set
	}
	return newAnswer(status, "application/json; charset=utf-8", body)
}

func htmlAnswer(status int) answer {
	text := http.StatusText(status)
	return newAnswer(status, "text/html; charset=utf-8",
		fmt.Appendf(nil, "<!DOCTYPE html><html><head><title>%d %s</title></head><body><h1>%s</h1></body></html>", status, text, text))
}

// write sends the answer. Whoever reads it to its end finds it in the ledger as delivered, because that is recorded before the
// last byte is sent.
func (x *exchange) write(ans answer) {
	if x.r.Context().Err() != nil {
		x.lose(ans)
		panic(http.ErrAbortHandler)
	}
	x.writeHeader(ans, len(ans.body))
	head, tail := ans.body, []byte(nil)
	if n := len(head); n > 0 && ans.grant != nil {
		head, tail = head[:n-1], head[n-1:]
	}
	x.leave()
	_, err := x.w.Write(head)
	if err == nil && ans.grant != nil {
		err = http.NewResponseController(x.w).Flush()
	}
	if err != nil {
		x.lose(ans)
		panic(http.ErrAbortHandler)
	}
	x.deliver(ans)
	_, _ = x.w.Write(tail) // an error can no longer change what the ledger says
}

// drip sends the answer byte by byte. The request stays in flight until the last one.
func (x *exchange) drip(ans answer, interval time.Duration) {
	x.writeHeader(ans, len(ans.body))
	timer := time.NewTicker(interval)
	defer timer.Stop()
	for i := range ans.body {
		select {
		case <-timer.C:
		case <-x.r.Context().Done():
			x.lose(ans)
			panic(http.ErrAbortHandler)
		case <-x.sim.closed:
			x.lose(ans)
			panic(http.ErrAbortHandler)
		}
		if i == len(ans.body)-1 {
			x.leave()
			x.deliver(ans)
		}
		if _, err := x.w.Write(ans.body[i : i+1]); err != nil {
			panic(http.ErrAbortHandler)
		}
		_ = http.NewResponseController(x.w).Flush() // the next write fails too
	}
}

// flood sends an endless-looking body of the given size.
func (x *exchange) flood(ans answer, size int64) {
	x.writeHeader(ans, int(size))
	chunk := make([]byte, 64<<10)
	for i := range chunk {
		chunk[i] = 'A'
	}
	prefix := []byte(`{"access_token":"`)
	copy(chunk, prefix)
	for size > 0 {
		n, err := x.w.Write(chunk[:min(size, int64(len(chunk)))])
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		size -= int64(n)
		copy(chunk, "AAAAAAAAAAAAAAAAA")
	}
}

func (x *exchange) writeHeader(ans answer, length int) {
	header := x.w.Header()
	for name, values := range ans.header {
		header[name] = values
	}
	header.Set("Date", x.date().UTC().Format(http.TimeFormat))
	header.Set("Content-Length", strconv.Itoa(length))
	x.w.WriteHeader(ans.status)
}

// deliver and lose record the fate of the answer's refresh token, where it has one.
func (x *exchange) deliver(ans answer) { x.settle(ans, KindDelivered) }
func (x *exchange) lose(ans answer)    { x.settle(ans, KindLost) }

func (x *exchange) settle(ans answer, kind Kind) {
	if ans.grant == nil {
		return
	}
	x.sim.mu.Lock()
	x.sim.recordToken(ans.grant, kind, x.number, "")
	x.sim.mu.Unlock()
}
