#!/usr/bin/env bash
# The long forms of the randomised tests, one after the other. ROADSTEAD_MODEL_SECONDS (3600), ROADSTEAD_SOAK
# (600), ROADSTEAD_BUDGET (1008) and ROADSTEAD_FUZZ_SECONDS (60, for each target) set their durations; ROADSTEAD_MODEL_SEED and
# ROADSTEAD_SEED repeat a run with the seed that it printed.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

need_rust
scripts/real-parts.sh docker-registry apache2-utils valgrind
scripts/build.sh --workspace --test integration

# Runs one integration test, and shows its output.
long() {
    local name=$1
    shift
    step "$name"
    cargo test --locked --workspace --test integration -- --nocapture --exact "$@" || failed+=("$name")
}

export CI=true
export ROADSTEAD_MODEL_SECONDS=${ROADSTEAD_MODEL_SECONDS:-3600}
export ROADSTEAD_SOAK=${ROADSTEAD_SOAK:-600}
export ROADSTEAD_BUDGET=${ROADSTEAD_BUDGET:-1008}
export ROADSTEAD_KILLS=${ROADSTEAD_KILLS:-200}
export ROADSTEAD_ROLLOUT=${ROADSTEAD_ROLLOUT:-5}
export ROADSTEAD_SCALE=${ROADSTEAD_SCALE:-3}
export ROADSTEAD_PUSH_MIB=${ROADSTEAD_PUSH_MIB:-1024}
long "a soak of $ROADSTEAD_SOAK s" soak::store_survives_long_load
long "a week of CI in $ROADSTEAD_BUDGET s" budget::week::quota_of_one_address_lasts_for_a_ci
long "$ROADSTEAD_ROLLOUT rollouts to a fleet" fleet::rollout::rollout_crosses_the_line_once
long "first bytes through two gateways" fleet::first_byte::first_byte_comes_through_both_nodes_at_once
long "$ROADSTEAD_SCALE changes of a fleet behind a balancer" fleet::scale::fleet_behind_a_balancer_survives_changes
long "$ROADSTEAD_KILLS kills" kill::store_is_consistent_after_kills
long "a push of $ROADSTEAD_PUSH_MIB MiB" push::bodies::long_patch_keeps_memory_flat
if [[ -f docs/instructions.json ]]; then
    step "instructions of a hit"
    scripts/build.sh --profile dist && python3 scripts/bench instructions-check || failed+=("instructions of a hit")
else
    warn "Not compared: docs/instructions.json records no instructions of a hit."
fi
step "fuzzing"
scripts/fuzz.sh "${ROADSTEAD_FUZZ_SECONDS:-60}" || failed+=("fuzzing")
long "rights: $ROADSTEAD_MODEL_SECONDS s" model::no_caller_sees_beyond_the_rules

step "in all: $((SECONDS / 60)) min $((SECONDS % 60)) s"
((${#failed[@]} == 0)) || die "FAILED: ${failed[*]}"
