#!/bin/sh
# After an installation or an upgrade: units are read again, and what runs starts again by the new program. It loses
# no flow, for the units hand over.
set -e
if [ -d "$DPKG_ROOT/run/systemd/system" ]; then
    systemctl daemon-reload
    systemctl try-restart caplance.service caplance-agent.service
fi
