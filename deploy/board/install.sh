#!/bin/sh
# Installs the service on a board, without a network:
#
#     sh install.sh wheels        # as root; `wheels` is a folder that `make wheels` filled
#
# The service gets an environment of its own, /opt/emamba/venv, which looks into PYNQ's for pynq and
# what pynq needs. In PYNQ's itself it would replace packages that Jupyter there is pinned to.
#
# PYNQ_VENV names another environment with pynq, DESTDIR another root to install under.
set -eu

wheels=${1:-wheels}
pynq_venv=${PYNQ_VENV:-/usr/local/share/pynq-venv}
here=$(dirname "$0")
venv=${DESTDIR:-}/opt/emamba/venv
etc=${DESTDIR:-}/etc

refuse() {
    echo "install.sh: $1" >&2
    exit 1
}

[ -x "$pynq_venv/bin/python" ] ||
    refuse "$pynq_venv must be PYNQ's environment, but has no bin/python; set PYNQ_VENV"
ls "$wheels"/emamba_service-*.whl >/dev/null 2>&1 ||
    refuse "$wheels must hold the wheels that 'make wheels' collects, but does not"

"$pynq_venv/bin/python" -m venv --clear --system-site-packages "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --no-index --no-deps --ignore-installed "$wheels"/*.whl

site='import sysconfig; print(sysconfig.get_path("purelib"))'
"$pynq_venv/bin/python" -c "$site" >"$("$venv/bin/python" -c "$site")/pynq-venv.pth"
pynq=$("$venv/bin/python" -c 'from importlib.util import find_spec
spec = find_spec("pynq")
print(spec.submodule_search_locations[0] if spec else "")')
[ -n "$pynq" ] || refuse "$pynq_venv must have pynq, but has not; set PYNQ_VENV"

mkdir -p "${DESTDIR:-}/opt/emamba/models" "${DESTDIR:-}/opt/emamba/overlay"
mkdir -p "$etc/emamba" "$etc/systemd/system/emamba.service.d"
cp "$here/emamba.service" "$etc/systemd/system/emamba.service"
# pynq keeps the last overlay's metadata there; the service removes it at each start.
printf '[Service]\nReadWritePaths=%s\n' "$pynq/pl_server" \
    >"$etc/systemd/system/emamba.service.d/pynq.conf"
# Settings that somebody changed stay.
[ -e "$etc/emamba/emamba.env" ] || cp "$here/emamba.env" "$etc/emamba/emamba.env"

echo "installed in $venv; next: $venv/bin/emamba-service doctor (docs/board.md)"
