# `make` or `make help` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# NVIDIA deprecates NVML functions that older drivers still need.
export CGO_CFLAGS ?= -O2 -g -Wno-deprecated-declarations

CACHE ?= $(or $(GPUPOOL_TOOLS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/gpupool/tools)
GOLANGCI_LINT := v2.6.2
FUZZTIME ?= 10s
SCHEDULES ?= 100000
# Modules of their own: for the AWS SDK, which drives the simulators there, and for
# Prometheus, which finds the agents through Consul.
SDKTESTS := internal/power/ec2/sdktest internal/queue/sqs/sdktest jobs/monitoring/sdtest
DEMO ?= full
ORIGINS ?= 40

# What the built programs call themselves; the last commit where there is no tag.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
VERSIONED := github.com/gpupool/gpupool/internal/version.text

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: hello tools bin ## run the whole story on this machine: make demo, or make demo DEMO=quick
	@$(AS_ROOT) ./bin/demo --mode=$(DEMO)

.PHONY: hello
hello:
	@echo "The demo runs a real Consul, Nomad and Nomad Autoscaler, with gpupool, on this machine."
	@echo "The first time it installs openipmi, ipmitool and gcc, where they are missing, by apt,"
	@echo "and builds the three from source: about ten minutes on two cores. They are kept in"
	@echo "$(CACHE). After that it starts in seconds."
	@echo

.PHONY: build
build: bin ## build the plugins, the agent and the command into bin/

.PHONY: bin
bin:
	@mkdir -p bin
	@go build -buildvcs=false -trimpath -ldflags '-X $(VERSIONED)=$(VERSION)' -o bin/ ./plugins/... ./agent ./cmd/gpupool ./e2e/demo

.PHONY: test
test: tools ## install what is needed and run all tests, end to end included
	@go vet ./...
	@go test -timeout 20m $$(go list ./... | grep -v /e2e)
	@for m in $(SDKTESTS); do (cd $$m && go test -mod=mod ./...); done
	@$(AS_ROOT) go test -count=1 -timeout 30m -v -p 1 ./e2e/...

.PHONY: e2e
e2e: tools ## run the end-to-end tests alone
	@$(AS_ROOT) go test -count=1 -timeout 30m -v -p 1 ./e2e/...

.PHONY: race
race: tools ## run all but the end-to-end tests under the race detector
	@go test -race -timeout 30m $$(go list ./... | grep -v /e2e)

.PHONY: tools
tools: ## install the packages and build the tools that the tests and the demo run
	@e2e/tools/packages.sh $(PACKAGES)
	@e2e/tools/build.sh >/dev/null
test race e2e: PACKAGES = test
bench: PACKAGES = bench

.PHONY: lint
lint: ## vet, format and lint
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	@go vet ./...
	@test -x $(CACHE)/golangci-lint-$(GOLANGCI_LINT)/golangci-lint || { \
		echo "building golangci-lint $(GOLANGCI_LINT), some minutes at first" >&2; \
		GOBIN=$(CACHE)/golangci-lint-$(GOLANGCI_LINT) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT); }
	@$(CACHE)/golangci-lint-$(GOLANGCI_LINT)/golangci-lint run ./...

.PHONY: bench
bench: tools ## run the benchmarks, peers beside them where there are any
	@go test -run '^$$' -bench . -benchmem ./internal/... ./agent/... ./plugins/...
	@$(MAKE) --no-print-directory bench-r

.PHONY: bench-r
bench-r: ## compare the forecast with R's forecast package, on a made week or TRACES="a.csv b.csv"
	@e2e/tools/packages.sh r
	@go run ./internal/sim/rcompare --origins $(ORIGINS) $(TRACES)

.PHONY: nightly
nightly: ## 100,000 schedules of faults against the loop, and each safety rule removed in turn
	@go test -count=1 -timeout 2h -run Schedules -v ./internal/control/faults -schedules $(SCHEDULES)
	@go test -count=1 -timeout 2h -run Mutants -v ./internal/control/faults -mutants

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (10s)
	@go list -f '{{$$d := .ImportPath}}{{range .TestGoFiles}}{{$$d}} {{$$.Dir}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$$d}} {{$$.Dir}}/{{.}}{{"\n"}}{{end}}' ./... | \
	while read -r pkg file; do \
		[ -n "$$pkg" ] || continue; \
		for f in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			echo "== $$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) "$$pkg"; \
		done; \
	done

# Namespaces and the BMC simulators' ports need root; anything else does not.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$$PATH")
