// Command kmstest serves KMSs for tests of store/kek. It keeps everything in memory, listens on loopback alone, and ends with its input.
//
// Transit is the secrets engine of Vault 1.14, the last under MPL-2.0: keys, versions, ciphertexts, and what is answered to whom are the engine's. What
// is around it is a double: tokens and their rights, the login of Kubernetes, the mount. A right is for one path and operation, as in a policy of exact
// paths.
//
// Google Cloud KMS is a double as a whole: requests are read as the published messages, and nothing else is in them, checksums are there and right, and
// the token is a JWT that a service account has signed for that service.
//
// On standard output it says {"address": "127.0.0.1:PORT"}. The first line of its input is the token that may do everything.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "kmstest:", err)
		os.Exit(1)
	}
}

func run() error {
	in := bufio.NewReader(os.Stdin)
	root, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	root = strings.TrimSpace(root)
	transit, err := newTransit(root)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	google := &google{root: root, keys: map[string]*cryptoKey{}}
	mux.Handle("/v1/projects/", google)
	mux.HandleFunc("/test/google", google.order)
	mux.Handle("/", transit)
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // once, at the start
	if err != nil {
		return err
	}
	fmt.Printf("{\"address\": %q}\n", l.Addr())
	go func() {
		for {
			if _, err := in.ReadByte(); err != nil {
				_ = l.Close()
				return
			}
		}
	}()
	err = (&http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}).Serve(l)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
