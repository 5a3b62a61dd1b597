package enrol

import (
	"crypto/x509"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caplance/caplance/core/api"
	"github.com/caplance/caplance/core/auth"
	"github.com/caplance/caplance/core/auth/authtest"
)

// A token is not let out that could not be used, and who has joined and is named by the
// configuration, too, is told of.
func TestDesk(t *testing.T) {
	listed := []auth.Agent{{Name: "db", Keys: []auth.PublicKey{{1}}, MaxNames: 1}}
	d := &Desk{
		Store: open(t, filepath.Join(t.TempDir(), "agents.toml")), Changed: func() {}, Log: slog.New(slog.DiscardHandler),
		Balancer: func() Balancer {
			return Balancer{Agents: listed, Services: []string{"web"}, Listen: netip.MustParseAddrPort("10.0.0.1:1338"), Auth: "keys", Own: pair}
		},
	}
	create := func(o api.TokenOrder) (auth.Token, error) {
		if o.TTL == 0 {
			o.TTL = 60
		}
		a, err := d.Create(o)
		if err != nil {
			return auth.Token{}, err
		}
		token, err := auth.ParseToken(a.Token)
		if err != nil || token.Key != pair.Public() {
			t.Errorf("token %+v, %v", token, err)
		}
		return token, nil
	}
	join := func(o api.TokenOrder, key auth.PublicKey) {
		t.Helper()
		token, err := create(o)
		if err != nil {
			t.Fatal(err)
		}
		if name, err := d.Join(token.Secret[:], key); err != nil || name != o.Name {
			t.Fatalf("joined as %s: %v", name, err)
		}
	}
	join(api.TokenOrder{Name: "web", MaxNames: 3}, auth.PublicKey{2})
	join(api.TokenOrder{Name: "web"}, auth.PublicKey{3}) // once more, with another key
	if _, err := create(api.TokenOrder{Name: "late", MaxNames: 2}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		order api.TokenOrder
		want  string
	}{
		{api.TokenOrder{Name: "db"}, "agent db is in the balancer's configuration"},
		{api.TokenOrder{Name: "late-1"}, "agent late may take the name late-1, too"},
		{api.TokenOrder{Name: "w b"}, "name"},
		{api.TokenOrder{Name: "x", Services: []string{"mail"}}, `no service "mail" (there are: web)`},
		{api.TokenOrder{Name: "x", TTL: 0.5}, "ttl"},
		{api.TokenOrder{Name: "x", TTL: 1e9}, "ttl"},
		{api.TokenOrder{Name: "x", Address: "a b"}, "address"},
		{api.TokenOrder{Name: "x", Address: "::1"}, ""},
		{api.TokenOrder{Name: "x", Address: "lb.example"}, ""},
	} {
		_, err := create(tt.order)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.order, err, tt.want)
		}
	}
	if got := d.Agents(d.Balancer()); len(got) != 2 || got[1].Keys[0] != (auth.PublicKey{3}) || len(d.Hidden()) != 0 {
		t.Errorf("%+v, hidden %v", got, d.Hidden())
	}
	listed = append(listed, auth.Agent{Name: "other", Keys: []auth.PublicKey{{3}}, MaxNames: 1})
	if got := d.Hidden(); len(got) != 1 || !strings.Contains(got[0], "agent web has joined, and cannot register any more: key is agent other's already") {
		t.Errorf("hidden %v", got)
	}
	if err := d.Remove("web"); err != nil || len(d.Hidden()) != 0 {
		t.Errorf("%v, hidden %v", err, d.Hidden())
	}
	if err := d.Remove("db"); err == nil || !strings.Contains(err.Error(), "in the configuration") {
		t.Error(err)
	}
}

// Where certificates are asked for nobody joins, and who has joined is told of.
func TestDeskWithCertificates(t *testing.T) {
	ca := authtest.NewAuthority("ca")
	files, err := ca.Issue("lb.example.org").Write(t.TempDir(), "lb", ca)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := auth.LoadCertificate(files, x509.ExtKeyUsageServerAuth)
	if err != nil {
		t.Fatal(err)
	}
	own := auth.Credentials(pair)
	d := &Desk{
		Store: open(t, filepath.Join(t.TempDir(), "agents.toml")), Changed: func() {}, Log: slog.New(slog.DiscardHandler),
		Balancer: func() Balancer {
			return Balancer{Agents: []auth.Agent{{Name: "web-*", MaxNames: 1}}, Listen: netip.MustParseAddrPort("10.0.0.1:1338"), Auth: "ca", Own: own}
		},
		Sessions: func() []api.AgentSession {
			return []api.AgentSession{{Backend: "web-1", Agent: "web-1"}, {Backend: "db", Agent: "db"}, {Backend: "web-3"}, {Backend: "web-2", Agent: "web-2"}}
		},
	}
	order := api.TokenOrder{Name: "late", TTL: 60}
	answer, err := d.Create(order)
	if err != nil || !d.Joinable() {
		t.Fatal(err)
	}
	token, err := auth.ParseToken(answer.Token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(api.TokenOrder{Name: "later", TTL: 60}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Join(token.Secret[:], auth.PublicKey{4}); err != nil {
		t.Fatal(err)
	}
	own = cert
	if _, err := d.Create(order); err == nil || !strings.Contains(err.Error(), `agents do not join here: their authority's certificates let them in ([registry] auth is "ca"`) {
		t.Errorf("a token: %v", err)
	}
	if _, err := d.Join(token.Secret[:], auth.PublicKey{5}); err == nil || d.Joinable() {
		t.Errorf("somebody joins: %v", err)
	}
	if got := d.Hidden(); len(got) != 1 || !strings.Contains(got[0], "1 agents have joined by tokens, and cannot register") {
		t.Errorf("hidden %v", got)
	}
	rows := d.Rows()
	if len(rows) != 2 || rows[1].Name != "web-*" || len(rows[1].Sessions) != 2 || rows[1].Sessions[0].Backend != "web-1" {
		t.Errorf("rows %+v", rows)
	}
}

var pair = auth.NewKeyPair()
