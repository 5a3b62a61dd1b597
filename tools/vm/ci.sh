#!/usr/bin/env bash
# What CI runs on Debian's kernels, two VMs at once: doctor, all unit tests that touch a kernel and the packet
# fixtures, and end to end what differs between kernels. `make vm` runs the rest.
set -euo pipefail
cd "$(dirname "$0")/../.."

forwarding='TestForwardsAndRepliesDirectly|TestBulkUpload|TestUDPSegmentationOffload|TestOffloads|TestPathMTU|TestOneClientUsesAllQueues|TestTableMode'
life='TestSteeringByCaplancectl|TestKernelOutlivesTheDaemon|TestHandoverPlacesNewFlows|TestHandoverIsReclaimed|TestKillIsReclaimed'
traces='TestStopLeavesNothing|TestUnload|TestFailedStartsLeaveNothing'
drift='TestDrift|TestAgentRepairsItsMachine|TestNobodyChangesOurTables|TestLinkMadeAgain'
links='TestUpperLinks|TestVLANTagsInPackets|TestTrunk|TestBondFailsOver|TestTunnelledClients|TestTunnelledBackends|TestFilteringBridge|TestBackendsBehindARouter'
connections='TestReusedPorts|TestActiveIsWhatLives|TestAgentHandover|TestNoBackend|TestICMPEcho'
trust='TestJoin|TestDeadService|TestUnreachableBackend'
others='TestStaticTunnel|TestMixedTypes|TestBesideKeepalived'

# The packages that ask most of a kernel, where not all are run.
packages=(core/fastpath core/ruleset core/hostnet core/netmon core/doctor core/announce core/witness core/sockdiag core/verdict core/forward core/privilege e2e)

failures=$(mktemp)
trap 'rm -f "$failures"' EXIT

# one KERNEL TYPE MODE TESTS PACKAGE…: runs a VM; its output comes when it has ended, and whole if it failed.
one() {
    local kernel=$1 type=$2 mode=$3 tests=$4 log
    shift 4
    log=$(mktemp)
    if OUT=bin/vm/$kernel-$type-$mode TYPE=$type MODE=$mode E2E="^($tests)\$" tools/vm/run.sh "$kernel" "$@" >"$log" 2>&1; then
        echo "==> $kernel $type/$mode" && grep -E '^vm: ' "$log"
    else
        echo "==> $kernel $type/$mode failed" | tee -a "$failures" && cat "$log"
    fi
    rm "$log"
}

# start does so in the background, two at a time.
start() {
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
    one "$@" &
}

# The oldest kernel is the most different one; the others need what an emulated machine costs less.
start bullseye tc tunnel "$forwarding|$life|$traces|$drift|$links|$connections|$trust|$others"
start trixie tc tunnel "TestForwardsAndRepliesDirectly|TestBulkUpload|TestUDPSegmentationOffload|TestOffloads|TestPathMTU|TestTableMode|TestWallClock|TestStaticTunnel|TestStopLeavesNothing|TestUnload|TestNobodyChangesOurTables|TestLinkMadeAgain|TestUpperLinks|TestVLANTagsInPackets|TestDrift|TestKernelOutlivesTheDaemon|TestMixedTypes" "${packages[@]}"
start bookworm tc tunnel "TestForwardsAndRepliesDirectly|TestOffloads|TestPathMTU|TestStopLeavesNothing|TestDrift|TestKernelOutlivesTheDaemon|TestTunnelledClients|TestVLANTagsInPackets|TestMixedTypes" "${packages[@]}"
start bullseye tc direct "TestForwardsAndRepliesDirectly|TestSteeringByCaplancectl|TestKernelOutlivesTheDaemon|TestStopLeavesNothing|TestDrift" e2e
start bullseye userspace tunnel "TestForwardsAndRepliesDirectly|TestBalancerRestart|TestStopLeavesNothing|TestTunnelledClients" e2e
wait
[ ! -s "$failures" ]
