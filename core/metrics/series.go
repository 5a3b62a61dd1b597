package metrics

import "github.com/prometheus/client_golang/prometheus"

// Units are seconds, bytes and ratios from 0 to 1. No label has a text that others write
// or an address of a client: names of services, backends and policies are the operator's.

// described are all of them, in the order of docs/metrics.md.
var described []*prometheus.Desc

func describe(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("caplance_"+name, help, labels, nil)
	described = append(described, d)
	return d
}

// Of the balancer as a whole.
var (
	info     = describe("info", "Always 1: the version, how established flows are forwarded, and how packets come up.", "version", "datapath", "capture")
	healthy  = describe("healthy", "1 when all is well, as caplancectl status sees it.")
	warnings = describe("warnings", "What caplancectl status warns of, now and within the last hour.")
	revision = describe("state_revision", "Revision of the state that the machine is to have.")

	targetUp       = describe("target_up", "1 when the machine is as a target is to make it, 0 while that fails.", "target")
	targetRevision = describe("target_revision", "Revision of the newest state that a target has made.", "target")
	targetRetries  = describe("target_retries", "Failures of a target since it worked last.", "target")
	targetDrifts   = describe("target_drifts_total", "Changes that somebody else made to the machine and that were repaired.", "target")

	flows     = describe("flows", "Flows in all tables.")
	capacity  = describe("flows_capacity", "Flows that the workers' tables hold at most.")
	events    = describe("events_total", "Packets and flows by what happened to them; see operations.md.", "event")
	forwarded = describe("worker_forwarded_bytes_total", "Bytes that workers have sent on: the kernel's are not among them.")

	queued        = describe("queue_packets_total", "Packets that came up to userspace.", "queue")
	batches       = describe("queue_batches_total", "System calls that brought them.", "queue")
	waiting       = describe("queue_waiting", "Packets that wait in a queue.", "queue")
	queueCapacity = describe("queue_capacity", "Packets that may wait in a queue.", "queue")
	dropped       = describe("queue_dropped_total", "Packets that found no room: in the queue, or in its socket.", "queue", "at")

	mapEntries  = describe("bpf_map_entries", "Entries of a BPF map, as the last collection found them.", "map")
	mapMax      = describe("bpf_map_max_entries", "Entries that a BPF map has room for.", "map")
	collections = describe("collection_duration_seconds", "How long collections of the flows in the kernel took.")
	collected   = describe("collection_timestamp_seconds", "When the last collection began that is over, as Unix time.")

	expiry        = describe("certificate_expiry_timestamp_seconds", "When a certificate of a file ends, as Unix time; kind is own, or authority: of agents.", "file", "fingerprint", "kind")
	sessionExpiry = describe("session_expiry_timestamp_seconds", "When the certificate of a backend's agent ends, and its session with it, as Unix time.", "backend")
	leaseAge      = describe("lease_age_seconds", "How long a backend's agent has been silent.", "backend")
	leaseLength   = describe("lease_duration_seconds", "How long it may be: then its lease ends, and it is gone.", "backend")
)

// Of a service.
var (
	backends     = describe("service_backends", "Backends in the pool, in whatever state.", "service")
	eligible     = describe("backends_eligible", "Backends that get new flows.", "service")
	least        = describe("service_backends_min", "Backends that should take new flows, by min_backends.", "service")
	withdrawn    = describe("service_withdrawn", "1 while the VIP is withdrawn for want of backends.", "service")
	inPanic      = describe("service_panic", "1 while the health of the backends is ignored.", "service")
	serviceFlows = describe("service_flows", "Open flows of the backends that there are.", "service")
	refused      = describe("refused_packets_total", "Packets of new flows that were dropped, by why.", "service", "why")

	picks    = describe("picks_total", "New flows by who placed them.", "service", "by")
	pickTime = describe("pick_duration_seconds", "How long the policy took to pick a backend: one pick in 64 is timed.", "service")

	policy       = describe("policy_info", "Always 1: the policy of a service, a bundled one or a file.", "service", "policy")
	failures     = describe("policy_failures_total", "Traps and impossible answers of the policy, by cause.", "service", "cause")
	noChoice     = describe("policy_no_choice_total", "Picks that the policy left to the lookup table.", "service")
	replaced     = describe("policy_replaced_total", "Instances of the policy that took over after a failure.", "service")
	quarantined  = describe("policy_quarantined", "1 when the policy is no longer asked.", "service")
	shadowAsked  = describe("policy_shadow_asked", "Picks that the present shadow was asked for.", "service")
	shadowAgreed = describe("policy_shadow_agreement_ratio", "Share of these in which it agreed with the policy.", "service")
	tableFailing = describe("policy_table_failing", "1 when the policy's last table could not be built.", "service")
	tableBuilt   = describe("policy_table_built_timestamp_seconds", "When the policy's table was built, as Unix time.", "service")
	tableTook    = describe("policy_table_build_duration_seconds", "How long that took.", "service")
	disruption   = describe("policy_table_disruption_ratio", "Share of the table's slots that its last change moved without need.", "service")
)

// Of a backend.
var (
	backendState   = describe("backend_state", "1 for the state that a backend is in.", "service", "backend", "state")
	backendCheck   = describe("backend_check_up", "1 when checks say that the service works at a backend, 0 when they say that it does not.", "service", "backend")
	backendRTT     = describe("backend_path_rtt_seconds", "Round trip time of the last proof of the path to a backend.", "service", "backend")
	backendLoad    = describe("backend_load_ratio", "Pressure on the CPUs of a backend, as its agent says (PSI, or load average per CPU).", "service", "backend")
	backendAdmin   = describe("backend_admin", "1 for each order of the operator's about a backend: pause, drain, disable, weight.", "service", "backend", "order")
	backendSince   = describe("backend_registered_timestamp_seconds", "When a backend registered, as Unix time: its counters begin there.", "service", "backend")
	backendWeight  = describe("backend_weight", "Share of new flows relative to the other backends.", "service", "backend")
	backendFlows   = describe("backend_flows", "Open flows.", "service", "backend")
	backendPlaced  = describe("backend_flows_total", "Flows since the backend registered.", "service", "backend")
	backendPackets = describe("backend_packets_total", "Packets since the backend registered.", "service", "backend")
	backendBytes   = describe("backend_bytes_total", "Bytes of the clients' IP packets since the backend registered.", "service", "backend")
)
