# Two commands do everything: `make up` serves the examples, `make test` passes the tests.
SHELL := /bin/bash
.DEFAULT_GOAL := help
IMAGE ?= pilotlight:0.1.0
# Static, so that it needs no base image.
TRIPLE = $(shell uname -m)-unknown-linux-gnu

.PHONY: help up cluster test clients cuda e2e-cluster e2e-keda e2e-keda-beside e2e-beside-kserve image image-cuda bench bench-fleet conformance large-model fuzz lint fmt doc licences tools python cluster-programs

help:        ## what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

up: tools    ## serve manifests/examples on 127.0.0.1:8080 (admin 9090)
	cargo run --release -- up manifests/examples

cluster: tools cluster-programs ## a one-node Kubernetes with Pilotlight and the examples, and a shell in it (root)
	cargo build --workspace --bin pilotlight
	e2e/cluster/playground target/debug/pilotlight

test: tools python cluster-programs ## unit, property and end-to-end tests
	@# One selection of packages throughout: another one would unify other features and build everything again.
	cargo build --workspace --all-targets
	cargo test --workspace --lib --bins --no-fail-fast
	cargo test --workspace --doc
	cargo test --workspace --test '*' --no-fail-fast -- --test-threads=1

clients: tools python ## KServe's and Triton's clients, grpcurl, curl, emulators of storage against a runtime and a sleeping model (needs Go, npm)
	e2e/python/kserve.sh
	e2e/grpcurl.sh
	e2e/emulators.sh
	@# The selection of `make test`, so that nothing is built twice.
	cargo build --workspace --all-targets
	cargo test --workspace --features pilotlight-e2e/clients --test all_clients --test emulators --no-fail-fast -- --test-threads=1

e2e-cluster: tools cluster-programs ## end-to-end tests on a real Kubernetes, or on the one that KUBECONFIG names
	cargo build --workspace --bin pilotlight
	cargo test --workspace --test cluster --no-fail-fast -- --test-threads=1

e2e-keda: tools python cluster-programs ## KEDA's HTTP add-on: its end-to-end list on a real Kubernetes without KEDA (root)
	cargo build --workspace --bin pilotlight
	e2e/keda/run target/debug/pilotlight

e2e-keda-beside: tools python cluster-programs ## a real KEDA beside Pilotlight, built from its Go module (root, Go)
	cargo build --workspace --bin pilotlight
	e2e/keda/beside target/debug/pilotlight

e2e-beside-kserve: tools cluster-programs ## beside KServe's own controller on the test cluster (root, Go)
	cargo build --workspace --bin pilotlight
	e2e/kserve/run target/debug/pilotlight

image: tools ## the container image pilotlight:0.1.0, with buildah, podman or docker
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --target $(TRIPLE)
	mkdir -p target/image
	cp target/$(TRIPLE)/release/pilotlight /etc/ssl/certs/ca-certificates.crt target/image/
	$(or $(BUILDER),$(firstword $(foreach tool,buildah podman docker,$(shell command -v $(tool))))) build --file Containerfile \
		--tag $(IMAGE) target/image

image-cuda: tools ## the image for runtimes on NVIDIA GPUs, pilotlight:0.1.0-cuda
	cargo build --release --features cuda
	mkdir -p target/image-cuda
	cp target/release/pilotlight target/image-cuda/
	$(or $(BUILDER),$(firstword $(foreach tool,buildah podman docker,$(shell command -v $(tool))))) build --file Containerfile.cuda \
		--tag $(IMAGE)-cuda target/image-cuda

cuda: tools  ## lint, link and test what runs on NVIDIA GPUs, on the processor (Vulkan): needs neither a GPU nor CUDA's toolkit
	@# One selection throughout, the tests' one and the feature, so that only what CUDA changes is built again. Driver: mesa-vulkan-drivers.
	.ci/tools vulkan
	cargo build --workspace --bin pilotlight --test twin --features pilotlight/twin
	e2e/gpu/check target/debug/pilotlight
	PILOTLIGHT_GPU_TWIN=1 cargo test --workspace --test twin --features pilotlight/twin
	PILOTLIGHT_GPU_TWIN=1 e2e/gpu/check target/debug/pilotlight
	cargo clippy --workspace --bin pilotlight --test twin --features pilotlight/twin -- --deny warnings

bench: tools python cluster-programs ## proxy against HAProxy, wakes here and in a cluster, memory, engine beside onnxruntime
	cargo build --release --workspace
	cargo build --release --package pilotlight-engine --example bench
	e2e/benches/run

bench-fleet: tools cluster-programs ## COUNT services (10,000) on one controller: time, calls, memory (root, 10 minutes and more)
	cargo build --release --workspace --bin pilotlight --bin bench-fleet
	target/release/bench-fleet

conformance: tools python ## ONNX's own cases against the engine; writes runtime/engine/CONFORMANCE.md
	PILOTLIGHT_WRITE_CONFORMANCE=1 cargo test --quiet --package pilotlight-e2e --test conformance -- --nocapture

large-model: tools ## a model past 2 GB, its weights in a sparse file beside it, made and run (8 GB of memory)
	mkdir -p target/large-model
	cargo run --release --package pilotlight-engine --example large_model target/large-model

fuzz:        ## bodies, manifests and models that nobody would send, SECONDS (30) of each kind
	.ci/tools fuzz
	e2e/fuzz $(or $(SECONDS),30) $(TARGETS)

lint: tools  ## formatting and lints, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings

fmt:         ## format everything
	cargo fmt --all

doc: tools   ## API documentation, warnings denied
	RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps

licences: tools ## every dependency's licence against deny.toml
	e2e/licences

cluster-programs: # unless the tests are given a cluster
	@[ -n "$$KUBECONFIG" ] || { .ci/tools cluster && nice e2e/cluster/build >/dev/null; }

python: tools ## the Python environment that the tests compare with
	e2e/python/setup.sh

tools:       ## name what is missing and install it where that is possible (Debian, root)
	@.ci/tools
