package operator

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// whereabouts say which broker of this machine is meant: the one that has its data there. The flags are those of serve.
type whereabouts struct {
	Config  string `group:"Which broker:" env:"TOKENBROKER_CONFIG" type:"path" help:"The broker's settings file, for where its data are."`
	DataDir string `type:"place" group:"Which broker:" name:"data-dir" env:"TOKENBROKER_DATA_DIR" default:"${data_dir}" help:"The broker's data directory, with its socket."`
	Socket  string `type:"place" off:"none" env:"TOKENBROKER_SOCKET" default:"auto" hidden:""`
}

// A place is where a command asks.
type place struct {
	// target is for gRPC, address for --address, and name for people: all places where it was looked for.
	target, address, name string
	// sure: it is this user's broker, or the one that the operator named. Else anybody on this machine may be listening there.
	sure bool
	// chosen: the operator named this very address.
	chosen bool
	// socket is where the broker was looked for first.
	socket string
}

// dialMost bounds how long a socket of this machine may take to answer.
const dialMost = 2 * time.Second

// find looks for the broker: at its socket and, where nobody answers there and no broker was named, at the address that is everybody's default.
func (w *whereabouts) find(ctx context.Context) (place, error) {
	fallback := place{target: "passthrough:///" + settings.DefaultAddress, address: settings.DefaultAddress, name: settings.DefaultAddress}
	path := (&settings.Settings{DataDir: w.DataDir, Socket: w.Socket}).SocketPath()
	if path == "" {
		return fallback, nil
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if w.Config != "" || w.DataDir != settings.DefaultDataDir() || w.Socket != "auto" {
		fallback = named("unix:" + path) // whoever names a broker means no other
	}
	if fallback.socket = path; !fallback.sure {
		fallback.name = "unix:" + path + " or " + settings.DefaultAddress
	}
	ctx, cancel := context.WithTimeout(ctx, dialMost)
	defer cancel()
	conn, err := fallback.socketAt(path).dial(ctx)
	var stranger *strangerError
	switch {
	case errors.As(err, &stranger):
		return place{}, console.BadInput("%w, or say --address unix:%s if you trust the owner of its directory", err, path)
	case errors.Is(err, fs.ErrPermission) && exists(path):
		return place{}, console.BadInput("the socket %s may not be opened by this user: run the command as the broker's user", path)
	case err != nil:
		return fallback, nil // there is none, or a broker that is gone has left it
	}
	_ = conn.Close()
	return named("unix:" + path), nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// socketAt is the socket of a path, as far as this place says who may be behind it.
func (p place) socketAt(path string) socket {
	return socket{path: path, named: p.chosen, me: os.Geteuid()}
}

// named is a place that is known to be meant.
func named(address string) place {
	p := place{target: "passthrough:///" + address, address: address, name: address, sure: true}
	if strings.HasPrefix(address, "unix:") {
		p.target = address
	}
	return p
}

// guarded refuses to send a secret, and to delete, where whoever happens to listen at an address would get it.
func (p place) guarded(req any) error {
	m, ok := req.(proto.Message)
	what := ""
	switch _, deletes := req.(*tokenbrokerv1.DeleteCredentialRequest); {
	case p.sure || !ok:
		return nil
	case deletes:
		what = "deletes"
	case carriesSecret(m.ProtoReflect()):
		what = "carries a secret"
	default:
		return nil
	}
	return console.BadInput("this call "+what+", and no broker answers at its socket%s. Whoever listens at %s may be somebody else: start the "+
		"broker, say where its data are (--data-dir, --config), or say --address %s if that is the one", ofSocket(p.socket), p.address, p.address)
}

func ofSocket(path string) string {
	if path == "" {
		return ""
	}
	return " " + path
}

// carriesSecret reports whether a field is set that the contract says is not to be shown.
func carriesSecret(m protoreflect.Message) bool {
	found := false
	m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		found = isSecret(f)
		return !found
	})
	return found
}

// withoutSecrets clears what the contract says is not to be shown, wherever it is in the message.
func withoutSecrets(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case isSecret(f):
			m.Clear(f)
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				withoutSecrets(v.List().Get(i).Message())
			}
		case f.Message() != nil && !f.IsMap():
			withoutSecrets(v.Message())
		}
		return true
	})
}

func isSecret(f protoreflect.FieldDescriptor) bool {
	o, ok := f.Options().(*descriptorpb.FieldOptions)
	return ok && o.GetDebugRedact()
}
