#!/usr/bin/env bash
# Installs the real registries, clients and object stores that tests and demo run against: all of them, or those that
# are named, such as those of the benchmark or of the browser. Only what is missing; nothing is started.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

all=(docker-registry skopeo podman buildah containerd docker.io runc crun uidmap busybox-static
    faketime iproute2 nginx apache2-utils wrk nghttp2-client jq curl python3 pebble prometheus moto s3s-fs
    debootstrap debian-root systemd chromium node playwright)
failed=0
if (($# == 0)); then
    set -- "${all[@]}"
    # It may be missing: the tests name it then, and a scripted registry stands in.
    scripts/v1-registry.sh || true
    scripts/v1-clients.sh || failed=1
fi

# Object stores are no Debian packages: they go below target.
home=$PWD/target/real-parts
debian=()
part() {
    local name=$1 file=$2
    shift 2
    has "$file" || [[ -x $home/bin/$file ]] && return
    if [[ ${ROADSTEAD_INSTALL:-} == no ]]; then
        warn "missing here: $name"
    else
        echo "installing: $name"
        mkdir -p "$home/bin"
        "$@" && return
        warn "could not be installed: $name"
    fi
    failed=1
}
moto() {
    local venv
    if ! python3 -m venv --clear "$home/moto" >/dev/null 2>&1; then
        mapfile -t venv < <(absent_packages python3-venv)
        install_packages "${venv[@]}" && python3 -m venv --clear "$home/moto" || return
    fi
    "$home/moto/bin/pip" install --quiet --disable-pip-version-check 'moto[server,s3]==5.2.1' &&
        ln -sf "$home/moto/bin/moto_server" "$home/bin/"
}
# Unoptimised: it compiles twice as fast.
s3s() {
    need_rust
    cargo install --quiet --debug --locked --root "$home" --features binary s3s-fs@0.14.1
}
# The fresh Debian in which the package is installed: of this machine's release, with what the package depends on.
debian_root() {
    local release
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
    has debootstrap || install_packages debootstrap || return
    rm -rf "$home/debian-root.new"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,init-system-helpers,ca-certificates,logrotate \
        "$release" "$home/debian-root.new" >/dev/null && mv "$home/debian-root.new" "$home/debian-root"
}
# The browser tests' packages, beside them. Node may come from elsewhere than Debian.
playwright() { (cd tests/browser && npm ci --silent --no-audit --no-fund); }
for name in "$@"; do
    case $name in
        chromium) has google-chrome || has chromium-browser || part chromium chromium install_packages chromium ;;
        node) part "node and npm" npm install_packages nodejs npm ;;
        playwright) [[ -d tests/browser/node_modules/playwright-core ]] || part "playwright-core and axe-core" playwright-core playwright ;;
        debian-root) [[ -x $home/debian-root/usr/bin/dpkg ]] || part "a fresh Debian" debian-root debian_root ;;
        moto) part moto moto_server moto ;;
        s3s-fs) part s3s-fs s3s-fs s3s ;;
        *) debian+=("$name") ;;
    esac
done

((${#debian[@]} > 0)) || exit "$failed"
if ! has dpkg-query; then
    warn "not a Debian system; these would be used if they are installed: ${debian[*]}"
    exit 1
fi
mapfile -t packages < <(absent_packages "${debian[@]}")
install_packages "${packages[@]}" || failed=1
exit "$failed"
