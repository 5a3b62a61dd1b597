#!/usr/bin/env bash
# Boots a Debian kernel in qemu and runs, as root in it, the tests that touch a kernel. `make vm` calls it
# for each kernel.
#
#   tools/vm/run.sh KERNEL [PACKAGE…]    KERNEL: bullseye (5.10), bookworm (6.1), trixie (6.12)
#
# PACKAGE is a directory, as core/fastpath; default: all whose tests ask for a network namespace, e2e last.
# The environment says the rest:
#
#   RUN=regexp     only these tests (-test.run)
#   E2E=regexp     only these of package e2e, whatever RUN says
#   SKIP=regexp    not these (-test.skip)
#   TYPE, MODE     the way of e2e: CAPLANCE_TYPE and CAPLANCE_MODE
#   V=1            print what passing tests print, too
#   SLOW=10        factor for the tests' deadlines
#   ACCEL=tcg      how qemu runs it: tcg is emulation, which is slow and works anywhere; kvm where it works
#   LIMIT=3600     seconds until a VM that hangs is ended
#   MEMORY=3072    MiB of the VM
#   CPUS=1         its processors. Emulation runs them by turns: where two run at once, qemu 7.2 lets one execute
#                  half of an instruction that the other patches, and the kernel dies of an int3
#   OUT=directory  where binaries are built and logs stay; default bin/vm
#
# The exit code is 0 if every test passed, 1 otherwise; a panic, a hang and a VM that ends without a word
# are failures that say so. The initramfs holds busybox, the kernel's modules for networks, the checkout,
# the programs and the test binaries. Kernels are kept in the user's cache directory; remove
# ~/.cache/caplance/vm for newer ones.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
kernel=${1:?which kernel: bullseye, bookworm or trixie}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/caplance/vm/$kernel
out=${OUT:-$root/bin/vm}
log=$out/$kernel.log
export PATH=$PATH:/sbin:/usr/sbin

die() {
    echo "vm: $*" >&2
    exit 1
}

needs() { # COMMAND:PACKAGE…
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} = 0 ] || die "this needs a Debian or a descendant with: apt-get install ${missing[*]}"
}

# archive prints the address that this machine's own apt has Debian from, or VM_MIRROR.
archive() {
    [ -z "${VM_MIRROR:-}" ] || { echo "$VM_MIRROR" && return; }
    { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null || true; } |
        awk '/^(URIs:|deb )/ { for (i = 2; i <= NF; i++) if ($i ~ "/debian/?$") { if (!found++) print $i } } END { exit !found }' ||
        die "apt has no Debian archive here: set VM_MIRROR to the address of one"
}

# fetch puts the kernel and its whole module tree into the cache, by an apt that knows one suite and nothing of
# this machine's.
fetch() {
    local etc=$cache/apt apt package
    mkdir -p "$etc"/{lists/partial,cache/archives/partial,parts}
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
        "$(archive)" "$kernel" >"$etc/parts/suite.sources"
    apt=(-qq -oDir::Etc::sourcelist=/dev/null -oDir::Etc::sourceparts="$etc/parts" -oDir::State::Lists="$etc/lists" -oDir::Cache="$etc/cache" -oAPT::Sandbox::User=root)
    apt-get "${apt[@]}" update
    package=$(apt-cache "${apt[@]}" depends linux-image-amd64 | awk '/Depends: linux-image-[0-9]/ {print $2; exit}')
    [ -n "$package" ] || die "suite $kernel has no linux-image-amd64"
    echo "vm: fetching $package"
    (cd "$cache" && apt-get "${apt[@]}" download "$package" && dpkg-deb -x linux-image-*.deb x)
    mv "$cache"/x/boot/vmlinuz-* "$cache/vmlinuz.new"
    base
    rm -rf "$cache/x" "$cache"/*.deb "$etc"
    mv "$cache/vmlinuz.new" "$cache/vmlinuz" # the last step: what is here is whole
}

# base packs busybox and the modules of $cache/x, found by need as on any machine: with depmod's lists of
# aliases, and modprobe where the kernel looks for it.
base() {
    local tree modules version d busybox
    modules=$(echo "$cache"/x/lib/modules/* "$cache"/x/usr/lib/modules/* | tr ' ' '\n' | grep -v '\*')
    version=$(basename "$modules") tree=$cache/tree busybox=$(command -v busybox)
    rm -rf "$tree" && mkdir -p "$tree"/{bin,sbin,proc,sys,dev,tmp,run,etc,root,var,vm} "$tree/lib/modules/$version"
    cp "$busybox" "$tree/bin/busybox"
    "$busybox" --list | while read -r applet; do [ -e "$tree/bin/$applet" ] || ln -s busybox "$tree/bin/$applet"; done
    ln -s ../bin/busybox "$tree/sbin/modprobe"
    cd "$modules"
    cp modules.builtin modules.order "$tree/lib/modules/$version/"
    [ ! -e modules.builtin.modinfo ] || cp modules.builtin.modinfo "$tree/lib/modules/$version/"
    for d in kernel/net kernel/lib kernel/crypto kernel/arch/x86/crypto \
        kernel/drivers/net/{bonding,vxlan,wireguard,macvlan.ko*,veth.ko*,tun.ko*,dummy.ko*,ifb.ko*,vrf.ko*}; do
        [ ! -e "$d" ] || cp -r --parents "$d" "$tree/lib/modules/$version/"
    done
    cd - >/dev/null
    rm -rf "$tree/lib/modules/$version"/kernel/net/{wireless,mac80211,bluetooth,sunrpc,ceph,rxrpc,tipc,batman-adv,can,nfc,smc}
    find "$tree/lib/modules" -name '*.ko.xz' -exec xz -d {} +
    depmod -b "$tree" "$version"
    pack "$tree" >"$cache/base.cpio"
    rm -rf "$tree"
}

# pack prints a directory as an initramfs. Several may follow one another; gzip would only cost the VM time.
pack() { (cd "$1" && find . | cpio -o -H newc --quiet -R 0:0); }

# touching lists the packages whose tests touch the kernel: those that ask core/nettest for privileges, but for the failure
# lab and tools/scale, whose figures an emulated machine does not have.
touching() {
    (cd "$root" && grep -rlE 'nettest\.(NetNS|OwnNetNS|Root)\(' --include=*_test.go core cmd plugins policies tools e2e) |
        xargs -n1 dirname | sort -u | grep -vxE 'e2e(/chaos)?|tools/scale'
    echo e2e
}

# build puts programs and test binaries into $out/tree, once for all kernels where nothing changes.
build() {
    local p
    mkdir -p "$out/tests" "$out/programs"
    cd "$root"
    export CGO_ENABLED=0
    go build -trimpath -o "$out/programs/" ./cmd/...
    for p in "$@"; do
        go test -c -trimpath -ldflags='-s -w' -o "$out/tests/$p/" "./$p" # named as go test names it
        [ -e "$out/tests/$p/$(basename "$p").test" ] || die "$p has no tests"
    done
    cd - >/dev/null
}

# bring copies one of this machine's programs, with its libraries.
bring() {
    cp "$(command -v "$1")" "$2/vm/bin/"
    ldd "$(command -v "$1")" | grep -oE '/[^ )]+' | sort -u | xargs cp -L --parents -t "$2"
}

# work lays out /vm of the VM: the checkout with its test data, the binaries, what to run and how.
work() {
    local tree=$1 p
    shift
    mkdir -p "$tree"/vm/{src,bin,tests}
    cp "$here/init" "$tree/init"
    chmod +x "$tree/init"
    (cd "$root" && git ls-files -co --exclude-standard -z | while IFS= read -r -d '' p; do [ ! -f "$p" ] || printf '%s\0' "$p"; done | cpio -p0dm --quiet "$tree/vm/src")
    cp "$out"/programs/* "$tree/vm/bin/"
    bring ip "$tree" # some tests compare with it; busybox's knows no namespaces
    bring keepalived "$tree" # for the one that runs it
    for p in "$@"; do
        (cd "$out/tests" && cp --parents "$p/$(basename "$p").test" "$tree/vm/tests/")
        echo "$p"
    done >"$tree/vm/packages"
    {
        printf 'export CAPLANCE_REQUIRE_PRIVILEGED=1 CAPLANCE_OWN_MACHINE=1 CAPLANCE_BIN=/vm/bin CAPLANCE_SLOW=%q\n' "$slow"
        [ -z "${TYPE:-}" ] || printf 'export CAPLANCE_TYPE=%q\n' "$TYPE"
        [ -z "${MODE:-}" ] || printf 'export CAPLANCE_MODE=%q\n' "$MODE"
        printf 'run=%q e2e=%q skip=%q timeout=%q\n' "${RUN:-}" "${E2E:-}" "${SKIP:-}" "${limit}s"
    } >"$tree/vm/env"
}

# readable prints a -test.v log as go test does without: what a test printed only when it failed, or never
# ended. V=1 prints all.
readable() {
    [ -z "${V:-}" ] || { cat && return; }
    local line held="" failed=""
    while IFS= read -r line; do # awk would read in blocks, and so tell late
        case $line in
        "=== RUN "*/*) ;;
        "=== RUN "*) held="" failed="" ;;
        "=== "* | PASS | FAIL) ;;
        "--- FAIL"*) printf '%s%s\n' "$held" "$line" && held="" failed=1 ;;
        "--- "*) echo "$line" && held="" failed="" ;;
        *"--- PASS"* | *"--- SKIP"*) ;;
        "panic: "* | "fatal error: "*) printf '%s%s\n' "$held" "$line" && held="" failed=1 ;;
        "vm: Linux "*) echo "$line" && held="" ;; # the firmware's words
        "vm: "* | "ok  "* | FAIL*) echo "$line" && failed="" ;;
        *) if [ -n "$failed" ]; then echo "$line"; else held+=$line$'\n'; fi ;;
        esac
    done
    printf '%s' "$held"
}

main() { # a function, so that bash has read all before it begins: this file may change meanwhile
    shift
    needs qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio depmod:kmod xz:xz-utils ip:iproute2 keepalived:keepalived go:golang git:git dpkg-deb:dpkg
    case $kernel in bullseye | bookworm | trixie) ;; *) die "no kernel $kernel: bullseye, bookworm or trixie" ;; esac
    accel=${ACCEL:-tcg} slow=${SLOW:-10} limit=${LIMIT:-3600}
    [ "$accel" != tcg ] || accel=tcg,thread=single

    mkdir -p "$cache"
    { flock 9 && { [ -e "$cache/vmlinuz" ] || fetch; }; } 9>"$cache/lock" # several VMs may start at once
    [ $# -gt 0 ] || mapfile -t packages < <(touching)
    [ $# = 0 ] || packages=("${@%/}")
    build "${packages[@]}"
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    work "$tree/root" "${packages[@]}"
    { cat "$cache/base.cpio" && pack "$tree/root"; } >"$tree/initrd"
    rm -rf "$tree/root"

    echo "vm: $kernel by $accel, deadlines × $slow; the whole log is $log"
    begin=$SECONDS
    timeout --foreground "$limit" qemu-system-x86_64 -accel "$accel" -cpu max -smp "${CPUS:-1}" -m "${MEMORY:-3072}" -nographic -no-reboot \
        -nodefaults -serial stdio -kernel "$cache/vmlinuz" -initrd "$tree/initrd" -append "console=ttyS0 quiet panic=-1 oops=panic" </dev/null |
        sed -u 's|\r||' | tee "$log" | readable || true # what it means stands in the log
    took=$((SECONDS - begin))
    code=$(sed -n 's/^vm: exit \([0-9]*\)$/\1/p' "$log")
    if [ -z "$code" ]; then
        last=$(awk '/^=== RUN/ { last = $3 } END { print last }' "$log")
        if grep -qE 'Kernel panic|BUG: |Oops:' "$log"; then why="the kernel panicked"
        elif [ "$took" -ge "$limit" ]; then why="no end after $limit s"
        else why="the VM ended without an exit code"; fi
        echo "vm: $kernel: FAIL: $why${last:+, in $last}"
        exit 1
    fi
    tests() { grep -c "^--- $1" "$log" || true; }
    echo "vm: $kernel: $([ "$code" = 0 ] && echo ok || echo FAIL) in $took s: $(tests PASS) passed, $(tests FAIL) failed, $(tests SKIP) skipped"
    exit $((code != 0))
}

main "$@"
