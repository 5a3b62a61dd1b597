#!/bin/sh
# Builds every bundled policy: policies/NAME.c -> policies/NAME.wasm.
# The result depends on nothing but the sources and the version of clang and
# lld; CI runs this and compares with what is committed (clang 14, Debian 12).
set -eu
cd "$(dirname "$0")/../.."

: "${CLANG:=clang}"
for tool in "$CLANG" wasm-ld; do
    command -v "$tool" >/dev/null || {
        echo "$0: $tool is missing: apt-get install clang lld" >&2
        exit 1
    }
done

# The host reserves the maximum of a memory for every instance: say how little
# that is, or it takes the 16 MiB that it allows.
max_memory=851968

# Function names stay in the module, for the stack in the message of a trap.
for source in policies/*.c; do
    wasm=${source%.c}.wasm
    "$CLANG" --target=wasm32 -O3 -mbulk-memory -std=c11 -Wall -Wextra -Wno-unused-parameter -Werror \
        -fno-ident -nostdlib -Wl,--no-entry -Wl,--strip-debug -Wl,-z,stack-size=8192 -Wl,--max-memory=$max_memory \
        -I plugins/sdk/c -o "$wasm" "$source"
    echo "$wasm: $(wc -c <"$wasm") bytes"
done
