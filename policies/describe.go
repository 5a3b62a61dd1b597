package policies

type description struct {
	picks      string
	consistent bool
}

var descriptions = map[string]description{
	"hash":                       {"the 5-tuple decides, by a Maglev table", true},
	"least-bytes":                {"fewest bytes sent per weight", false},
	"least-connections":          {"fewest open flows, weights aside", false},
	"least-load":                 {"of two at random the one with less pressure on its CPUs", false},
	"least-packets":              {"fewest packets sent per weight", false},
	"maglev":                     {"as hash, by a table in the balancer, without asking", true},
	"power-of-two-choices":       {"of two at random the one with fewer open flows per weight", false},
	"random":                     {"any, by weight", false},
	"round-robin":                {"each in turn, by weight", false},
	"source-hash":                {"the client's address decides, by a Maglev table", true},
	"sticky-failover":            {"lowest priority value that is up, among equals as hash", true},
	"weighted-least-connections": {"fewest open flows per weight", false},
	"weighted-round-robin":       {"each in turn, smoothly, by weight and slow start", false},
}

// Describe returns on one line what a bundled policy picks; "" for others.
func Describe(name string) string { return descriptions[name].picks }

// Consistent reports whether a bundled policy picks the same backend for the same
// flow in every worker and balancer, and moves few flows when the pool changes.
func Consistent(name string) bool { return descriptions[name].consistent }
