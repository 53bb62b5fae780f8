GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# What `make demo` gives to relay dev, for example DEMO_ARGS='--exit-after 20s'.
DEMO_ARGS ?=
# What `make bench` gives to the benchmark.
BENCH_ARGS ?=
# RACE= turns the race detector off where it does not exist.
RACE ?= -race
TEST_ARGS ?=
# How long `make soak` hurts the relay, and the seed that says how (0: another one each time). SOAK_ARGS are more
# arguments of test/ledger; RELAY_PG_BIN names another server version.
SOAK_FOR ?= 30m
SOAK_SEED ?= 0
SOAK_ARGS ?=
# What `make mutants` gives to test/ledger, for example MUTANT_ARGS='-only keepalive'.
MUTANT_ARGS ?=
# The time limit of one package, and of one package beside other load.
TEST_TIMEOUT ?= 12m
test-loaded: TEST_TIMEOUT = 40m
# How often `make test-loaded` runs all tests.
RUNS ?= 5
# What `make test` runs: each command, also after one has failed.
SUITE = -- $(GO) test $(RACE) -count=1 -timeout $(TEST_TIMEOUT) $(TEST_ARGS) ./... \
	-- $(GO) test -tags faultpoints ./internal/faultpoint
FUZZTIME ?= 30s

.DEFAULT_GOAL := help
export GO

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[-a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## build the static binary bin/relay
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o bin/relay ./cmd/relay

.PHONY: demo
demo: ensure-postgres build ## watch rows become webhooks: throw-away PostgreSQL, relay and receiver
	@bin/relay dev $(DEMO_ARGS)

.PHONY: test
test: ensure-postgres ensure-test-tools suite ## run all tests against real PostgreSQL, with the race detector
	@bin/suite $(SUITE)

.PHONY: test-loaded
test-loaded: ensure-postgres ensure-test-tools suite ## run all tests RUNS (5) times while something else keeps every core busy
	@bin/suite -load -runs $(RUNS) $(SUITE)

.PHONY: test-matrix
test-matrix: ensure-postgres ensure-test-tools suite ## run what touches PostgreSQL on 15 to 18, and the tests that need several servers
	@RACE='$(RACE)' scripts/test-matrix.sh $(TEST_ARGS)

.PHONY: race
race: ensure-postgres ensure-test-tools suite ## run all tests three times in random order, with the race detector
	@bin/suite -- $(GO) test -race -count=3 -shuffle=on -timeout 40m $(TEST_ARGS) ./...

.PHONY: fuzz
fuzz: ensure-postgres ## fuzz every parser for FUZZTIME (30s) each
	@scripts/fuzz.sh $(FUZZTIME)

.PHONY: fuzz-smoke
fuzz-smoke: ensure-postgres ## fuzz every parser for five seconds each
	@scripts/fuzz.sh 5s

.PHONY: bench
bench: ensure-postgres ## measure the whole path beside its limits on this machine
	$(GO) run ./bench $(BENCH_ARGS)

.PHONY: soak
soak: ensure-postgres ensure-compiler ## try to break the promises for SOAK_FOR (30m): kills, crashes, cuts, outages
	$(GO) run ./test/ledger -for $(SOAK_FOR) -seed $(SOAK_SEED) $(SOAK_ARGS)

.PHONY: mutants
mutants: ensure-postgres ensure-compiler ## plant each known defect into the relay, and see that the checker finds it
	$(GO) run ./test/ledger mutants $(MUTANT_ARGS)

.PHONY: lint
lint: ## check format, go vet (macOS too), staticcheck and gosec
	@scripts/lint.sh

.PHONY: vuln
vuln: ## look for known vulnerabilities in what the binary calls; needs a network, or GOVULNDB
	@scripts/vuln.sh

.PHONY: sbom
sbom: build ## write bin/relay.cdx.json, which names all that bin/relay is built of (CycloneDX)
	$(GO) -C tools run ./sbom -version "$(VERSION)" ../bin/relay >bin/relay.cdx.json

.PHONY: verify
verify: ## lint and test, as the continuous integration does
	@.ci/run

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf bin test/verifiers/node_modules

.PHONY: ensure-postgres
ensure-postgres:
	@scripts/ensure-postgres.sh

.PHONY: ensure-test-tools
ensure-test-tools:
	@scripts/ensure-test-tools.sh

.PHONY: suite
suite:
	@$(GO) build -buildvcs=false -o bin/suite ./test/suite

.PHONY: ensure-compiler
ensure-compiler:
	@scripts/ensure-test-tools.sh compiler
