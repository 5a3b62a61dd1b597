#!/bin/sh
# Keys, agents that have joined and the configuration go with `apt purge` alone.
set -e
if [ -d "$DPKG_ROOT/run/systemd/system" ]; then systemctl daemon-reload; fi
if [ "$1" = purge ]; then rm -rf "$DPKG_ROOT/etc/caplance" "$DPKG_ROOT/var/lib/caplance"; fi
