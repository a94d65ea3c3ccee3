#!/usr/bin/env bash
# The static checks: format, clippy, documentation, licences and sources.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

need_rust

format() {
    cargo fmt --all --check && cargo fmt --check --manifest-path fuzz/Cargo.toml
}

documentation() {
    RUSTDOCFLAGS=-Dwarnings brief cargo doc --locked --workspace --no-deps --document-private-items
}

deny() {
    if ! cargo deny --version >/dev/null 2>&1; then
        # Unoptimised: it compiles three times faster and runs for a second.
        if [[ ${ROADSTEAD_INSTALL:-} == no ]] || ! brief cargo install --debug --locked --version '^0.20' cargo-deny; then
            warn "cargo deny: cargo-deny is missing"
            [[ ${CI:-} != true ]]
            return
        fi
    fi
    local crate
    for crate in . fuzz; do
        cargo deny --log-level error --manifest-path $crate/Cargo.toml check --hide-inclusion-graph bans licenses sources ||
            return
    done
}

check "format" format
check "clippy" brief cargo clippy --locked --workspace --all-targets -- -D warnings
# A target that `cargo test` leaves out is not among all targets.
check "clippy of the browser test" brief cargo clippy --locked --workspace --test browser -- -D warnings
check "documentation" documentation
check "licences and sources" deny
((${#failed[@]} == 0)) || die "FAILED: ${failed[*]}"
