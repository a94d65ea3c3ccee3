#!/usr/bin/env bash
# Builds what is asked for (`scripts/build.sh --release`), after installing what a build lacks.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

need_rust
mapfile -t packages < <(build_packages)
install_packages "${packages[@]}" || die "The build needs ${packages[*]}: install that, then run this again."
exec cargo build --locked "$@"
