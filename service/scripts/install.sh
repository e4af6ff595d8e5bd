#!/bin/sh
# Installs packages into the environment of a Python: by this checkout's uv, ten times as fast as
# pip, or where that fails by pip, for an index or a cache that only pip's own settings name.
#   install.sh PYTHON ARGUMENTS
set -eu
python=$1
shift
"$(dirname "$0")/../../.venv/bin/uv" pip install --quiet --python "$python" "$@" ||
    exec "$python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"
