#!/bin/sh
# Runs ONNX's backend node cases and prints those that fail, those that are unsupported, and a summary.
#
#   tests/conformance.sh DIRECTORY     a directory of cases (model.onnx beside test_data_set_*)
#
# The `onnx` package up to 1.22 carries them: .../site-packages/onnx/backend/test/data/node
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
cases=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
cargo run --quiet --example run_case -- "$cases"/*/ | grep -v '^ok '
