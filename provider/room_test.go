package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// nested is JSON of so many values, in objects of one: nothing takes more memory.
func nested(values int) string {
	const deep = 90
	one := strings.Repeat(`{"":`, deep-1) + "1" + strings.Repeat("}", deep-1)
	return `{"access_token": "t", "x": [` + strings.Repeat(one+",", (values-4)/deep-1) + one + "]}"
}

func fields(n int) string {
	var b strings.Builder
	b.WriteString("access_token=t")
	for i := range n - 1 {
		fmt.Fprintf(&b, "&%x", i)
	}
	return b.String()
}

// TestAnAnswerOfTooManyValuesIsNotRead, however short it is: what it becomes in memory is bounded.
func TestAnAnswerOfTooManyValuesIsNotRead(t *testing.T) {
	for name, c := range map[string]struct {
		kind, body string
		status     int
		want       broker.Kind
	}{
		"JSON":           {"application/json", nested(mostValues + 200), 200, broker.UpstreamResponseInvalid},
		"a form":         {"application/x-www-form-urlencoded", fields(mostFields + 1), 200, broker.UpstreamResponseInvalid},
		"JSON, unsaid":   {"", nested(mostValues + 200), 200, broker.UpstreamResponseInvalid},
		"of an outage":   {"application/json", nested(mostValues + 200), 503, broker.UpstreamUnavailable},
		"of too many":    {"application/json", nested(mostValues + 200), 429, broker.UpstreamRateLimited},
		"many":           {"application/json", nested(mostValues), 200, broker.Internal},
		"many fields":    {"application/x-www-form-urlencoded", fields(mostFields), 200, broker.Internal},
		"4,000 tenants":  {"application/json", `{"access_token": "t", "l": [` + strings.TrimSuffix(strings.Repeat(`{"id": "0b0e8f6e-8f0f-4b1e", "name": "Tenant"},`, 4000), ",") + "]}", 200, broker.Internal},
		"a page of them": {"application/json", `{"access_token": "t", "page": "` + strings.Repeat("[{,:", 2*mostValues) + `"}`, 200, broker.Internal},
	} {
		v := newVendor(t, says(c.status, c.kind, c.body))
		_, err := v.obtain(v.define("obtain: {oauth2: 'https://example.com/t', auth: none}"), credential(nil), broker.Selection{})
		if c.want == broker.Internal {
			if err != nil {
				t.Errorf("%s: got %v", name, err)
			}
			continue
		}
		if e := upstreamError(t, err); e.Kind() != c.want || e.Detail != "the answer has too many values: more than 20000, or 10000 fields of a form" || e.Status != c.status {
			t.Errorf("%s: got %+v", name, e)
		}
	}
}

// reading begins to read an answer as an exchange does, and goes on when go is closed.
func reading(t *testing.T, ctx context.Context, d *definition, run broker.Run, body string, gone <-chan struct{}) *broker.UpstreamError { //nolint:revive // t first, as everywhere in tests
	t.Helper()
	e := &exchange{d: d, x: broker.Exchange{Run: run}, v: newValues(d.let)}
	defer e.leave()
	a := &answer{Answer: transport.Answer{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(body)}, names: e.v}
	q := d.obtain[0]
	if failure := e.enter(ctx, q, a); failure != nil {
		return failure
	}
	failure := e.wrong(q, a, nil)
	<-gone
	runtime.KeepAlive(a)
	return failure
}

// TestManyLargeAnswersAtOnceTakeABoundedMemory: sixteen of the largest, which is what one upstream may be asked at once. Small ones wait for none of them.
func TestManyLargeAnswersAtOnceTakeABoundedMemory(t *testing.T) {
	d := newVendor(t, nil).define("obtain: {oauth2: 'https://example.com/t', auth: none}")
	body := nested(mostValues)
	live := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := live()
	synctest.Test(t, func(t *testing.T) {
		gone, done := make(chan struct{}), make(chan *broker.UpstreamError)
		for range 16 {
			go func() { done <- reading(t, t.Context(), d, broker.Obtain, body, gone) }()
		}
		synctest.Wait()
		took := live() - before
		if took > 24<<20 {
			t.Errorf("they take %d MiB", took>>20)
		}
		open := make(chan struct{})
		close(open)
		if failure := reading(t, t.Context(), d, broker.Obtain, `{"access_token": "t"}`, open); failure != nil {
			t.Errorf("a small one: got %+v", failure)
		}
		close(gone)
		for range 16 {
			if failure := <-done; failure != nil {
				t.Errorf("got %+v", failure)
			}
		}
	})
	if answers.left != mostValuesAtOnce || len(answers.waiting) > 0 {
		t.Errorf("there is room for %d, and %d wait", answers.left, len(answers.waiting))
	}
}

// TestWhatIsTakenOfALargeAnswerIsSmall: a run keeps it while it asks the next, which may take its time. It is sent as it was.
func TestWhatIsTakenOfALargeAnswerIsSmall(t *testing.T) {
	nestedList := strings.TrimSuffix(strings.TrimPrefix(nested(mostValues-100), `{"access_token": "t", "x": `), "}")
	few := `[{"a<b": 1.50}, [null, true]]`
	texts := "[" + strings.Repeat(`"a",`, mostValues/2) + `"b"]`
	for name, list := range map[string]string{"many": nestedList, "few": few, "texts": texts, "escaped": "[" + strings.Repeat(`{"a<b": "\u003c&"},`, fewValues) + "1]"} {
		body := `{"access_token": "t", "x": ` + list + `}`
		v := newVendor(t, nil)
		v.answer = func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/a" {
				jsonSays(body)(w, r)
				return
			}
			jsonSays(`{"access_token": "t"}`)(w, r)
		}
		d := v.define("obtain: [{get: 'https://example.com/a', take: {x: x}}, {post: 'https://example.com/b', json: {x: '{{x}}'}, take: {token: access_token}}]\nattributes: [x]")
		a, err := v.obtain(d, credential(nil), broker.Selection{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		asked := v.requests()
		var sent, came any
		if err := json.Unmarshal([]byte(asked[len(asked)-1].body), &sent); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := json.Unmarshal([]byte(`{"x": `+list+`}`), &came); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(sent, came) {
			t.Errorf("%s: got %.100s", name, asked[len(asked)-1].body)
		}
		if doc, err := jsondoc.Read([]byte(list)); err != nil || a.Values["x"].Reveal() != jsondoc.Text(doc) {
			t.Errorf("%s: got %v, %.100s", name, err, a.Values["x"].Reveal())
		}
		q, page := d.obtain[0], &answer{Answer: transport.Answer{Status: http.StatusOK, Header: http.Header{}, Body: []byte(body)}}
		e := &exchange{d: d, v: newValues(nil), attempts: make([]broker.Attempt, 1)}
		page.read(q.answer)
		out := broker.Answer{Values: map[string]broker.Secret{}, TakenBy: map[string]string{}}
		if f := e.taking(t.Context(), q, page, &out); f != nil {
			t.Errorf("%s: got %+v", name, f)
		}
		if kept := valuesIn(e.v.fixed["x"].v); kept > fewValues && name != "texts" {
			t.Errorf("%s: it keeps %d values", name, kept)
		}
	}
}

// TestALargeAnswerWaitsNoLongerThanItsExchange, unless it may bring a refresh token: what was presented for that may be spent.
func TestALargeAnswerWaitsNoLongerThanItsExchange(t *testing.T) {
	d := newVendor(t, nil).define("obtain: {oauth2: 'https://example.com/t', auth: none}")
	body := nested(mostValues)
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			run    broker.Run
			within time.Duration
			after  time.Duration // others are done
			fails  bool
		}{
			{broker.Obtain, time.Second, time.Second - 1, false},
			{broker.Obtain, time.Second, time.Second + 1, true},
			{broker.Refresh, time.Second, longestWait - 1, false},
			{broker.Refresh, time.Second, longestWait + 1, true},
			{broker.Refresh, 2 * longestWait, 2*longestWait - 1, false},
			{broker.Refresh, 2 * longestWait, 2*longestWait + 1, true},
		} {
			gone, done, open := make(chan struct{}), make(chan *broker.UpstreamError), make(chan struct{})
			close(open)
			for range 2 {
				go func() { done <- reading(t, t.Context(), d, broker.Obtain, body, gone) }()
			}
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), c.within)
			time.AfterFunc(c.after, func() { close(gone) })
			failure := reading(t, ctx, d, c.run, body, open)
			cancel()
			<-gone
			for range 2 {
				<-done
			}
			if (failure != nil) != c.fails {
				t.Errorf("%s after %v: got %+v", c.run, c.after, failure)
			} else if c.fails && (failure.Kind() != broker.UpstreamResponseInvalid || !failure.Lost || !strings.Contains(failure.Detail, "not read in time")) {
				t.Errorf("%s after %v: got %+v", c.run, c.after, failure)
			}
		}
	})
}

// TestWhoGivesUpARoomKeepsNobodyOut who wants less of it.
func TestWhoGivesUpARoomKeepsNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(10)
		if err := r.enter(t.Context(), 6); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp, let := make(chan error), make(chan error)
		go func() { gaveUp <- r.enter(ctx, 8) }()
		synctest.Wait()
		go func() { let <- r.enter(t.Context(), 4) }()
		synctest.Wait()
		if len(r.waiting) != 2 {
			t.Errorf("got %d that wait, want them in order", len(r.waiting))
		}
		cancel()
		if err := <-gaveUp; err == nil {
			t.Error("got in")
		}
		if err := <-let; err != nil {
			t.Error(err)
		}
		r.leave(6)
		r.leave(4)
		if r.left != 10 {
			t.Errorf("got %d left", r.left)
		}
	})
}
