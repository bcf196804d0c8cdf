package consul_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/pool"
)

var at = time.Date(2026, 3, 29, 1, 59, 59, 0, time.UTC)

func TestStoreInConsul(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	pools := 0
	consultest.Run(t, func(t *testing.T) consultest.Subject {
		pools++
		p := client(t, agent).Pool(fmt.Sprintf("pool-%d", pools))
		giveBack := func() {}
		return consultest.Subject{Store: p, Lease: func(t *testing.T) *consul.Lease {
			giveBack()
			l, stop := run(t, p, consul.LeaseConfig{Holder: t.Name()})
			giveBack = stop
			eventually(t, time.Minute, "the lease is won", func() bool { return held(l) })
			return l
		}}
	})
}

func TestStoreInMemory(t *testing.T) {
	consultest.Run(t, func(*testing.T) consultest.Subject {
		m := new(consultest.Memory)
		return consultest.Subject{Store: m, Lease: func(*testing.T) *consul.Lease {
			return m.Lease(time.Now().Add(time.Hour))
		}}
	})
}

// A word that cannot be read holds its host, and nobody else's.
func TestCorruptWordHolds(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	p := client(t, agent).Pool("h100")
	if _, err := p.Say(t.Context(), "gpu1", pool.Said{Word: pool.WordOn, By: "ann", At: at}); err != nil {
		t.Fatal(err)
	}
	for host, value := range map[string]string{"gpu2": `{"word":"offf","at":"2026-03-29T01:59:59Z"}`, "gpu3": `{"word":"off"}`, "": ""} {
		if _, err := agent.Client().KV().Put(&api.KVPair{Key: "gpupool/v1/pools/h100/said/" + host, Value: []byte(value)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	words, err := p.Words(t.Context())
	if err != nil || len(words) != 3 {
		t.Fatalf("got %v, %v", words, err)
	}
	for host, want := range map[string]pool.Word{"gpu1": pool.WordOn, "gpu2": pool.WordHold, "gpu3": pool.WordHold} {
		if got := words[host]; got.Word != want || got.Rev == 0 || want == pool.WordHold && !strings.Contains(got.Reason, "said/"+host) {
			t.Errorf("%s: got %+v, want %s", host, got, want)
		}
	}
	// It can be said anew, or taken back.
	if _, err := p.Say(t.Context(), "gpu2", pool.Said{Rev: words["gpu2"].Rev}); err != nil {
		t.Error(err)
	}
}

// A value that gpupool did not write is an error that names its key and the
// mend, whatever it is.
func TestCorruptRecords(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	p := client(t, agent).Pool("h100")
	read := map[string]func() error{
		"want":         func() error { _, err := p.Want(t.Context()); return err },
		"intents/gpu1": func() error { _, err := p.Intents(t.Context()); return err },
		"status":       func() error { _, err := p.Status(t.Context()); return err },
		"times":        func() error { _, err := p.Times(t.Context()); return err },
	}
	for _, value := range []string{
		"",
		"garbage",
		"null{}",
		"[]",
		`{"count": "three"}`,
		`{"count": -1, "at": "2026-01-01T00:00:00Z"}`,
		`{"count": 1, "at": "yesterday"}`,
		`{"verb": "explode", "at": "2026-01-01T00:00:00Z"}`,
		`{"a field of a later version": 1}`,
		`{"verb": "drain"} {"verb": "drain"}`,
		strings.Repeat("[", 10000),
		strings.Repeat(" ", 200<<10),
		"\x00\xff\xfe",
	} {
		for record, read := range read {
			key := "gpupool/v1/pools/h100/" + record
			put(t, agent, key, value)
			err := read()
			if !errors.Is(err, consul.ErrCorrupt) {
				t.Errorf("%s is %.40q: got error %v, want ErrCorrupt", record, value, err)
				continue
			}
			for _, want := range []string{key, agent.Addr, "consul kv delete " + key} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s is %.40q: error does not name %q: %v", record, value, want, err)
				}
			}
		}
	}

	put(t, agent, "gpupool/v1/pools/h100/intents/gpu1", "garbage")
	put(t, agent, "gpupool/v1/pools/h100/intents/gpu2/deeper", "{}")
	_, err := p.Intents(t.Context())
	if err == nil || !strings.Contains(err.Error(), "gpu1") || !strings.Contains(err.Error(), "gpu2/deeper") {
		t.Errorf("two corrupt intents: got %v, want both named", err)
	}
}

// Consul's UI makes a folder by writing a key that ends in a slash.
func TestFolderOfIntentsIsNoIntent(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	put(t, agent, "gpupool/v1/pools/h100/intents/", "")
	in, err := client(t, agent).Pool("h100").Intents(t.Context())
	if err != nil || len(in) != 0 {
		t.Errorf("got %v, %v", in, err)
	}
}

func TestNames(t *testing.T) {
	c, err := consul.New(consul.Config{Address: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	l := consul.Granted(consul.Hold{Gen: 1, Until: time.Now().Add(time.Hour)})
	for _, name := range []string{"", ".", "..", "a/b", "a b", "ä", strings.Repeat("x", 129), "a\n"} {
		if _, err := c.Pool(name).Want(t.Context()); err == nil || errors.Is(err, consul.ErrUnreachable) {
			t.Errorf("pool %q: got %v, want it refused before Consul is asked", name, err)
		}
		_, err := c.Pool("h100").Intend(t.Context(), l, name, pool.Intent{At: at, Gen: 1})
		if err == nil || errors.Is(err, consul.ErrUnreachable) {
			t.Errorf("host %q: got %v, want it refused before Consul is asked", name, err)
		}
	}
}

func TestTextsAreClipped(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	p := client(t, agent).Pool("h100")
	long := strings.Repeat("ü", 4000)
	w, err := p.SetWant(t.Context(), consul.Want{Count: 1, At: at, Reason: long, By: long})
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Want(t.Context())
	if err != nil || got != w {
		t.Fatalf("a want with long texts is read as %+v, %v", got, err)
	}
	if len(got.Reason) > 1<<10 || !strings.HasSuffix(got.Reason, "ü…") {
		t.Errorf("a reason of 8000 bytes is kept as %d bytes, ending in %q", len(got.Reason), got.Reason[len(got.Reason)-6:])
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	p := client(t, agent).Pool("h100")
	if _, err := p.Status(t.Context()); !errors.Is(err, consul.ErrNotFound) {
		t.Errorf("no status yet: got %v, want ErrNotFound", err)
	}
	l, stop := run(t, p, consul.LeaseConfig{Holder: "autoscaler-1"})
	eventually(t, time.Minute, "the lease is won", func() bool { return held(l) })

	s := consul.Status{Want: 2, At: at, Note: "no host is left", Hosts: []consul.HostStatus{
		{ID: "gpu1", Power: "on", Phase: "ready", GPUs: 8, GPUsBusy: 3, Why: "serves 3 GPUs", Since: at},
		{ID: "gpu2", Power: "off", Phase: "off", GPUs: 8},
	}}
	if err := p.PutStatus(t.Context(), l, s); err != nil {
		t.Fatal(err)
	}
	got, err := p.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, gen := l.Fence()
	if got.Pool != "h100" || got.Holder != "autoscaler-1" || got.Generation != gen || got.Note != s.Note || len(got.Hosts) != 2 || got.Hosts[0] != s.Hosts[0] {
		t.Errorf("got %+v", got)
	}

	const many = 5000
	s.Hosts = nil
	for i := range many {
		s.Hosts = append(s.Hosts, consul.HostStatus{ID: fmt.Sprintf("gpu%04d", i), Power: "on", Phase: "ready", Why: strings.Repeat("why ", 200)})
	}
	if err := p.PutStatus(t.Context(), l, s); err != nil {
		t.Fatal(err)
	}
	if got, err = p.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got.Hosts) < 100 || len(got.Hosts)+got.Omitted != many {
		t.Errorf("of %d hosts, %d are told and %d said to be omitted", many, len(got.Hosts), got.Omitted)
	}
	pair, _, err := agent.Client().KV().Get("gpupool/v1/pools/h100/status", nil)
	if err != nil || len(pair.Value) >= 100_000 {
		t.Errorf("the record takes %d bytes (%v)", len(pair.Value), err)
	}

	stop()
	if err := p.PutStatus(t.Context(), l, s); !errors.Is(err, consul.ErrFenced) {
		t.Errorf("status without the lease: got %v, want ErrFenced", err)
	}
}

func TestAgents(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	reg := agent.Client().Agent()
	for _, a := range []struct{ id, node, host, status string }{
		{"a1", "gpu1", "10.0.0.1", api.HealthPassing},
		{"a2", "gpu2", "", api.HealthCritical},
		{"a3-old", "gpu3", "10.0.0.3", api.HealthCritical},
		{"a3-new", "gpu3", "10.0.0.33", api.HealthPassing},
		{"a4", "", "10.0.0.4", api.HealthPassing},
	} {
		err := reg.ServiceRegister(&api.AgentServiceRegistration{
			ID: a.id, Name: consul.AgentService, Address: a.host, Port: 9109,
			Meta:  map[string]string{"node": a.node},
			Check: &api.AgentServiceCheck{TTL: "1h", Status: a.status},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	c := client(t, agent)
	var got map[string]consul.AgentEntry
	eventually(t, time.Minute, "all agents are in the catalog", func() bool {
		var err error
		if got, err = c.Agents(t.Context()); err != nil {
			t.Fatal(err)
		}
		return len(got) == 3 && got["gpu3"].Passing
	})
	nodeAddr, _, _ := strings.Cut(agent.Addr, ":")
	for node, want := range map[string]consul.AgentEntry{
		"gpu1": {Node: "gpu1", Host: "consultest", Addr: "10.0.0.1:9109", Passing: true, Health: "passing"},
		"gpu2": {Node: "gpu2", Host: "consultest", Addr: nodeAddr + ":9109", Health: "critical"},
		"gpu3": {Node: "gpu3", Host: "consultest", Addr: "10.0.0.33:9109", Passing: true, Health: "passing"},
	} {
		if got[node] != want {
			t.Errorf("%s: got %+v, want %+v", node, got[node], want)
		}
	}
}

// The rules that the documentation gives are enough, and a token without them
// is denied.
func TestACLRulesOfTheDocumentation(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/reference/consul.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```hcl\n")
	rules, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("docs/reference/consul.md has no rules")
	}
	agent := consultest.Start(t, `acl { enabled = true, default_policy = "deny" }`)
	with := func(name, rules string) *consul.Client {
		t.Helper()
		acl := agent.Client().ACL()
		if _, _, err := acl.PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil); err != nil {
			t.Fatal(err)
		}
		token, _, err := acl.TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{Name: name}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := consul.New(consul.Config{Address: agent.Addr, Token: token.SecretID})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}

	c := with("gpupool", rules)
	p := c.Pool("h100")
	if _, err := p.SetWant(t.Context(), consul.Want{Count: 1, At: at}); err != nil {
		t.Error(err)
	}
	l, _ := run(t, p, consul.LeaseConfig{})
	eventually(t, time.Minute, "the lease is won", func() bool { return held(l) })
	_, gen := l.Fence()
	if _, err := p.Intend(t.Context(), l, "gpu1", pool.Intent{Verb: pool.TurnOn, At: at, Gen: gen}); err != nil {
		t.Error(err)
	}
	err = agent.Client().Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: consul.AgentService, Address: "10.0.0.1", Port: 9109, Meta: map[string]string{"node": "gpu1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the agent is seen", func() bool {
		agents, err := c.Agents(t.Context())
		return err == nil && len(agents) == 1
	})

	p = with("stranger", `key_prefix "other/" { policy = "write" }`).Pool("h100")
	if _, err := p.SetWant(t.Context(), consul.Want{Count: 9, At: at}); !errors.Is(err, consul.ErrDenied) {
		t.Errorf("SetWant: got %v, want ErrDenied", err)
	}
	l, _ = run(t, p, consul.LeaseConfig{})
	eventually(t, time.Minute, "the lease says that it is denied", func() bool { return errors.Is(l.Err(), consul.ErrDenied) })
}

func TestConfig(t *testing.T) {
	err := consul.Config{Prefix: "/etc/../", Scheme: "ftp", Timeout: -1, CertFile: "cert.pem"}.Validate()
	if err == nil {
		t.Fatal("a configuration of mistakes was accepted")
	}
	for _, want := range []string{"prefix", "scheme", "timeout", "certificate"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("mistakes reported together: no word of the %s: %v", want, err)
		}
	}
	if _, err := consul.New(consul.Config{CAFile: "/does/not/exist.pem"}); err == nil || !strings.Contains(err.Error(), "/does/not/exist.pem") {
		t.Errorf("a CA file that is not there: got %v", err)
	}
}

func TestPrefix(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	c, err := consul.New(consul.Config{Address: agent.Addr, Prefix: "teams/ml"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Pool("h100").SetWant(t.Context(), consul.Want{Count: 1, At: at}); err != nil {
		t.Fatal(err)
	}
	pair, _, err := agent.Client().KV().Get("teams/ml/pools/h100/want", nil)
	if err != nil || pair == nil {
		t.Errorf("no want below the configured prefix: %v", err)
	}
}

func TestConsulDownThenUp(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	c, err := consul.New(consul.Config{Address: agent.Addr, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	p := c.Pool("h100")
	if _, err := p.SetWant(t.Context(), consul.Want{Count: 2, At: at}); err != nil {
		t.Fatal(err)
	}
	unreachable := func(when string) {
		t.Helper()
		_, err := p.Want(t.Context())
		if !errors.Is(err, consul.ErrUnreachable) || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), agent.Addr) {
			t.Errorf("%s: got %v, want ErrUnreachable and the address", when, err)
		}
	}
	agent.Pause()
	unreachable("Consul does not answer")
	agent.Resume()
	agent.Stop()
	unreachable("Consul is down")
	agent.Run()
	if w, err := p.Want(t.Context()); err != nil || w.Count != 2 {
		t.Errorf("after Consul came back: got %+v, %v", w, err)
	}
}

func client(t *testing.T, agent *consultest.Agent) *consul.Client {
	t.Helper()
	c, err := consul.New(consul.Config{Address: agent.Addr})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func put(t *testing.T, agent *consultest.Agent, key, value string) {
	t.Helper()
	if _, err := agent.Client().KV().Put(&api.KVPair{Key: key, Value: []byte(value)}, nil); err != nil {
		t.Fatal(err)
	}
}
