#!/bin/bash
# Serves one pose from the aarch64 wheels, in a Debian for arm64 under emulation, and compares it with
# this machine's. Says nothing about speed, nor about a board: there is no programmable logic.
#
#     deploy/board/check_arm64.sh /var/tmp/arm64       # as root
#
# Needs debootstrap, qemu-user-static, curl, a network, `make wheels BOARD_PYTHON=3.11` (Debian 12's
# Python) and `make serve`'s environment. The folder is kept, so that a second run is short.
set -euo pipefail

folder=$(realpath -m "${1:?name a folder for the system, such as /var/tmp/arm64}")
repository=$(realpath "$(dirname "$0")/../..")
root=$folder/root
binfmt=/proc/sys/fs/binfmt_misc
handler=$binfmt/qemu-aarch64
started=() registered=no mounted=no

finish() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" || true; done
    if [ $registered = yes ]; then echo -1 >$handler; fi
    if [ $mounted = yes ]; then umount $binfmt; fi
}
trap finish EXIT

if [ ! -e $binfmt/register ]; then
    mount -t binfmt_misc binfmt_misc $binfmt
    mounted=yes
fi
if [ ! -e $handler ]; then
    tr -d '\n' </usr/lib/binfmt.d/qemu-aarch64.conf >$binfmt/register
    registered=yes
fi

if [ ! -e "$root/usr/bin/g++" ] || [ -d "$root/debootstrap" ]; then
    rm -rf "$root"
    mkdir -p "$folder"
    debootstrap --foreign --arch=arm64 --variant=minbase --include=python3,python3-venv,g++ \
        bookworm "$root" http://deb.debian.org/debian >"$folder/debootstrap.log"
    chroot "$root" /debootstrap/debootstrap --second-stage >>"$folder/debootstrap.log"
fi

rm -rf "$root/opt/emamba"
mkdir -p "$root/opt/emamba/wheels"
cp "$repository"/build/wheels/cp311/*.whl "$root/opt/emamba/wheels"
cp -r "$repository/models" "$root/opt/emamba/models"
chroot "$root" /bin/sh -c 'python3 -m venv /opt/emamba/venv &&
    /opt/emamba/venv/bin/pip install --quiet --no-index --no-deps /opt/emamba/wheels/*.whl'
chroot "$root" /opt/emamba/venv/bin/python -c 'import platform; print(platform.machine())'

# serve NAME PORT COMMAND...: start it, and write its joints to NAME.json once it answers.
serve() {
    local name=$1 port=$2 begun=$SECONDS
    shift 2
    "$@" --engine native --port "$port" >"$folder/$name.log" 2>&1 &
    started+=($!)
    until curl -sf "http://127.0.0.1:$port/v1/pose" -H 'Content-Type: application/json' \
        -d '{"points": [[-0.31, 1.92, 0.48, 0.0, 31], [0.12, 1.87, -0.22, -0.18, 44]]}' |
        "$repository/.venv/bin/python" -c 'import json, sys; print(json.load(sys.stdin)["poses"])' \
            >"$folder/$name.json" 2>/dev/null; do
        if ! kill -0 "${started[-1]}" 2>/dev/null || ((SECONDS - begun > 300)); then
            echo "check_arm64.sh: $name must answer, but does not; see $folder/$name.log" >&2
            exit 1
        fi
        sleep 1
    done
    echo "$name: first pose after $((SECONDS - begun)) s"
}

serve aarch64 8711 chroot "$root" env EMAMBA_CACHE=/opt/emamba/cache \
    /opt/emamba/venv/bin/emamba-service --models /opt/emamba/models
serve here 8712 "$repository/.venv/bin/emamba-service" --models "$repository/models"
cmp "$folder/aarch64.json" "$folder/here.json"
echo "both machines give the same pose"
