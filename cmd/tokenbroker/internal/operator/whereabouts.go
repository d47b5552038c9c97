package operator

import (
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
)

// whereabouts say which broker of this machine is meant: the one that has its data there. The flags are those of serve.
type whereabouts struct {
	Config  string `env:"TOKENBROKER_CONFIG" type:"path" help:"The broker's settings file, for where its data are."`
	DataDir string `name:"data-dir" env:"TOKENBROKER_DATA_DIR" default:"${data_dir}" help:"The broker's data directory, with its socket."`
	Socket  string `env:"TOKENBROKER_SOCKET" default:"auto" hidden:""`
}

// A place is where a command asks.
type place struct {
	// target is for gRPC, address for --address, and name for people: all places where it was looked for.
	target, address, name string
	// sure: it is this user's broker, or the one that the operator named. Else anybody on this machine may be listening there.
	sure bool
	// socket is where the broker was looked for first.
	socket string
}

// dialMost bounds how long a socket of this machine may take to answer.
const dialMost = 2 * time.Second

// find looks for the broker: at its socket and, where nobody answers there and no broker was named, at the address that is everybody's default.
func (w *whereabouts) find(ctx context.Context) (place, error) {
	fallback := place{target: "passthrough:///" + settings.DefaultAddress, address: settings.DefaultAddress, name: settings.DefaultAddress}
	socket := (&settings.Settings{DataDir: w.DataDir, Socket: w.Socket}).SocketPath()
	if socket == "" {
		return fallback, nil
	}
	if abs, err := filepath.Abs(socket); err == nil {
		socket = abs
	}
	if w.Config != "" || w.DataDir != settings.DefaultDataDir() || w.Socket != "auto" {
		fallback = named("unix:" + socket) // whoever names a broker means no other
	}
	if fallback.socket = socket; !fallback.sure {
		fallback.name = "unix:" + socket + " or " + settings.DefaultAddress
	}
	info, err := os.Lstat(socket)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return fallback, nil // there is none
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Getuid() && s.Uid != 0 && os.Getuid() != 0 {
		return place{}, console.BadInput("the socket %s is another user's: run the command as the broker's user, or say --address unix:%s if you trust them", socket, socket)
	}
	ctx, cancel := context.WithTimeout(ctx, dialMost)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return fallback, nil // a broker that is gone has left it
	}
	_ = conn.Close()
	return named("unix:" + socket), nil
}

// named is a place that is known to be meant.
func named(address string) place {
	p := place{target: "passthrough:///" + address, address: address, name: address, sure: true}
	if strings.HasPrefix(address, "unix:") {
		p.target = address
	}
	return p
}

// guarded refuses to send a secret to whoever happens to listen at an address.
func (p place) guarded(req any) error {
	m, ok := req.(proto.Message)
	if p.sure || !ok || !carriesSecret(m.ProtoReflect()) {
		return nil
	}
	return console.BadInput("this call carries a secret, and no broker answers at its socket%s. Whoever listens at %s may be somebody else: start the "+
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
