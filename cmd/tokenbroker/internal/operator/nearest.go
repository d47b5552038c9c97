package operator

import (
	"context"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/internal/suggest"
)

// nearest adds to an error that says that there is no such credential which one may have been meant, and how to see those that there are.
func (cl *client) nearest(ctx context.Context, err error) error {
	s, ok := status.FromError(err)
	if !ok || s.Code() != codes.NotFound {
		return err
	}
	name := ""
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == "NOT_FOUND" {
			name = info.GetMetadata()["credential"]
		}
	}
	if name == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, namesMost)
	defer cancel()
	all, _ := cl.list(ctx, "") // without them there is nothing to suggest
	var names []string
	for _, c := range all {
		names = append(names, c.GetName())
	}
	with := s.Proto()
	if near := suggest.Nearest(name, names); near != "" {
		with.Message += fmt.Sprintf("; did you mean %s?", near)
	} else {
		with.Message += "; `tokenbroker credential list` shows those that there are"
	}
	return status.ErrorProto(with)
}
