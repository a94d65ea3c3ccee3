#!/usr/bin/env bash
# Builds the container image with the first tool that is there. IMAGE names it; the default is roadstead:latest.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

image=${IMAGE:-roadstead:latest}
if has docker && docker info >/dev/null 2>&1; then
    exec docker build --tag "$image" .
elif has podman; then
    exec podman build --format docker --tag "$image" .
elif has buildah; then
    exec buildah build --format docker --tag "$image" .
fi
die "docker, podman or buildah is needed to build $image."
