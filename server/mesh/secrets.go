package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// secrets is envoy.service.secret.v3.SecretDiscoveryService: an Envoy has a token as a generic secret, and gets the next one when there is one. Who calls it counts
// for nothing here: the Envoy asks for itself.
type secrets struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	broker Broker
	clock  *broker.Clock
}

const (
	secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	// successorWithin is how long a token that was invalidated stays at most while another is waited for. Then the secret is empty, with which Envoy lets no request pass.
	successorWithin = 2 * time.Second
	// fromBefore is the id, which no token has, of whatever an Envoy has when its stream begins. So a watch says at once which token is good, or that none of those before is.
	fromBefore = "from before"
	// lookFirst is how long after a question that brought no answer it is asked again, at first; it doubles, up to lookMost.
	lookFirst = time.Second
	lookMost  = time.Minute
	// asleepMost is for how long an end is waited for at once: timers stand while a machine sleeps.
	asleepMost = time.Minute
	// never is after every other moment.
	never broker.Moment = math.MaxInt64
)

// StreamSecrets implements secretv3.SecretDiscoveryServiceServer. A stream has one secret, as Envoy opens one for each: what it takes is counted by streams. It ends with what there is to say of
// the secret, which Envoy writes into its log.
func (s *secrets) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	name, version, err := wanted(stream)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	go func() { // ends with the stream, when this has returned
		for {
			switch again, _, err := wanted(stream); {
			case err != nil:
				end(err)
				return
			case again != name:
				end(errOneSecret)
				return
			}
		}
	}()
	err = s.follow(ctx, name, version, stream)
	if why := context.Cause(ctx); why != nil && stream.Context().Err() == nil {
		if errors.Is(why, io.EOF) {
			return nil
		}
		return why
	}
	return err
}

var errOneSecret = broker.Invalid(broker.Violation{Field: "resource_names", Code: broker.CodeInvalid, Description: "a stream has one secret here, as Envoy opens one for each that its configuration names by itself (api_config_source)"})

// wanted is the secret that the next request names, and the version of it that the Envoy has. Those that acknowledge name it again.
func wanted(stream secretv3.SecretDiscoveryService_StreamSecretsServer) (name, version string, err error) {
	r, err := stream.Recv()
	if err != nil {
		return "", "", err
	}
	if t := r.GetTypeUrl(); t != "" && t != secretType || len(r.GetResourceNames()) != 1 {
		return "", "", errOneSecret
	}
	return r.GetResourceNames()[0], r.GetVersionInfo(), nil
}

// secretOf is what a secret's name asks for: a credential, and then as in a URL's query which of its tokens, and which header of it: CREDENTIAL?scopes=a+b&header=X-Api-Key.
func secretOf(name string) (r *tokenbrokerv1.WatchTokenRequest, header string, err error) {
	credential, query, _ := strings.Cut(name, "?")
	values, err := url.ParseQuery(query)
	words := map[string]string{wordCredential: credential}
	for word, all := range values {
		if len(all) != 1 || word == wordCredential {
			err = errors.New("twice")
		}
		words[word] = all[0]
	}
	if err != nil {
		return nil, "", broker.Invalid(broker.Violation{Field: "resource_names", Code: broker.CodeInvalid, Description: fmt.Sprintf("%.100q is not written as CREDENTIAL?WORD=VALUE&WORD=VALUE, each word once", name)})
	}
	header = "authorization"
	if h, ok := words["header"]; ok {
		header = strings.ToLower(h)
		delete(words, "header")
	}
	a, _, err := asked("resource_names", words)
	if err != nil {
		return nil, "", err
	}
	return &tokenbrokerv1.WatchTokenRequest{Credential: a.GetCredential(), Scopes: a.GetScopes(), Audience: a.GetAudience(), Parameters: a.GetParameters(), Resources: a.GetResources()}, header, nil
}

// A secret is what an Envoy has. One goroutine has it.
type secret struct {
	name, header string
	stream       secretv3.SecretDiscoveryService_StreamSecretsServer
	// sent is how often; version and value are what was sent last.
	sent           int
	version, value string
	// ends is when the life of the token is over that it has, and due when it is to be empty, because that was invalidated; never: not, as far as is known.
	clock     *broker.Clock
	ends, due broker.Moment
	// again is when it is asked once more what the Envoy is to have, and failed how often in a row nobody could tell; never: that is known.
	again  broker.Moment
	failed int
}

// follow has the Envoy have what the broker would answer to a call for a token, until ctx ends, or something is to be said. A watch says that this may be another answer now, or when a token was
// invalidated; what it is, is asked for then, and when a token ends. All of it is done by this goroutine, one after the other: what was sent last is what was found out last. A token
// that was invalidated or has ended goes, whatever comes of the question. Otherwise an Envoy whose broker cannot tell goes on with what it has.
func (s *secrets) follow(ctx context.Context, name, version string, stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	r, header, err := secretOf(name)
	if err != nil {
		return err
	}
	r.KnownTokenId = fromBefore
	is := &secret{name: name, header: header, stream: stream, clock: s.clock, ends: endOf(version, s.clock.Now()), due: never, again: never}
	type happened struct {
		*tokenbrokerv1.WatchTokenResponse
		at broker.Moment
	}
	news, over := make(chan happened), make(chan error, 1)
	watching, done := context.WithCancel(ctx)
	defer done()
	go func() { // ends with ctx
		defer done() // who waits for an answer is told why there is none
		over <- s.broker.WatchFor(ctx, r, func(e *tokenbrokerv1.WatchTokenResponse) error {
			select {
			case news <- happened{e, s.clock.Now().At}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	for {
		select {
		case e := <-news:
			if e.GetInvalidatedTokenId() != "" && is.due == never {
				is.due = e.at.Add(successorWithin)
			}
		case <-is.timer():
			if s.clock.Now().At < is.next() {
				continue
			}
		case err := <-over:
			if ctx.Err() == nil && (!cannotTell(err) || is.over() || is.due != never) {
				err = cmp.Or(is.push("", ""), err)
			}
			return err
		}
		if err := s.look(watching, is, r); err != nil {
			return err
		}
	}
}

// look finds out what the Envoy is to have, and waits for that no longer than until it is due. Where nobody can tell, it is asked again: the watch has nothing more to say of what it has told.
func (s *secrets) look(ctx context.Context, is *secret, r *tokenbrokerv1.WatchTokenRequest) error {
	within := successorWithin
	if is.due != never {
		within = is.due.Sub(s.clock.Now().At)
	}
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	t, left, err := s.broker.CurrentFor(bounded, r)
	if err == nil && left > 0 {
		return is.has(t, left)
	}
	known := err == nil || bounded.Err() == nil && !cannotTell(err)
	if known || is.over() {
		if err := is.push("", ""); err != nil {
			return err
		}
	}
	if !known {
		is.later()
	}
	return nil
}

// cannotTell reports whether a failure is of a broker that does not know what has become of a token. Others may, and have given it to the Envoy.
func cannotTell(err error) bool {
	return slices.Contains([]broker.Kind{
		broker.Internal, broker.StoreUnavailable, broker.ShuttingDown, broker.Canceled, broker.DeadlinePassed, broker.CallerLimited, broker.AuditUnavailable, broker.IssuerUnavailable,
		broker.RecordUnreadable, broker.ProviderInvalid,
	}, broker.KindOf(err))
}

// has sends a token that is valid for so long.
func (s *secret) has(t *tokenbrokerv1.Token, left time.Duration) error {
	value, shown := "", 0
	for _, h := range t.GetHeaders() {
		if strings.EqualFold(h.GetName(), s.header) {
			value, shown = h.GetValue(), shown+1
		}
	}
	if shown != 1 { // what it has is none of these
		return cmp.Or(s.push("", ""), broker.Invalid(broker.Violation{
			Field: "resource_names", Code: broker.CodeInvalid, Description: fmt.Sprintf("tokens of this credential have no header %.64q: name another one by header=NAME, or use ext_proc", s.header),
		}))
	}
	err := s.push(versionOf(t), value)
	s.ends = s.clock.Now().At.Add(left)
	return err
}

// A version says which token it is and until when. An Envoy that comes again, to whichever broker, names the one that it has.
const until = " until "

func versionOf(t *tokenbrokerv1.Token) string {
	return t.GetTokenId() + until + t.GetExpireTime().AsTime().Format(time.RFC3339Nano)
}

// endOf is when the token of a version ends; never: it does not say.
func endOf(version string, now broker.Instant) broker.Moment {
	_, end, _ := strings.Cut(version, until)
	at, err := time.Parse(time.RFC3339Nano, end)
	if err != nil {
		return never
	}
	return now.At.Add(at.Sub(now.Wall))
}

// over reports whether what the Envoy has may be used no more.
func (s *secret) over() bool { return s.clock.Now().At >= min(s.ends, s.due) }

// later has it be asked again what the Envoy is to have.
func (s *secret) later() {
	s.again = s.clock.Now().At.Add(min(lookFirst<<s.failed, lookMost))
	s.failed = min(s.failed+1, 6)
}

// next is when that is to be asked; never: once the watch says something.
func (s *secret) next() broker.Moment { return min(s.ends, s.due, s.again) }

// timer is a timer for then, or for before.
func (s *secret) timer() <-chan time.Time {
	next := s.next()
	if next == never {
		return nil
	}
	return time.After(min(next.Sub(s.clock.Now().At), asleepMost))
}

// push sends a secret, unless that is what was sent last. What was known of the former one is over with it.
func (s *secret) push(version, value string) error {
	same := s.sent > 0 && s.version == version && s.value == value
	s.version, s.value, s.ends, s.due, s.again, s.failed = version, value, never, never, never, 0
	if same {
		return nil
	}
	any, err := anypb.New(&tlsv3.Secret{Name: s.name, Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{
		Secret: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: value}},
	}}})
	if err != nil {
		return err
	}
	s.sent++
	return s.stream.Send(&discoveryv3.DiscoveryResponse{
		VersionInfo: version, TypeUrl: secretType, Nonce: strconv.Itoa(s.sent), Resources: []*anypb.Any{any},
	})
}
