#!/usr/bin/env bash
# Tests the gateway without default features, which means without v1: unit tests of the crates of v2, and most integration
# tests. Tests of v1 are not compiled; the modules below take long or need real clients, and are left to `make test`.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

need_rust
left_out=(bad_input bodies bucket disk faults kill memory real soak stall wire)
skip=()
for module in "${left_out[@]}"; do skip+=(--skip "$module::"); done

# Hides the tests that pass.
tests() {
    brief cargo test --locked --no-default-features --no-fail-fast -- "${skip[@]}" |
        grep --line-buffered -vE '^(test .* \.\.\. ok)?$'
}

# The crates of v2; the root package is tested below. Of these only the gateway has features.
units() {
    local crates=(telemetry oci runtime store import upstream access events mirror gateway)
    brief cargo test --locked --no-default-features --no-fail-fast --lib "${crates[@]/#/--package=roadstead-}" |
        grep --line-buffered -vE '^(test .* \.\.\. ok)?$'
}

check "unit tests without v1" units
check "tests without v1" tests
((${#failed[@]} == 0)) || die "FAILED: ${failed[*]}"
