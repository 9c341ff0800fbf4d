#!/usr/bin/env bash
# scripts/matrix.sh on a bare machine of another Debian, in a chroot: by its compiler, with its Python.
# Needs debootstrap, root, and on disk eight gigabytes for each release of torch.
#
#     scripts/debian.sh trixie 3.13:2.13.0:2.4.6       Debian 13
#     scripts/debian.sh testing 3.14:2.15.0:2.5.5      the next one
#
# MIRROR is where its packages come from. What matrix.sh takes from the environment holds in there, too, and so do this
# machine's certificates.
set -euo pipefail
release=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
machine=$(mktemp -d)
trap 'umount "$machine/proc" 2>/dev/null || true; rm -rf --one-file-system "$machine"' EXIT

debootstrap --variant=minbase --include=ca-certificates,ccache,g++,python3,python3-dev,python3-venv \
  "$release" "$machine" "${MIRROR:-http://deb.debian.org/debian}" >"$machine/log" || { tail "$machine/log"; exit 1; }
mount -t proc proc "$machine/proc"
cp -L /etc/ssl/certs/ca-certificates.crt "$machine/etc/ssl/certs/"
mkdir "$machine/fastopt"
(cd "$root" && git ls-files -z | xargs -0 cp --parents -t "$machine/fastopt")
chroot "$machine" sh -c 'g++ --version | head -1; python3 --version'
chroot "$machine" fastopt/scripts/matrix.sh "$@"
