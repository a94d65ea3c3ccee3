#!/usr/bin/env bash
# The long forms of tests that look for what nobody thought of. ROADSTEAD_MODEL_SECONDS (3600) says how long the
# model of rights runs, ROADSTEAD_MODEL_SEED with which seed; what it finds is printed as a script to replay.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

need_rust
scripts/real-parts.sh docker-registry apache2-utils
scripts/build.sh --test integration

export ROADSTEAD_MODEL_SECONDS=${ROADSTEAD_MODEL_SECONDS:-3600}
step "rights: $ROADSTEAD_MODEL_SECONDS s"
CI=true cargo test --locked --test integration -- --nocapture model::no_caller_sees
