#!/usr/bin/env bash
# Builds target/deb/roadstead_VERSION_ARCHITECTURE.deb from packaging/debian. --binary FILE packs that program instead of
# building one, and --version VERSION gives the package another version; tests use both.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

binary='' version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n1) out=target/deb compression=xz
while (($# > 0)); do
    case $1 in
        --binary) binary=$2 ;;
        --version) version=$2 ;;
        --out) out=$2 ;;
        --compression) compression=$2 ;;
        *) die "$1 is no option; write --binary FILE, --version VERSION, --out FOLDER or --compression xz" ;;
    esac
    shift 2
done
has dpkg-deb || die "dpkg-deb is missing: packages can be built on Debian and Ubuntu."
if [[ -z $binary ]]; then
    scripts/build.sh --profile dist
    binary=target/dist/roadstead
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 0755 "$root"
from=packaging/debian
put() { install -D -m "$1" "$2" "$root/$3"; }
put 0755 "$binary" usr/bin/roadstead
if has strip; then strip --strip-unneeded "$root/usr/bin/roadstead"; fi
put 0644 $from/roadstead.service lib/systemd/system/roadstead.service
put 0644 $from/roadstead.socket lib/systemd/system/roadstead.socket
put 0644 $from/sysusers.conf usr/lib/sysusers.d/roadstead.conf
put 0644 $from/tmpfiles.conf usr/lib/tmpfiles.d/roadstead.conf
put 0644 $from/logrotate etc/logrotate.d/roadstead
put 0640 $from/roadstead.yaml etc/roadstead/roadstead.yaml
put 0644 $from/copyright usr/share/doc/roadstead/copyright
put 0644 conf/roadstead.yaml usr/share/doc/roadstead/roadstead.yaml
put 0644 README.md usr/share/doc/roadstead/README.md
put 0644 CHANGELOG.md usr/share/doc/roadstead/changelog
gzip -9n "$root/usr/share/doc/roadstead/changelog"
cp -r conf/monitoring "$root/usr/share/doc/roadstead/monitoring"

mkdir -p "$root/usr/share/man/man1"
"$binary" man "$root/usr/share/man/man1"
gzip -9n "$root"/usr/share/man/man1/*.1
completion() {
    mkdir -p "$root/$(dirname "$2")"
    "$binary" completions "$1" >"$root/$2"
}
completion bash usr/share/bash-completion/completions/roadstead
completion zsh usr/share/zsh/vendor-completions/_roadstead
completion fish usr/share/fish/vendor_completions.d/roadstead.fish

# The newest symbols that the program needs of the C library.
libc=$(grep -ao 'GLIBC_2\.[0-9]\+' "$binary" | sort -Vu | tail -n1 | cut -d_ -f2)
mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<CONTROL
Package: roadstead
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: the authors of Roadstead <roadstead@localhost>
Section: net
Priority: optional
Installed-Size: $(du -ks "$root" | cut -f1)
Depends: libc6 (>= $libc), libgcc-s1, init-system-helpers (>= 1.54), systemd | systemd-standalone-sysusers, systemd | systemd-standalone-tmpfiles
Recommends: ca-certificates, logrotate
Description: caching proxy for container registries
 Roadstead sits between the machines that pull container images and the
 registries that they pull from. The first pull of an image is stored; every
 later pull, from any machine, is served from the disk, also while the registry
 is down. It verifies what it serves, and can stand in front of registries of
 its own, with users, rules and pushes.
CONTROL
printf '/etc/%s\n' logrotate.d/roadstead roadstead/roadstead.yaml >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 0755 "$from/$script" "$root/DEBIAN/$script"
done
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
# The same input makes the same package.
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
find "$root" -exec touch --no-dereference --date "@$epoch" {} +
mkdir -p "$out"
SOURCE_DATE_EPOCH=$epoch dpkg-deb --root-owner-group "-Z$compression" --build "$root" "$out/roadstead_${version}_$(dpkg --print-architecture).deb"
