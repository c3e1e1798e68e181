# Two commands do everything: `make up` serves the examples, `make test` passes the tests.
SHELL := /bin/bash
.DEFAULT_GOAL := help

.PHONY: help up test clients bench lint fmt doc licences tools python

help:        ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

up: tools    ## serve manifests/examples on 127.0.0.1:8080 (admin 9090)
	cargo run --release -- up manifests/examples

test: tools python  ## unit, property and end-to-end tests
	cargo build --workspace --all-targets
	cargo test --workspace --exclude pilotlight-e2e --no-fail-fast
	cargo test --package pilotlight-e2e --no-fail-fast -- --test-threads=1

clients: tools python ## KServe's and Triton's clients, grpcurl and curl against a runtime and a sleeping model (needs Go)
	e2e/python/kserve.sh
	e2e/grpcurl.sh
	cargo build --package pilotlight
	cargo test --package pilotlight-e2e --features clients --test all_clients -- --test-threads=1

bench: tools ## proxy against HAProxy, wakes from zero, memory of an idle platform
	cargo build --release --workspace
	e2e/benches/run

lint: tools  ## formatting and lints, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings

fmt:         ## format everything
	cargo fmt --all

doc: tools   ## API documentation, warnings denied
	RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps

licences: tools ## every dependency's licence against deny.toml
	e2e/licences

python: tools ## the Python environment that the tests compare with
	e2e/python/setup.sh

tools:       ## name what is missing and install it where that is possible (Debian, root)
	@.ci/tools
