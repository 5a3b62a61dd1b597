#!/bin/sh
# Builds the examples of the policy SDKs: plugins/sdk/LANG/examples/NAME.* ->
# OUT/LANG-NAME.wasm. Go's are not among them: whoever runs the tests has Go.
#
#   tools/policies/examples.sh [OUT [LANG...]]
#
# Without arguments it writes the files that are committed. They are those of
# Debian 12's clang and rustc and the AssemblyScript of package-lock.json.
set -eu
cd "$(dirname "$0")/../.."
sdk=plugins/sdk
out=${1:-$sdk/testdata}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- c rust assemblyscript

need() {
    command -v "$1" >/dev/null || { echo "$0: $1 is missing: $2" >&2; exit 1; }
}

names() { ls "$sdk/$1/examples" | sed -n "s/\.$2\$//p"; }

c() {
    need clang "apt-get install clang lld"
    need wasm-ld "apt-get install lld"
    for name in $(names c c); do
        clang --target=wasm32 -O2 -mbulk-memory -Wall -Werror -fno-ident -nostdlib -Wl,--no-entry -Wl,--strip-debug \
            -Wl,--max-memory=1048576 -o "$out/c-$name.wasm" "$sdk/c/examples/$name.c"
    done
}

# Debian's rustc has the target from libstd-rust-dev-wasm32; one of rustup's
# before it on the PATH may not.
rust() {
    target=wasm32-unknown-unknown
    for rustc in "${RUSTC:-}" /usr/bin/rustc "$(command -v rustc || true)"; do
        [ -x "$rustc" ] && [ -d "$("$rustc" --print target-libdir --target $target)" ] && break
        rustc=
    done
    [ -n "$rustc" ] || { echo "$0: rustc for $target is missing: apt-get install rustc libstd-rust-dev-wasm32" >&2; exit 1; }
    flags="--edition 2021 --target $target -C panic=abort -C opt-level=3 -C strip=debuginfo"
    lib=$(mktemp -d)
    trap 'rm -rf "$lib"' EXIT
    "$rustc" $flags --crate-type rlib --crate-name caplance -o "$lib/libcaplance.rlib" $sdk/rust/lib.rs
    for name in $(names rust rs); do
        "$rustc" $flags -C link-arg=-zstack-size=65536 -C link-arg=--max-memory=2097152 --crate-type cdylib \
            --crate-name "$(echo "$name" | tr - _)" --extern "caplance=$lib/libcaplance.rlib" \
            -o "$out/rust-$name.wasm" "$sdk/rust/examples/$name.rs"
    done
}

assemblyscript() {
    asc=$sdk/assemblyscript/node_modules/.bin/asc
    need node "apt-get install nodejs npm"
    [ -x $asc ] || { echo "$0: AssemblyScript is missing: npm ci --prefix $sdk/assemblyscript" >&2; exit 1; }
    for name in $(names assemblyscript ts); do
        $asc "$sdk/assemblyscript/examples/$name.ts" -o "$out/assemblyscript-$name.wasm" \
            -O3 --runtime stub --use abort= --maximumMemory 32
    done
}

for language; do
    "$language"
done
chmod 644 "$out"/*.wasm
