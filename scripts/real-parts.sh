#!/usr/bin/env bash
# Installs the real registries and clients that tests, demo and benchmark run against: all of them, or
# those that are named. Only what is missing; nothing is started.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

all=(docker-registry skopeo podman buildah containerd docker.io runc crun uidmap busybox-static
    iproute2 nginx apache2-utils wrk nghttp2-client jq curl python3 prometheus)
failed=0
if (($# == 0)); then
    set -- "${all[@]}"
    # It may be missing: the tests name it then, and a scripted registry stands in.
    scripts/v1-registry.sh || true
    scripts/v1-clients.sh || failed=1
fi

if ! has dpkg-query; then
    warn "not a Debian system; these would be used if they are installed: $*"
    exit 1
fi
mapfile -t packages < <(absent_packages "$@")
install_packages "${packages[@]}" || failed=1
exit $failed
