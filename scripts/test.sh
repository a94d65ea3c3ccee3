#!/usr/bin/env bash
# Everything that must hold before a change goes in. All checks run, whatever the first ones say; the last
# line sums up the tests. CI=true: a real part that is missing fails.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

need_rust
mkdir -p target
log=$PWD/target/test.log
export ROADSTEAD_MISSING=$PWD/target/missing.txt
: >"$log"
: >"$ROADSTEAD_MISSING"
failed=()

# Cargo names every crate where no terminal shows its bar; every fiftieth is enough.
brief() {
    if [[ -t 2 ]]; then
        "$@"
        return
    fi
    "$@" 2>&1 | {
        local line crates=0
        while IFS= read -r line; do
            case $line in
                *" Compiling "* | *" Checking "* | *" Documenting "* | *" Downloaded "* | *" Adding "*)
                    ((++crates % 50)) || echo "    … $crates crates"
                    ;;
                *) printf '%s\n' "$line" ;;
            esac
        done
    }
}

check() {
    local name=$1 started=$SECONDS
    shift
    step "$name"
    if "$@"; then
        echo "$name: good ($((SECONDS - started)) s)"
    else
        warn "$name: FAILED ($((SECONDS - started)) s)"
        failed+=("$name")
    fi
}

parts() {
    local packages
    mapfile -t packages < <(build_packages)
    install_packages "${packages[@]}" || die "The build needs ${packages[*]}: install that, then run this again."
    scripts/real-parts.sh || [[ ${CI:-} != true ]]
}

format() {
    cargo fmt --all --check && cargo fmt --check --manifest-path fuzz/Cargo.toml
}

deny() {
    if ! cargo deny --version >/dev/null 2>&1; then
        # Unoptimised: it compiles three times faster and runs for a second.
        if [[ ${ROADSTEAD_INSTALL:-} == no ]] || ! brief cargo install --debug --locked --version '^0.20' cargo-deny; then
            echo "cargo deny: cargo-deny is missing" | tee -a "$ROADSTEAD_MISSING"
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

# Shows everything but the tests that went well.
tests() {
    brief cargo test --locked --workspace --no-fail-fast | tee "$log" | grep --line-buffered -vE '^(test .* \.\.\. ok)?$'
}

documentation() {
    RUSTDOCFLAGS=-Dwarnings brief cargo doc --locked --workspace --no-deps --document-private-items
}

check "real parts" parts
check "format" format
check "clippy" brief cargo clippy --locked --workspace --all-targets -- -D warnings
check "licences and sources" deny
check "tests" tests
check "fuzz" scripts/fuzz.sh
check "documentation" documentation

step "in all: $((SECONDS / 60)) min $((SECONDS % 60)) s"
if [[ -s $ROADSTEAD_MISSING ]]; then
    warn "NOT TESTED, because a real part is missing:"
    sort -u "$ROADSTEAD_MISSING" | sed 's/^/  /'
    # The tests failed by themselves then; this is for what is not theirs.
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
