#!/usr/bin/env bash
# Installs docker-registry 0.9.1, the last registry of the v1 API, into target/v1-registry, for the tests.
# Needs a CPython 2.7 and pip. Starts nothing; does nothing if it is installed.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

place=$PWD/target/v1-registry
[[ -x $place/bin/gunicorn && -e $place/ready ]] && exit 0

# Finds a python2.7 that runs: a version switcher's shim may have none behind it.
python=
for candidate in python2.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python2.7; do
    if has "$candidate" && "$candidate" -c '' 2>/dev/null; then
        python=$("$candidate" -c 'import sys; print(sys.executable)')
        break
    fi
done
if [[ -z $python ]]; then
    warn "docker-registry 0.9.1 needs Python 2.7, which is not installed: only the scripted v1 registry is used"
    exit 1
fi
if [[ ${ROADSTEAD_INSTALL:-} == no ]]; then
    warn "missing: docker-registry 0.9.1 (scripts/v1-registry.sh installs it)"
    exit 1
fi

# The versions that the registry pins, except gevent's, which no current compiler accepts.
pinned=(docker-registry==0.9.1 docker-registry-core==2.0.3 Flask==0.10.1 Werkzeug==0.9.6 Jinja2==2.7.3
    itsdangerous==0.24 MarkupSafe==0.23 gunicorn==19.1.1 PyYAML==3.11 requests==2.3.0 SQLAlchemy==0.9.4
    blinker==1.3 simplejson==3.6.2 redis==2.10.3 boto==2.34.0 gevent==21.12.0 greenlet==1.1.3
    zope.event==4.6 zope.interface==5.5.2)

echo "installing: docker-registry 0.9.1"
rm -rf "$place"
mkdir -p "$place"
log=$place/install.log
install() {
    # The last virtualenv that supports Python 2.7.
    python3 -m pip install --quiet --disable-pip-version-check --target "$place/virtualenv" 'virtualenv<20.22' &&
        PYTHONPATH=$place/virtualenv python3 -m virtualenv --quiet --python "$python" "$place" &&
        "$place/bin/pip" install --quiet --no-deps "${pinned[@]}"
}
if ! install >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    warn "docker-registry 0.9.1 could not be installed; see $log"
    exit 1
fi
# It imports these for signatures and file lists, which no test uses.
mkdir -p "$place"/stubs/{M2Crypto,backports}
echo 'BIO = RSA = None' >"$place/stubs/M2Crypto/__init__.py"
touch "$place/stubs/backports/__init__.py"
echo 'LZMAFile = object' >"$place/stubs/backports/lzma.py"
touch "$place/ready"
