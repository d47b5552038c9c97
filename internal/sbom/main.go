// Command sbom writes what a binary of ours is made of as a CycloneDX document: its modules, their licences, and which uses which.
// It knows nothing of what the modules do. It is a module of its own, and no part of the tokenbroker command.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
)

// root is the repository, from where go run -C and go test run this.
const root = "../.."

func main() {
	version := flag.String("version", "", "the version that the binary was built as")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: sbom [-version VERSION] BINARY FILE")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(context.Background(), flag.Arg(0), flag.Arg(1), *version, os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// write puts the document about a binary into a file. The epoch is SOURCE_DATE_EPOCH: seconds since 1970, or empty for no time.
func write(ctx context.Context, binary, file, version, epoch string) error {
	b, err := read(ctx, binary)
	if err != nil {
		return err
	}
	doc, err := document(b, version, epoch)
	if err != nil {
		return err
	}
	return os.WriteFile(file, doc, 0o644) //nolint:gosec // for everybody to read
}
