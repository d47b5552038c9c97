package server_test

import (
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

type oddityCase struct{ odd upstreamsim.Fault }

var oddityCases []oddityCase
