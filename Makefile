# Caplance. `make help` lists what there is to do.

SHELL := /bin/bash
# sudo resets PATH: look for Go where it usually is.
GO := $(shell PATH="$$PATH:/usr/local/go/bin:/usr/lib/go/bin:/snap/bin:$(if $(SUDO_USER),/home/$(SUDO_USER)/go/bin:/home/$(SUDO_USER)/sdk/go/bin)" command -v go)
ifeq ($(GO),)
$(error Go is not to be found: install it from go.dev or your distribution, or put it on the PATH)
endif
export CGO_ENABLED := 0
# git refuses to tell the version of a checkout that is somebody else's, as it is for sudo, and go build
# fails with it.
ifneq ($(filter-out $(shell id -u),$(shell stat -c %u . .git 2>/dev/null)),)
export GOFLAGS += -buildvcs=false
endif

# package:target:inputs, some 10 s each; a number, for a time that ends in the middle of an input is a failure. FUZZTIME=10m fuzzes for longer.
FUZZ := core/packet:FuzzParse:500000x core/datapath:FuzzTracker:100000x core/state:FuzzDecode:100000x core/verdict:FuzzParse:300000x core/protocol:FuzzParse:150000x core/protocol:FuzzReadFrame:150000x \
	core/registry:FuzzSession:40000x core/agent:FuzzSession:15000x core/protocol:FuzzServing:150000x core/auth:FuzzKeys:80000x core/auth:FuzzToken:100000x core/auth:FuzzPattern:80000x core/enrol:FuzzParse:50000x \
	core/config:FuzzParseServer:25000x core/agent:FuzzParse:15000x core/hostnet:FuzzJournal:150000x core/sockdiag:FuzzNotified:250000x core/fastpath:FuzzModel:40000x core/fastpath:FuzzReceive:60000x \
	plugins/fuel:FuzzMeter:100000x plugins/recording:FuzzRead:100000x policies:FuzzGuestsEqualTheirReference:500x
ROOT := $(shell [ $$(id -u) = 0 ] && echo yes)

PREFIX ?= /usr/local
BINDIR = $(PREFIX)/bin
UNITDIR ?= /lib/systemd/system
# of the packages: from the last tag on
VERSION ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null | sed -E 's/^v//; /^[0-9]+\./!s/^/0.0.0-/'),0.0.0)

.PHONY: help install uninstall packages build demo unit race fuzz e2e test chaos vm bench scale policies generate lint clean need-root

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

build: ## build static bin/caplance and bin/caplancectl
	$(GO) build -trimpath -o bin/ ./cmd/...

install: build ## install programs, units, documents and examples (DESTDIR=, PREFIX=/usr/local)
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(UNITDIR) $(DESTDIR)$(PREFIX)/share/doc/caplance $(DESTDIR)/etc/caplance
	install -m 755 bin/caplance bin/caplancectl $(DESTDIR)$(BINDIR)
	install -m 644 README.md LICENSE CHANGELOG.md docs/*.md *.example.toml tools/monitoring/{alerts.yml,dashboard.json} $(DESTDIR)$(PREFIX)/share/doc/caplance
	for unit in caplance caplance-agent; do sed 's#@BINDIR@#$(BINDIR)#; s#@DOCDIR@#$(PREFIX)/share/doc/caplance#' cmd/caplance/units/$$unit.service >$(DESTDIR)$(UNITDIR)/$$unit.service; chmod 644 $(DESTDIR)$(UNITDIR)/$$unit.service; done

uninstall: ## remove what install installed; configuration, keys and state stay
	rm -f $(DESTDIR)$(BINDIR)/caplance $(DESTDIR)$(BINDIR)/caplancectl $(DESTDIR)$(UNITDIR)/caplance.service $(DESTDIR)$(UNITDIR)/caplance-agent.service
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/caplance

packages: ## make bin/caplance_VERSION_ARCH.deb and the .rpm
	rm -rf bin/package && $(MAKE) install DESTDIR=$(CURDIR)/bin/package PREFIX=/usr
	cd tools/package && $(GO) run . -root $(CURDIR)/bin/package -out $(CURDIR)/bin -version $(VERSION) -arch $(shell $(GO) env GOARCH)

demo: build need-root ## balance real traffic in namespaces for ten seconds (HOLD=1 keeps it up)
	$(GO) run ./tools/demo -bin bin $(if $(HOLD),-hold)

unit: race fuzz ## unit tests with the race detector, fuzz smoke; no root needed

race:
	if command -v gcc >/dev/null; then CGO_ENABLED=1 $(GO) test -race -timeout 10m ./cmd/... ./core/... ./plugins/... ./policies/... ./tools/...; \
	else echo "no C compiler: testing without the race detector"; $(GO) test -timeout 10m ./cmd/... ./core/... ./plugins/... ./policies/... ./tools/...; fi

fuzz:
	@set -e; for t in $(FUZZ); do IFS=: read -r pkg target time <<<"$$t"; time=$${FUZZTIME:-$$time}; echo "fuzz $$pkg $$target $$time"; \
	$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $$time -fuzzminimizetime 5x ./$$pkg; done

# What the way to a backend makes a difference to, in userspace.
DIRECT := ^Test(ForwardsAndRepliesDirectly|BulkUpload|Offloads|LongDatagrams|PathMTU|UDPSegmentationOffload|ICMPErrorsReachTheFlowsBackend|ForgottenNeighbours|UpperLinks|LinkWithoutAProgram|TunnelledClients|ModeOfABackend|VIPOfTheOperator|TTL|DatagramsAlone|HeartbeatExpiry|AgentRestart|BalancerRestart|ICMPEcho|UnreachableBackend|NarrowPath|Drift|StopLeavesNothing|KillIsReclaimed)$$
# What no datapath type makes a difference to: it is tested on the first way alone.
CONTROL := ^Test(ControlGroups|TwoOperators|OrdersForATimeAndOneService|WeightOrders|KeysChange|Certificates|Strangers|Join|AllPrivileges|PredecessorsMount|SandboxPaths|HostileRegistryPeers|RefusedSwaps|ShadowPolicy|RecordAndReplay|AgentReload|DropInPolicy|Probes|StaticBackendAstray|UnitsPrivileges|WithdrawnVIP|MissingBackends)$$
e2e: build need-root ## end-to-end tests in network namespaces, on every datapath type, in either mode (root; ALL=1 for every combination)
	@set -e; for way in tc/tunnel xdp/direct userspace/tunnel $(if $(ALL),tc/direct xdp/tunnel) userspace/direct; do echo "$$way"; \
	case $${way}$(ALL) in xdp/direct|userspace/tunnel) some=(-skip '$(CONTROL)');; userspace/direct) some=(-run '$(DIRECT)');; *) some=();; esac; \
	CAPLANCE_TYPE=$${way%/*} CAPLANCE_MODE=$${way#*/} CAPLANCE_BIN=$(CURDIR)/bin $(GO) test -p 1 -count=1 -timeout 20m "$${some[@]}" ./e2e/...; done

test: need-root ## everything: unit and e2e (root)
	$(MAKE) unit e2e

chaos: build need-root ## what failures cost clients: writes docs/failures.md; or some of it (SEED=1 SCENARIO=regexp TYPE=tc WRITE=1) (root)
	CAPLANCE_BIN=$(CURDIR)/bin $(if $(TYPE),CAPLANCE_TYPE=$(TYPE)) $(GO) test -count=1 -timeout 60m -v ./e2e/chaos -run TestScenarios -args -seed $(or $(SEED),0) \
	$(if $(SCENARIO)$(TYPE),-scenario '$(or $(SCENARIO),.)') $(if $(or $(WRITE),$(if $(SCENARIO)$(TYPE),,all)),-failures $(CURDIR)/docs/failures.md)

KERNELS := $(or $(KERNEL),bullseye bookworm trixie)
vm: ## tests that touch a kernel, in VMs with Debian's kernels (KERNEL=bookworm PKGS="core/fastpath e2e" RUN=regexp TYPE=tc MODE=tunnel V=1)
	@code=0; for kernel in $(KERNELS); do tools/vm/run.sh $$kernel $(PKGS) || code=1; done; exit $$code

bench: build need-root ## figures, as ratios measured in one run (root)
	$(GO) test -c -o bin/fastpath.test ./core/fastpath
	$(GO) run ./tools/bench -bin bin

scale: build need-root ## what many services and backends cost: time, CPU, memory (root)
	$(GO) run ./tools/scale -bin bin

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
