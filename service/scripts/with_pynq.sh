#!/bin/sh
# Runs a command in an environment that has the genuine pynq, made on first use. It is one of its
# own because pynq needs NumPy below 2.
#   with_pynq.sh PYTHON PYNQ_VERSION COMMAND [ARGUMENTS]      any version of pynq: ""
set -eu
cd "$(dirname "$0")/../.."
python=$1
pynq=$2
command=$3
shift 3
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
3.10 | 3.11 | 3.12) ;;
*)
    echo "$command: not run, for pynq needs Python 3.10 to 3.12, and $python is $version" >&2
    # Tests that cannot run are skipped; whatever else was asked for has failed.
    [ "$command" = pytest ]
    exit
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
        -c requirements-dev.txt -e . -e './service[board]' -e ./client pytest hypothesis pyyaml ${pynq:+"pynq==$pynq"}
    touch "$ready"
fi
exec "$environment/bin/$command" "$@"
