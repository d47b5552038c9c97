package upstreamsim

import (
	"math"
	"net/http"
	"strconv"
)

// suffer lets a fault happen. It returns what is answered instead, or that the request goes on as usual; a cut connection
// ends the handler. decided is what would have been answered, if the request took effect already.
func (x *exchange) suffer(f *fault, decided answer) (instead answer, happens bool) {
	switch f.Kind {
	case FaultLost, FaultReset:
		x.lose(decided)
		x.leave()
		x.sim.emit()
		if f.Kind == FaultReset || f.After && x.r.ProtoMajor == 1 { // HTTP/2: other requests are on the connection
			resetConn(x.r)
		}
		panic(http.ErrAbortHandler)
	case FaultHang:
		x.wait(f.released, decided)
		return answer{}, false
	case FaultTooMany, FaultTooManyDate:
		ans := jsonAnswer(http.StatusTooManyRequests, map[string]any{"message": "Too Many Requests"})
		if f.RetryAfter > 0 {
			ans.header.Set("Retry-After", strconv.Itoa(int(math.Ceil(f.RetryAfter.Seconds()))))
			if f.Kind == FaultTooManyDate {
				ans.header.Set("Retry-After", x.sim.now().Add(f.RetryAfter).UTC().Format(http.TimeFormat))
			}
		}
		return ans, true
	case FaultServerError:
		return newAnswer(http.StatusInternalServerError, "text/plain; charset=utf-8", []byte("Internal Server Error")), true
	case FaultBadGateway:
		return htmlAnswer(http.StatusBadGateway), true
	case FaultErrorIn200:
		return jsonAnswer(http.StatusOK, map[string]any{"error": f.Code, "error_description": "injected"}), true
	case FaultEmpty:
		return newAnswer(http.StatusOK, "application/json", nil), true
	case FaultGarbage:
		return newAnswer(http.StatusOK, "application/json", []byte("\xff\xfe{\"access_token\": tru\x00")), true
	case FaultHuge:
		return newAnswer(http.StatusOK, "application/json", nil), true
	case FaultRedirect:
		return x.redirect(), true
	}
	return x.demanded(f.Code), true
}

// redirect points to another host of ours and remembers the way.
func (x *exchange) redirect() answer {
	host := hostAuth
	if x.host == hostAuth {
		host = hostLogin
	}
	path := "/redirected/" + randomHex(8)
	x.sim.mu.Lock()
	x.sim.follows[path] = &exchange{sim: x.sim, system: x.system, endpoint: x.endpoint, number: x.number, account: x.account}
	x.sim.mu.Unlock()
	ans := newAnswer(http.StatusTemporaryRedirect, "", nil)
	ans.header.Set("Location", "https://"+host+path)
	return ans
}

// demanded is an OAuth error on demand.
func (x *exchange) demanded(code string) answer {
	x.sim.mu.Lock()
	defer x.sim.mu.Unlock()
	status := http.StatusBadRequest
	if code == "invalid_client" {
		status = http.StatusUnauthorized
	}
	return x.refuse(status, code, ReasonInjected, code)
}

// finish writes the answer, in the way of the fault that is left.
func (x *exchange) finish(ans answer, f *fault) {
	switch {
	case f != nil && f.Kind == FaultSlowBody:
		x.drip(ans, f.Interval)
	case f != nil && f.Kind == FaultHuge:
		x.flood(ans, f.Size)
	default:
		x.write(ans)
	}
}

// wait returns when released is closed. If the client leaves or the Sim is closed before, the answer is lost and the handler
// ends.
func (x *exchange) wait(released <-chan struct{}, decided answer) {
	x.sim.emit()
	select {
	case <-released:
		return
	case <-x.r.Context().Done():
	case <-x.sim.closed:
	}
	x.lose(decided)
	panic(http.ErrAbortHandler)
}
