# Sourced by the other scripts: messages, checks and package installation.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -t 1 && -z "${NO_COLOR:-}" ]]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
    bold='' dim='' red='' green='' plain=''
fi

step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
warn() { printf '%s%s%s\n' "$red" "$*" "$plain" >&2; }
die() {
    warn "$*"
    exit 1
}

has() { command -v "$1" >/dev/null || [[ -x "/usr/sbin/$1" || -x "/sbin/$1" ]]; }

# Requires Rust in the version that Cargo.toml names.
need_rust() {
    has cargo || PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    has cargo || die "Rust is missing: install $wanted or newer from https://rustup.rs, then run this again."
    found=$(cargo --version | cut -d' ' -f2)
    [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n1) == "$wanted" ]] ||
        die "Rust $found is too old: $wanted or newer is needed. \`rustup update\`, or see https://rustup.rs."
}

# Prints the missing build packages: cmake, make, a C compiler with its headers.
build_packages() {
    has cmake || echo cmake
    has make || echo make
    if ! printf '#include <stdlib.h>\nint main(void) { return 0; }\n' | cc -x c -o /dev/null - 2>/dev/null; then
        echo gcc
        echo libc6-dev
    fi
}

# Prints which of these Debian packages are not installed.
absent_packages() {
    local package
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
    done
}

# Installs Debian packages. Fails if that is impossible or one of them is not available.
# ROADSTEAD_INSTALL=no forbids it.
install_packages() {
    (($# > 0)) || return 0
    local root=() line="apt-get install -y --no-install-recommends $*"
    if ((EUID != 0)); then
        root=(sudo)
        [[ -t 0 ]] || root=(sudo -n)
    fi
    if [[ ${ROADSTEAD_INSTALL:-} == no ]] || ! has apt-get || { ((EUID != 0)) && ! "${root[@]}" true 2>/dev/null; }; then
        warn "missing: $*"
        warn "on Debian or Ubuntu:  sudo $line"
        return 1
    fi
    echo "installing: $*"
    "${root[@]}" bash -s -- "$@" <<'ROOT'
export DEBIAN_FRONTEND=noninteractive
# Packages start their services (nginx, dockerd), which a test machine does not need.
if [[ ! -e /usr/sbin/policy-rc.d ]]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
options=(-qq -y --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120)
install() { apt-get install "${options[@]}" "$@" </dev/null >/dev/null; }
apt-get update -qq </dev/null || echo "apt-get update failed; using the known package lists" >&2
install "$@" && exit
# One unavailable package must not prevent the others.
for package in "$@"; do
    install "$package" || failed=1
done
exit "${failed:-0}"
ROOT
}

# The checks that failed.
failed=()

# Without a terminal cargo prints every crate; this prints every fiftieth.
brief() {
    if [[ -t 2 ]]; then
        "$@"
        return
    fi
    "$@" 2>&1 | {
        local line crates=0
        while IFS= read -r line; do
            case $line in
                *" Compiling "* | *" Checking "* | *" Documenting "* | *" Downloaded "* | *" Adding "*)
                    ((++crates % 50)) || echo "    … $crates crates"
                    ;;
                *) printf '%s\n' "$line" ;;
            esac
        done
    }
}

check() {
    local name=$1 started=$SECONDS
    shift
    step "$name"
    if "$@"; then
        echo "$name: passed ($((SECONDS - started)) s)"
    else
        warn "$name: FAILED ($((SECONDS - started)) s)"
        failed+=("$name")
    fi
}
