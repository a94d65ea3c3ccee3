#!/usr/bin/env bash
# Fuzzes the parsers, as many targets at once as there are processors: `scripts/fuzz.sh [SECONDS [TARGET…]]`,
# 10 seconds each by default. Does what `cargo fuzz --sanitizer none` does, with the stable toolchain.
# The seeds in fuzz/corpus are only read; findings are in target/fuzz/found.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

seconds=${1:-10}
shift || true
targets=("$@")
((${#targets[@]} > 0)) || mapfile -t targets < <(basename -s .rs -a fuzz/fuzz_targets/*.rs)

need_rust
if ! has c++; then
    # libFuzzer is C++.
    install_packages g++ || {
        echo "fuzz: a C++ compiler is missing" | tee -a "${ROADSTEAD_MISSING:-/dev/null}"
        [[ ${CI:-} != true ]]
        exit
    }
fi

host=$(rustc -vV | sed -n 's/^host: //p')
out=target/fuzz
# With --target, build scripts and macros are not instrumented.
RUSTFLAGS="--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares" \
    cargo build --quiet --locked --release --manifest-path fuzz/Cargo.toml --target "$host" --target-dir "$out"

# Fuzzes one target; shows its log only if it failed. libFuzzer writes to the first folder only.
fuzz() {
    local target=$1 log=$out/$1.log
    mkdir -p "$out/corpus/$target" "$out/found/$target"
    if RUST_BACKTRACE=0 "$out/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="$out/found/$target/" "$out/corpus/$target" "fuzz/corpus/$target" >"$log" 2>&1; then
        local runs coverage
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        coverage=$(grep -oP 'cov: \K\d+' "$log" | tail -n 1)
        printf '  %-12s %9d inputs, %d edges\n' "$target" "$runs" "$coverage"
        ((coverage > 50)) || { warn "$target: not instrumented: only $coverage edges are covered" && return 1; }
    else
        warn "$target: FAILED"
        tail -n 40 "$log" >&2
        return 1
    fi
}
export -f fuzz warn
export out host seconds red plain
printf '%s\0' "${targets[@]}" | xargs -0 -P "$(nproc)" -I {} bash -euo pipefail -c 'fuzz {}'
