#!/usr/bin/env bash
# Runs `cargo build` with its arguments (`scripts/build.sh --profile quick`), after installing missing build packages.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

need_rust
mapfile -t packages < <(build_packages)
install_packages "${packages[@]}" || die "The build needs ${packages[*]}: install that, then run this again."
exec cargo build --locked "$@"
