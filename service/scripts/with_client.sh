#!/bin/sh
# Runs a command in an environment that has a third-party client of the Open Inference Protocol, and
# nothing of ours. It is made on first use. Exits with 69 where it cannot be made.
#   with_client.sh PYTHON CLIENT COMMAND [ARGUMENTS]      CLIENT: tritonclient or kserve
set -eu
cd "$(dirname "$0")/../.."
python=$1
client=$2
command=$3
shift 3
case $client in
tritonclient) requirement='tritonclient[http]==2.73.0' ;;
kserve) requirement='kserve==0.21.0' ;;
*)
    echo "client must be tritonclient or kserve, but is $client" >&2
    exit 2
    ;;
esac
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
environment=.venv/clients-$client-$version
ready=$environment/ready
[ "$ready" -nt service/scripts/with_client.sh ] || rm -f "$ready"
if [ ! -e "$ready" ]; then
    if ! "$python" -m venv "$environment" ||
        ! service/scripts/install.sh "$environment/bin/python" "$requirement" >&2; then
        echo "$requirement cannot be installed in $environment" >&2
        exit 69
    fi
    touch "$ready"
fi
exec "$environment/bin/$command" "$@"
