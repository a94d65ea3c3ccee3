# `make` alone lists the targets.

.PHONY: help run test test-minimal test-browser test-long bench bench-quick demo soak deb image fmt lint clean
.DEFAULT_GOAL := help

BENCH_PARTS := docker-registry nginx varnish hitch wrk nghttp2-client curl valgrind linux-perf python3

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

run: ## build, and serve with conf/roadstead.yaml: a mirror of Docker Hub on https://127.0.0.1:5000
	@scripts/build.sh --profile quick
	@exec target/quick/roadstead serve

test: ## install the real registries and clients where possible, then test everything
	@scripts/test.sh

test-minimal: ## test the gateway built without the feature v1, in a few minutes
	@scripts/test-minimal.sh

test-browser: ## test the dashboard in headless Chromium, as `make test` does
	@scripts/test-browser.sh

test-long: ## in two hours: rights of random users, a soak, a week of CI, 200 kills, fuzzing
	@scripts/test-long.sh

bench: ## compare with nginx, docker-registry and Varnish in half an hour; writes docs/benchmarks.md
	@scripts/real-parts.sh $(BENCH_PARTS)
	@scripts/build.sh --profile dist
	@python3 scripts/bench

bench-quick: ## count instructions and compare warm responses with nginx in three minutes
	@scripts/real-parts.sh $(BENCH_PARTS)
	@scripts/build.sh --profile dist
	@python3 scripts/bench quick

profile: ## show where the CPU time of each answer goes, in two minutes; writes docs/profile.md
	@scripts/real-parts.sh $(BENCH_PARTS)
	@scripts/build.sh --profile dist
	@python3 scripts/bench profile

soak: ## ten minutes of pulls, faults, purges and kills on a store that is too small; prints a table
	@scripts/build.sh --workspace --test integration
	@ROADSTEAD_SOAK=600 cargo test --locked --workspace --test integration soak:: -- --nocapture | grep '^|'

demo: ## show cold and warm pulls, and an upstream that stops and fails, in a minute and offline
	@scripts/real-parts.sh docker-registry skopeo python3
	@scripts/build.sh --profile quick
	@scripts/demo.sh

deb: ## build a Debian package in target/deb
	@scripts/deb.sh

image: ## build the container image roadstead:latest with docker, podman or buildah
	@scripts/image.sh

fmt: ## format the code
	@cargo fmt --all

lint: ## format, clippy, documentation, licences and sources
	@scripts/lint.sh

clean: ## remove build output; keys and store in var/ stay
	@cargo clean
