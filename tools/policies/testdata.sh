#!/bin/sh
# Builds the guests that the tests run: testdata/NAME.wat of host and workbench ->
# NAME.wasm, and the examples of docs/policy-abi.md -> example-LANG.wasm, with
# the commands given there. CI runs this and compares with what is committed.
set -eu
cd "$(dirname "$0")/../.."

for tool in wat2wasm clang wasm-ld; do
    command -v "$tool" >/dev/null || {
        echo "$0: $tool is missing: apt-get install wabt clang lld" >&2
        exit 1
    }
done

for source in plugins/host/testdata/*.wat plugins/workbench/check/testdata/*.wat; do
    wat2wasm --enable-multi-memory -o "${source%.wat}.wasm" "$source"
done

# block LANG N: the N-th code block of that language in the document.
block() { awk -v fence='```'"$1" -v n="$2" '/^```$/ {p = 0} p {print} $0 == fence && ++k == n {p = 1}' docs/policy-abi.md; }

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
block wat 1 >"$out/example.wat"
block c 1 >"$out/example.c"
for n in 1 2; do
    (command=$(block sh $n) && cd "$out" && sh -ec "$command")
done
cp "$out"/example-*.wasm plugins/host/testdata/
