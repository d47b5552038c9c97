package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
)

// What answers become in memory. An object takes some 340 bytes, be it of six: so what counts is how many values there are, and not how long the text is.
const (
	// mostValues bounds those of one answer, and mostFields those of a form, each of which counts as a value: net/url reads no more of them.
	mostValues = jsondoc.MostValues
	mostFields = 10_000
	// mostValuesAtOnce bounds those of all large answers that a process holds, which is some 14 MB.
	mostValuesAtOnce = 2 * mostValues
	// fewValues is up to how many an answer waits for no other: most have a dozen.
	fewValues = 1000
	// longestWait is how long an answer that may have a refresh token waits for its turn at least, also when the exchange's time is over.
	longestWait = 10 * time.Second
)

// answers is where this process holds the large ones, from when they are read until all is taken of them. What was not asked for yet, or is still coming, is
// not in it: nobody waits for another upstream.
var answers = newRoom(mostValuesAtOnce)

// enter waits until there is room for an answer; nil: there is, or the answer needs none.
func (e *exchange) enter(ctx context.Context, q *request, a *answer) *broker.UpstreamError {
	n := a.values(q.answer)
	if n <= fewValues || n > mostValues { // of too many none is read
		return nil
	}
	if e.x.Run == broker.Refresh { // what was presented for it may be spent; those before it are done soon
		until := time.Now().Add(longestWait)
		if end, ok := ctx.Deadline(); ok && end.After(until) {
			until = end
		}
		patient, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
		defer cancel()
		ctx = patient
	}
	if answers.enter(ctx, n) != nil {
		return &broker.UpstreamError{Level: broker.LevelResponse, Status: a.Status, Lost: true, Detail: "the answer is large, and was not read in time: others were read before it"}
	}
	e.room = n
	return nil
}

// leave makes room for others' answers: nothing more is taken of the last one.
func (e *exchange) leave() {
	if e.room > 0 {
		answers.leave(e.room)
	}
	e.room = 0
}

// kindOf is how a body is read: as the request says, else by Content-Type, else by its first character.
func (a *answer) kindOf(said string) string {
	if said != "" {
		return said
	}
	media, body := a.media(), bytes.TrimSpace(a.Body)
	switch {
	case media == "application/json", strings.HasSuffix(media, "+json"):
		return "json"
	case media == "application/x-www-form-urlencoded":
		return "form"
	case len(body) > 0 && bytes.IndexByte([]byte(`{["`), body[0]) >= 0:
		return "json"
	}
	return "text"
}

func (a *answer) media() string {
	media, _, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return media
}

// values counts what reading would keep in memory.
func (a *answer) values(said string) int {
	switch a.kindOf(said) {
	case "json":
		return jsondoc.Values(a.Body)
	case "form":
		return 1 + bytes.Count(a.Body, []byte("&"))
	}
	return 0
}

// read parses the body, once.
func (a *answer) read(said string) {
	if a.parsed {
		return
	}
	a.parsed = true
	body := bytes.TrimSpace(a.Body)
	switch a.kindOf(said) {
	case "json":
		doc, err := jsondoc.Read(body)
		switch {
		case errors.Is(err, jsondoc.ErrTooMany):
			a.tooMany = true
		case errors.Is(err, jsondoc.ErrTwice):
			a.unread = "it is JSON that has a name twice, of which nobody knows which is meant"
		case err != nil && len(body) > 0:
			a.unread = "it is no JSON"
		}
		a.doc = doc
	case "form":
		a.readForm(string(body))
	default:
		media := a.media()
		a.html = said == "" && (media == "text/html" || media == "application/xhtml+xml" || bytes.HasPrefix(body, []byte("<")))
	}
}

func (a *answer) readForm(body string) {
	if a.tooMany = a.values("form") > mostFields; a.tooMany {
		return
	}
	vs, err := url.ParseQuery(body)
	if err != nil {
		return
	}
	doc := map[string]any{}
	a.twice = map[string]bool{}
	for k, v := range vs {
		doc[k], a.twice[k] = v[0], len(v) > 1
	}
	a.doc = doc
}

// compact is a value as the names of a run keep it while others are asked: what has many values in it is kept as JSON. A list of texts and numbers takes little.
func (v value) compact() value {
	if l, ok := v.v.([]any); ok && !slices.ContainsFunc(l, hasValues) || !hasValues(v.v) || valuesIn(v.v) <= fewValues {
		return v
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(v.v) == nil { // what was JSON can be
		v.v = json.RawMessage(bytes.TrimSpace(b.Bytes()))
	}
	return v
}

func hasValues(v any) bool {
	switch v.(type) {
	case []any, map[string]any:
		return true
	}
	return false
}

func valuesIn(v any) int {
	n := 1
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			n += valuesIn(x)
		}
	case map[string]any:
		for _, x := range v {
			n += valuesIn(x)
		}
	}
	return n
}
