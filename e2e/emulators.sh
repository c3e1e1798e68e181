#!/usr/bin/env bash
# Installs the emulators of other clouds' storage, outside of the tree, and prints their programs: Azurite for Azure (npm), then
# fake-gcs-server for Google's (Go). Returns at once when they are there already.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/pilotlight
azurite=3.35.0
folder=$cache/azurite-$azurite
if [ ! -e "$folder/made" ]; then
    rm -rf "$folder"
    mkdir -p "$folder"
    npm install --prefix "$folder" --no-audit --no-fund --silent "azurite@$azurite" >&2
    # Last, so that an interrupted installation is made again.
    touch "$folder/made"
fi
google=v1.56.1
if [ ! -x "$cache/fake-gcs-server-$google/fake-gcs-server" ]; then
    GOBIN=$cache/fake-gcs-server-$google go install "github.com/fsouza/fake-gcs-server@$google" >&2
fi
echo "$folder/node_modules/.bin/azurite-blob"
echo "$cache/fake-gcs-server-$google/fake-gcs-server"
