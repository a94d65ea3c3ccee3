#!/usr/bin/env bash
# Tests the dashboard in headless Chromium: first against a mock with 100,000 repositories and hostile names, then that of
# the real gateway. SCREENSHOTS names a folder for pictures.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

need_rust
scripts/real-parts.sh chromium node playwright python3
scripts/build.sh --workspace --test integration
export CI=true
check "the mock" node tests/browser/run.mjs
check "the gateway" cargo test --locked --workspace --test integration -- --ignored --exact browser::operators_use_the_dashboard
((${#failed[@]} == 0)) || die "FAILED: ${failed[*]}"
