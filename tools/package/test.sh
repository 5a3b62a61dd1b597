#!/usr/bin/env bash
# Makes the packages and installs, upgrades, removes and purges the .deb in a directory of its own; the .rpm, too,
# and looks at the units, where the machine has the programs for that. Nothing of the machine is touched.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

fail() {
    echo "package: $*" >&2
    exit 1
}
there() { for f in "$@"; do [ -e "$root$f" ] || fail "$f is missing"; done; }
gone() { for f in "$@"; do [ ! -e "$root$f" ] || fail "$f is still there"; done; }

go=${GO:-go}
rm -f bin/*.rpm bin/*.deb
make packages VERSION=0.1.0 >/dev/null
(cd tools/package && "$go" vet ./... && "$go" run . -root ../../bin/package -out ../../bin -version 0.2.0 -arch "$("$go" env GOARCH)" >/dev/null)

programs=(/usr/bin/caplance /usr/bin/caplancectl)
units=(/lib/systemd/system/caplance.service /lib/systemd/system/caplance-agent.service)
if command -v dpkg >/dev/null; then
    mkdir -p "$root"/var/lib/dpkg/{info,updates} && touch "$root/var/lib/dpkg/status"
    deb() { dpkg --root="$root" --force-script-chrootless --log=/dev/null "$@" >/dev/null; }
    deb -i bin/caplance_0.1.0_*.deb
    there "${programs[@]}" "${units[@]}" /usr/share/doc/caplance/{README.md,LICENSE,operations.md,caplance.example.toml,alerts.yml,dashboard.json}
    "$root/usr/bin/caplance" help | grep -q 'caplance COMMAND' || fail "the program does not run"
    mkdir -p "$root/etc/caplance" && echo mine >"$root/etc/caplance/caplance.toml"
    deb -i bin/caplance_0.2.0_*.deb
    there "${programs[@]}" /etc/caplance/caplance.toml
    dpkg --root="$root" -s caplance | grep -q '^Version: 0.2.0$' || fail "it was not upgraded"
    deb -r caplance
    gone "${programs[@]}" "${units[@]}" /usr/share/doc/caplance
    there /etc/caplance/caplance.toml
    deb -P caplance
    gone /etc/caplance
    echo "deb: installed, upgraded, removed and purged"
fi
if command -v rpm >/dev/null; then
    rpm=(rpm --root "$root" --dbpath /var/lib/rpm --noscripts --nodeps)
    if rpm --force-debian --version >/dev/null 2>&1; then rpm+=(--force-debian); fi # else Debian's warns
    "${rpm[@]}" -i bin/caplance-0.1.0-1.*.rpm
    there "${programs[@]}" "${units[@]}"
    "${rpm[@]}" -U bin/caplance-0.2.0-1.*.rpm
    there "${programs[@]}"
    "${rpm[@]}" -e caplance
    gone "${programs[@]}" "${units[@]}" /usr/share/doc/caplance
    echo "rpm: installed, upgraded and removed"
fi
if command -v systemd-analyze >/dev/null; then
    mkdir -p "$root/units"
    for unit in caplance caplance-agent; do
        sed 's#@BINDIR@/[a-z]*#/bin/true#; s#@DOCDIR@#/usr/share/doc/caplance#' cmd/caplance/units/$unit.service >"$root/units/$unit.service"
        said=$(systemd-analyze verify "$root/units/$unit.service" 2>&1) && [ -z "$said" ] || fail "$said"
    done
    echo "units: valid"
fi
