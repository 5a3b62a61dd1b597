# Caplance. `make help` lists what there is to do.

SHELL := /bin/bash
# sudo resets PATH: look for Go where it usually is.
GO := $(shell PATH="$$PATH:/usr/local/go/bin:/usr/lib/go/bin:/snap/bin:$(if $(SUDO_USER),/home/$(SUDO_USER)/go/bin:/home/$(SUDO_USER)/sdk/go/bin)" command -v go)
ifeq ($(GO),)
$(error Go is not to be found: install it from go.dev or your distribution, or put it on the PATH)
endif
export CGO_ENABLED := 0
# Modules and build results of the user who runs sudo are used again, not fetched anew for root.
ifneq ($(SUDO_USER),)
export GOFLAGS += -buildvcs=false
endif

# package:target:inputs, some 15 s each; a number, for a time that ends in the middle of an input is a failure. FUZZTIME=10m fuzzes for longer.
FUZZ := core/packet:FuzzParse:500000x core/verdict:FuzzParse:300000x core/registry:FuzzParse:150000x \
	plugins/fuel:FuzzMeter:100000x plugins/workbench/record:FuzzRead:100000x policies:FuzzGuestsEqualTheirTwins:500x
ROOT := $(shell [ $$(id -u) = 0 ] && echo yes)

.PHONY: help build demo unit race fuzz e2e test bench policies generate lint clean need-root

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

build: ## build static bin/caplance and bin/caplancectl
	$(GO) build -trimpath -o bin/ ./cmd/...

demo: build need-root ## balance real traffic in namespaces for ten seconds (HOLD=1 keeps it up)
	$(GO) run ./tools/demo -bin bin $(if $(HOLD),-hold)

unit: race fuzz ## unit tests with the race detector, fuzz smoke; no root needed

race:
	if command -v gcc >/dev/null; then CGO_ENABLED=1 $(GO) test -race -timeout 10m ./cmd/... ./core/... ./plugins/... ./policies/... ./tools/...; \
	else echo "no C compiler: testing without the race detector"; $(GO) test -timeout 10m ./cmd/... ./core/... ./plugins/... ./policies/... ./tools/...; fi

fuzz:
	@set -e; for t in $(FUZZ); do IFS=: read -r pkg target time <<<"$$t"; time=$${FUZZTIME:-$$time}; echo "fuzz $$pkg $$target $$time"; \
	$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $$time -fuzzminimizetime 5x ./$$pkg; done

e2e: build need-root ## end-to-end tests in network namespaces, on every rung, in either mode (root)
	@set -e; for way in tc/tunnel xdp/direct userspace/tunnel $(if $(ALL),tc/direct xdp/tunnel) userspace/direct; do echo "$$way"; \
	CAPLANCE_RUNG=$${way%/*} CAPLANCE_MODE=$${way#*/} CAPLANCE_BIN=$(CURDIR)/bin $(GO) test -count=1 -timeout 20m ./e2e/...; done

test: need-root ## everything: unit and e2e (root)
	$(MAKE) unit e2e

bench: build need-root ## figures, as ratios measured in one run (root)
	$(GO) run ./tools/bench -bin bin

policies: ## rebuild the bundled .wasm from their C (needs clang and lld)
	tools/policies/build.sh

generate: policies ## rebuild every generated file (also needs libbpf-dev)
	$(GO) generate ./core/fastpath

lint: ## gofmt, vet, import rules
	@out=$$($(GO)fmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt: $$out"; exit 1; }
	$(GO) vet ./...
	$(GO) test -count=1 ./tools/imports

clean: ## remove what was built
	rm -rf bin

need-root:
	@[ -n "$(ROOT)" ] || { echo "this needs root, for network namespaces, NFQUEUE and raw sockets: sudo make $(firstword $(MAKECMDGOALS))"; exit 1; }
