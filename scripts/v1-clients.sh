#!/usr/bin/env bash
# Installs the v1 API clients that are still available, npm's and PyPI's docker-registry-client, into
# target/v1-clients, for the tests. Does nothing if they are installed.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

place=$PWD/target/v1-clients
log=$place/install.log
failed=0

# Two packages of one name, and the dependencies of Python's, in the versions that the tests were written for.
npm_client=docker-registry-client@3.4.0
python_client=(docker-registry-client==0.5.2 requests==2.34.2 urllib3==2.8.0 certifi==2026.10.18 idna==3.20
    charset-normalizer==3.5.2 ecdsa==0.13.3 jws==0.1.3)

# part NAME FOLDER PROGRAM...: installs a client into FOLDER with PROGRAM.
part() {
    local name=$1 folder=$place/$2
    shift 2
    [[ -e $folder/ready ]] && return
    if [[ ${ROADSTEAD_INSTALL:-} == no ]] || ! has "$1"; then
        warn "missing: $name (scripts/v1-clients.sh installs it, with $1)"
        failed=1
        return
    fi
    echo "installing: $name"
    rm -rf "$folder"
    mkdir -p "$folder"
    if "$@" >"$log" 2>&1; then
        touch "$folder/ready"
    else
        tail -n 5 "$log" >&2
        warn "$name could not be installed; see $log"
        failed=1
    fi
}

# The scripts would compile only tracing support.
part "npm's docker-registry-client" npm \
    npm install --prefix "$place/npm" --no-save --ignore-scripts --no-audit --no-fund "$npm_client"
part "PyPI's docker-registry-client" python \
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$place/python" "${python_client[@]}"
exit $failed
