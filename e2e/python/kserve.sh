#!/usr/bin/env bash
# Makes an environment with KServe's Python client, outside of the tree since it is large (450 MB), and prints its Python.
# Returns at once when it is there already.
set -euo pipefail

version=0.21.0
folder=${XDG_CACHE_HOME:-$HOME/.cache}/pilotlight/kserve-$version
if [ ! -e "$folder/made" ]; then
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check "kserve==$version" >&2
    # Last, so that an interrupted installation is made again.
    touch "$folder/made"
fi
echo "$folder/bin/python"
