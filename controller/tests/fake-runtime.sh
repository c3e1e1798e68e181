#!/bin/sh
# Stands in for the runtime in tests: takes the same command line and descriptors, serves nothing.
# What it does depends on the name of the model's file.
if [ "$2" = --check ]; then
    case "$3" in
    *bad*) echo '{"ok":false,"error":"operator Foo is not supported"}'; exit 1 ;;
    *crash*) echo "out of memory" >&2; kill -9 $$ ;;
    *hang*) read -r line <&4 ;;
    esac
    echo "counted" >> "$3.checks"
    echo '{"ok":true,"signature":{},"load_ms":1.5}'
    exit 0
fi
case "$3" in
*fail*)
    echo "error: ${3#*=}: operator Foo is not supported" >&2
    exit 3
    ;;
*stubborn*) trap '' TERM ;;
esac
case "$(readlink /proc/$$/fd/3)" in
socket:*) echo "listening, $LISTEN_FDS descriptor, greeting $GREETING, home ${HOME:+kept}, secret ${SECRET:-none}" >&2 ;;
*) echo "error: no socket" >&2 && exit 3 ;;
esac
# Blocks until the parent is gone: nobody writes.
read -r line <&4
exit 0
