#!/bin/sh
# Runs tests/board, or another Python module, with the genuine pynq, in an environment of its own:
# pynq needs NumPy below 2.
#   run.sh PYTHON [PYNQ_VERSION [MODULE [ARGUMENTS]]]
set -eu
cd "$(dirname "$0")/../.."
python=$1
pynq=${2:-}
[ $# -lt 2 ] || shift
shift
[ $# -gt 0 ] || set -- pytest tests/board
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
3.10 | 3.11 | 3.12) ;;
*)
    echo "tests/board: skipped, pynq is for Python 3.10 to 3.12, not $version"
    exit 0
    ;;
esac
environment=.venv/board-$version${pynq:+-$pynq}
ready=$environment/ready
for project in pyproject.toml service/pyproject.toml requirements-dev.txt; do
    [ "$ready" -nt "$project" ] || rm -f "$ready"
done
if [ ! -e "$ready" ]; then
    "$python" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
        -c requirements-dev.txt -e . -e './service[board]' pytest hypothesis ${pynq:+"pynq==$pynq"}
    touch "$ready"
fi
exec "$environment/bin/python" -m "$@"
