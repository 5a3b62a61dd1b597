#!/bin/sh
# Before the package goes, not before an upgrade: what runs stops, and nothing is left on the machine.
set -e
case $1 in
remove | 0) ;; # of dpkg, of rpm
*) exit 0 ;;
esac
if [ -d "$DPKG_ROOT/run/systemd/system" ]; then
    systemctl disable --now caplance.service caplance-agent.service || true
fi
if [ -n "$DPKG_ROOT" ]; then exit 0; fi # another machine's disk: nothing runs from it
if [ -e /etc/caplance/caplance.toml ]; then caplance unload || true; fi
if [ -e /etc/caplance/agent.toml ]; then caplance unload -agent || true; fi
