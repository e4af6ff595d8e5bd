#!/bin/sh
# Runs a command in an environment that has MLServer, made on first use. It is one of its own because
# MLServer needs other versions of FastAPI and uvicorn than the service.
#   with_mlserver.sh PYTHON COMMAND [ARGUMENTS]      PYTHON: 3.10 to 3.12
set -eu
cd "$(dirname "$0")/../.."
python=$1
command=$2
shift 2
environment=.venv/bench-mlserver
ready=$environment/ready
[ "$ready" -nt requirements-bench-mlserver.txt ] || rm -f "$ready"
if [ ! -e "$ready" ]; then
    "$python" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
        -r requirements-bench-mlserver.txt
    touch "$ready"
fi
exec "$environment/bin/$command" "$@"
