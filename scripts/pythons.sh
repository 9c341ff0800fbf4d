#!/usr/bin/env bash
# Prints the interpreters of CPython 3.10 or newer at hand, one of each version: of PATH and of pyenv.
set -euo pipefail
shopt -s nullglob
names=(python3.{10..19} python3.{14..19}t)  # 3.13t was an experiment, with wheels of few packages
{
  for name in "${names[@]}"; do command -v "$name" || true; done
  for folder in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin; do
    for name in "${names[@]}"; do
      if [ -x "$folder/$name" ]; then echo "$folder/$name"; fi
    done
  done
} | while read -r python; do
  # pyenv has a stand-in for each version that any of its own has; not all of them run.
  tag=$("$python" -c 'import ensurepip, sys; print("%d.%d%s" % (*sys.version_info[:2], sys.abiflags))' 2>/dev/null) || continue
  if [ "${python##*/}" != "python$tag" ]; then continue; fi  # python3.14 may be a link to python3.14t
  echo "$tag $python"
done | sort -u -k 1,1 -V | cut -d ' ' -f 2
