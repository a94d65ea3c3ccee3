#!/usr/bin/env bash
# Tests the dashboard in headless Chromium: that of the real gateway with 100,000 repositories, and over a mock with hostile
# names. SCREENSHOTS names a folder for pictures. `make test` does the same.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

need_rust
scripts/real-parts.sh chromium node playwright python3
export CI=true
brief cargo test --locked --workspace --test browser -- --nocapture
