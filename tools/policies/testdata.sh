#!/bin/sh
# Assembles the guests that the tests run: plugins/host/testdata/NAME.wat ->
# NAME.wasm. CI runs this and compares with what is committed.
set -eu
cd "$(dirname "$0")/../../plugins/host/testdata"

command -v wat2wasm >/dev/null || {
    echo "$0: wat2wasm is missing: apt-get install wabt" >&2
    exit 1
}
for source in *.wat; do
    wat2wasm --enable-multi-memory -o "${source%.wat}.wasm" "$source"
done
