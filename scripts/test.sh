#!/usr/bin/env bash
# Runs every test, also after failures; the last line sums them up. With CI=true a missing real part is a failure.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

need_rust
mkdir -p target
log=$PWD/target/test.log
export ROADSTEAD_MISSING=$PWD/target/missing.txt
: >"$log"
: >"$ROADSTEAD_MISSING"
parts() {
    local packages
    mapfile -t packages < <(build_packages)
    install_packages "${packages[@]}" || die "The build needs ${packages[*]}: install that, then run this again."
    scripts/real-parts.sh || [[ ${CI:-} != true ]]
}

# Hides the tests that pass.
tests() {
    brief cargo test --locked --no-fail-fast "$@" | tee -a "$log" | grep --line-buffered -vE '^(test .* \.\.\. ok)?$'
}

check "real parts" parts
check "tests" tests --workspace
# It needs the machine to itself.
check "the dashboard in a browser" tests --workspace --test browser
# A second for each target; `make test-long` takes longer.
check "fuzz" scripts/fuzz.sh 1

step "in all: $((SECONDS / 60)) min $((SECONDS % 60)) s"
if [[ -s $ROADSTEAD_MISSING ]]; then
    warn "NOT TESTED, because a real part is missing:"
    sort -u "$ROADSTEAD_MISSING" | sed 's/^/  /'
    # Tests that miss a part fail by themselves; this is for the other checks.
    [[ ${CI:-} != true ]] || failed+=("missing parts")
fi
((${#failed[@]} == 0)) || warn "FAILED: ${failed[*]}"
awk '/^test result: / {
    for (i = 2; i <= NF; i++) {
        if ($i == "passed;") passed += $(i - 1)
        if ($i == "failed;") failed += $(i - 1)
        if ($i == "ignored;") ignored += $(i - 1)
    }
}
END { printf "%d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$log"
((${#failed[@]} == 0))
