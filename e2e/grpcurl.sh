#!/usr/bin/env bash
# Builds grpcurl, outside of the tree, and prints its path. Returns at once when it is there already.
set -euo pipefail

version=v1.9.4
folder=${XDG_CACHE_HOME:-$HOME/.cache}/pilotlight/grpcurl-$version
if [ ! -x "$folder/grpcurl" ]; then
    GOBIN=$folder go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$version" >&2
fi
echo "$folder/grpcurl"
