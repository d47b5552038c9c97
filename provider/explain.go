package provider

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/suggest"
)

// Explain returns the requests that a definition would send, for people, and what is wrong with the inputs. Nothing is sent.
// Secrets stand as `<client_secret>`, and so does what only an answer will bring. It fails with NotFound or ProviderInvalid.
func (c *Catalog) Explain(name string, inputs map[string]string, sel broker.Selection) (requests []string, problems []Problem, err error) {
	c.mu.RLock()
	d, e := c.loaded[name], c.entries[name]
	c.mu.RUnlock()
	if d == nil {
		if e.Name == "" {
			return nil, nil, &broker.Failure{Kind: broker.NotFound, Provider: name}
		}
		return nil, e.Problems, &broker.Failure{Kind: broker.ProviderInvalid, Provider: name}
	}
	cred := broker.Credential{Inputs: inputs, Secrets: map[string]broker.SecretInput{}, Seeds: map[string]broker.Seed{}}
	for in, x := range d.inputs {
		switch {
		case x.seed:
			cred.Seeds[in] = broker.Seed{Hash: broker.NewID()}
		case x.secret:
			cred.Secrets[in] = broker.SecretInput{Value: broker.NewSecret(shownAs(in))}
		}
	}
	for _, v := range d.Check(cred, nil) {
		if !strings.HasPrefix(v.Field, "secrets.") { // they are not given here
			problems = append(problems, Problem{Message: v.Field + " " + v.Description})
		}
	}
	for _, in := range slices.Sorted(maps.Keys(inputs)) {
		if d.inputs[in] == nil {
			problems = append(problems, Problem{Message: "credential.inputs." + in + ": provider " + name + " has no such input", Suggestion: suggest.Nearest(in, slices.Collect(maps.Keys(d.inputs)))})
		}
	}
	if chosen, err := d.Select(cred, sel); err != nil {
		problems = append(problems, Problem{Message: err.Error()})
	} else {
		sel = chosen
	}
	if d.token != nil {
		requests = append(requests, "nothing is asked: the token is made of the credential's inputs\n")
	}
	requests = append(requests, d.explainRun(broker.Obtain, d.obtain, cred, sel)...)
	requests = append(requests, d.explainRun(broker.Refresh, d.refresh, cred, sel)...)
	return requests, problems, nil
}

// shownAs is what stands for a value that is not shown. It is made of letters that no encoding changes, and ends where the
// name ends: token is not the beginning of token_type.
func shownAs(name string) string { return "masked." + name + ".~" }

var masked = regexp.MustCompile(`masked\.([a-z][a-z0-9_]{0,63})\.~`)

func mask(s string) string { return masked.ReplaceAllString(s, "<$1>") }

func (d *definition) explainRun(run broker.Run, qs []*request, c broker.Credential, sel broker.Selection) []string {
	v := newValues(nil)
	d.give(v, c, sel)
	for name := range d.let {
		v.set(name, shownAs(name), true)
	}
	for name, in := range d.inputs {
		if x := v.fixed[name]; x.absent() && !in.optional {
			v.set(name, shownAs(name), false)
		}
	}
	for name, in := range d.parameters {
		if x := v.fixed[name]; in.secret && !x.absent() || x.absent() && !in.optional {
			v.set(name, shownAs(name), true)
		}
	}
	if run == broker.Refresh {
		v.set("refresh_token", shownAs("refresh_token"), true)
		for _, h := range d.held() {
			v.set(h, shownAs(h), true)
		}
	}
	var out []string
	for i, q := range qs {
		title := fmt.Sprintf("%s, request %d of %d", run, i+1, len(qs))
		out = append(out, title+"\n"+d.explainRequest(q, v))
		for _, t := range q.take {
			v.set(t.name, shownAs(t.name), true)
		}
	}
	return out
}

// explainURL writes a URL for people. One that cannot be made yet is written as it stands, with what is known.
func (d *definition) explainURL(t urlTemplate, v *values) string {
	if u, err := d.url(t, v); err == nil {
		return printable(mask(u.String()))
	}
	return explainText(t.written, v)
}

// explainText writes a text for people: names that stand for nothing yet are left in it.
func explainText(t text, v *values) string {
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.literal)
		if p.name == "" {
			continue
		}
		if s := v.fixed[p.name].String(); s != "" {
			b.WriteString(s)
		} else {
			b.WriteString("<" + p.name + ">")
		}
	}
	return printable(mask(b.String()))
}

func (d *definition) explainRequest(q *request, v *values) string {
	var b strings.Builder
	to := "<token_endpoint>"
	if q.issuer != nil {
		fmt.Fprintf(&b, "  GET %s/.well-known/openid-configuration\n  then\n", trimSlash(d.explainURL(*q.issuer, v)))
	} else {
		to = d.explainURL(q.url, v)
	}
	w, err := d.buildAt(q, &url.URL{Scheme: "https", Host: "example.com"}, v)
	if err != nil {
		return "  cannot be made: " + err.Error() + "\n"
	}
	if w.URL.RawQuery != "" {
		separator := "?"
		if strings.Contains(to, "?") {
			separator = "&"
		}
		to += separator + mask(w.URL.RawQuery)
	}
	fmt.Fprintf(&b, "  %s %s\n", w.Method, to)
	for _, name := range slices.Sorted(maps.Keys(w.Header)) {
		for _, h := range w.Header[name] {
			if name == "Authorization" && (q.auth.kind == secretBasic || q.auth.kind == rawBasic) {
				h = "Basic " + explainText(q.auth.id, v) + ":" + explainText(q.auth.secret, v)
			}
			fmt.Fprintf(&b, "  %s: %s\n", name, mask(h))
		}
	}
	if len(w.Body) > 0 {
		fmt.Fprintf(&b, "\n  %s\n", mask(strings.ReplaceAll(string(w.Body), "\n", "\n  ")))
	}
	for _, t := range q.take {
		need := ""
		if t.where.optional || builtinNames[t.name] && t.name != "token" {
			need = ", if it is there"
		}
		fmt.Fprintf(&b, "  takes %s from %s%s\n", t.name, t.where.written, need)
	}
	return b.String()
}
