#!/usr/bin/env bash
# Makes an environment with the servers that the bench compares with, MLServer and mosec, outside of the tree, and prints its
# Python. Returns at once when it is there already.
set -euo pipefail

packages=(mlserver==1.7.1 mosec==0.9.8 onnxruntime==1.32.0)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/pilotlight/peers-1
if [ ! -e "$folder/made" ]; then
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}" >&2
    # Last, so that an interrupted installation is made again.
    touch "$folder/made"
fi
echo "$folder/bin/python"
