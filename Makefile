# What one does with this repository. 'make help' lists it; scripts/ holds the steps that are longer than a line.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

TARGET := $(or $(CARGO_TARGET_DIR),target)
LAB := $(TARGET)/debug/lab
CARGO_TEST := cargo test --locked --no-fail-fast

.PHONY: help deps build images lab generate lint root test test-unit test-netns test-e2e test-long soak fuzz demo bench install-cli clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install what is missing: Debian packages, Rust toolchain and target (root for the packages)
	@scripts/deps.sh

build: ## Compile every crate
	cargo build --locked --workspace

images: ## Build the two images: target/images/controller.tar and speaker.tar
	@scripts/images.sh

lab: ## Build the lab: its program, and Kubernetes and the rest it runs (cached by content)
	cargo build --locked -p landfall-lab --bin lab
	$(LAB) build

generate: ## Write the CRD YAML of the chart from the Rust types
	@scripts/generate.sh

lint: deps ## Format, clippy, docs, generated files, chart, shell scripts, licences
	@scripts/lint.sh

root:
	@[ "$$(id -u)" = 0 ] || { echo "error: network namespaces and the lab need root: run it as root" >&2; exit 1; }

test: root deps test-unit test-netns test-e2e ## Everything: unit, namespaces, end to end in the lab (root)

test-unit: ## Unit, property and documentation tests (no privileges)
	$(CARGO_TEST) --workspace --exclude landfall-lab
	$(CARGO_TEST) -p landfall-lab --lib --bins

test-netns: root ## Tests against the kernel in network namespaces (root)
	$(CARGO_TEST) -p landfall-lab --test 'kernel_*' --test 'netns_*'

test-e2e: root images lab ## Tests in the lab, one binary after the other (root)
	$(CARGO_TEST) -p landfall-lab --test 'lab_*' --test 'e2e_*' -- --test-threads=1

test-long: root images lab ## The data path against kube-proxy's: 300 random configurations (root)
	LANDFALL_CONFIGURATIONS=300 $(CARGO_TEST) -p landfall-lab --test e2e_dataplane

soak: ## Long runs of the randomised tests: twenty times the histories of 'make test'
	LANDFALL_HISTORIES=200000 $(CARGO_TEST) -p landfall-controller --lib model
	LANDFALL_SOAK=20 $(CARGO_TEST) -p landfall-core --lib model

fuzz: ## A long run of every decoder: ten minutes each with cargo-fuzz, or without it a million damaged inputs
	@scripts/fuzz.sh

demo: root deps images lab ## A cluster, hello-world reached through Landfall, source ranges, failover (root)
	cargo build --locked -p kubectl-landfall
	@LAB="$(LAB)" scripts/demo.sh

bench: root deps images lab ## Measure the figures of docs/benchmarks.md (root)
	cargo run --locked --release -p landfall-lab --bin bench

install-cli: ## Install the kubectl plugin (kubectl landfall) into cargo's bin folder
	cargo install --locked --path cli

clean: ## Remove what was built here (the lab's cache stays)
	cargo clean
