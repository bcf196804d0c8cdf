package register_test

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/agent/register"
	"github.com/gpupool/gpupool/internal/consul/consultest"
)

// keeper keeps entries that a test steers.
type keeper struct {
	*register.Instances
	mu      sync.Mutex
	entries []register.Entry
	partial bool
	changed chan struct{}
	stop    func()
}

func keep(t *testing.T, consul *api.Client, node string, first ...register.Entry) *keeper {
	t.Helper()
	return keepFor(t, consul, node, 5*time.Second, first...)
}

func keepFor(t *testing.T, consul *api.Client, node string, ttl time.Duration, first ...register.Entry) *keeper {
	t.Helper()
	k := &keeper{entries: first, changed: make(chan struct{}, 1)}
	k.Instances = register.NewInstances(register.InstancesConfig{
		Consul: consul, Node: node, TTL: ttl, Changed: k.changed, Log: slog.New(slog.DiscardHandler),
		Entries: func() ([]register.Entry, bool) {
			k.mu.Lock()
			defer k.mu.Unlock()
			return slices.Clone(k.entries), !k.partial
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
	}()
	k.stop = func() { cancel(); <-done }
	t.Cleanup(k.stop)
	return k
}

// set changes the entries and says so.
func (k *keeper) set(entries ...register.Entry) {
	k.mu.Lock()
	k.entries = entries
	k.mu.Unlock()
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

func ready(id string) register.Entry {
	return register.Entry{
		ID: register.InstancePrefix + id, Name: id + "-warm", Tags: []string{"gpupool", "vllm", "warm"}, Meta: map[string]string{"job": id},
		Address: "127.0.0.1", Port: 8000, Status: api.HealthPassing, Text: "ready for requests",
	}
}

func notReady(id, state string) register.Entry {
	e := ready(id)
	e.Tags, e.Status, e.Text = []string{"gpupool", "vllm", state}, api.HealthCritical, state
	return e
}

// service is what Consul's catalog has of an instance's service: the entry, nil
// for none, and whether ?passing has it.
func service(t *testing.T, consul *api.Client, id string) (e *api.ServiceEntry, passing bool) {
	t.Helper()
	all, _, err := consul.Health().Service(id+"-warm", "", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	ok, _, err := consul.Health().Service(id+"-warm", "", true, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) > 0 {
		e = all[0]
	}
	return e, len(ok) > 0
}

// stoodStill is how long a look and a pause may take. More is a machine that does
// not run, and all that is on it.
const stoodStill = 500 * time.Millisecond

// within waits for d of the time in which the machine runs.
func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	spent, before := time.Duration(0), time.Now()
	for !ok() {
		if spent > d {
			t.Fatalf("not within %s: %s", d, what)
		}
		time.Sleep(5 * time.Millisecond)
		now := time.Now()
		spent += min(now.Sub(before), stoodStill)
		before = now
	}
}

// ran waits for d, and says whether the machine has not stood still meanwhile.
func ran(d time.Duration) bool {
	for began := time.Now(); time.Since(began) < d; {
		before := time.Now()
		time.Sleep(5 * time.Millisecond)
		if time.Since(before) > stoodStill {
			return false
		}
	}
	return true
}

func TestInstances(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	consul := server.Client()
	passes := func(id string) func() bool {
		return func() bool { _, ok := service(t, consul, id); return ok }
	}
	not := func(f func() bool) func() bool { return func() bool { return !f() } }
	// mortal is a client that a kill cuts off.
	mortal := func(t *testing.T) (*api.Client, *mute) {
		transport := &mute{base: http.DefaultTransport}
		settings := api.DefaultConfig()
		settings.Address, settings.HttpClient = server.Addr, &http.Client{Transport: transport}
		c, err := api.NewClient(settings)
		if err != nil {
			t.Fatal(err)
		}
		return c, transport
	}

	t.Run("found only while it is ready", func(t *testing.T) {
		t.Parallel()
		k := keep(t, consul, "h1", notReady("a", "warming"))
		within(t, 5*time.Second, "it is there", func() bool { e, _ := service(t, consul, "a"); return e != nil })
		if _, ok := service(t, consul, "a"); ok {
			t.Error("an instance that warms is found")
		}
		k.set(ready("a"))
		within(t, 5*time.Second, "it is passing", passes("a"))
		e, _ := service(t, consul, "a")
		if !slices.Contains(e.Service.Tags, "warm") || e.Service.Meta["node"] != "h1" || e.Service.Meta["job"] != "a" || e.Service.Port != 8000 {
			t.Errorf("it is %+v", e.Service)
		}

		drained := notReady("a", "draining")
		drained.Maintenance = "Nomad stops the allocation"
		k.set(drained)
		within(t, time.Second, "it is out", not(passes("a")))
		within(t, 5*time.Second, "people see why", func() bool {
			e, _ := service(t, consul, "a")
			return slices.ContainsFunc(e.Checks, func(c *api.HealthCheck) bool {
				return c.Status == api.HealthCritical && c.Notes == "gpupool: Nomad stops the allocation"
			})
		})
		k.set(ready("a")) // taken back
		within(t, 5*time.Second, "it is passing again", passes("a"))
		k.set()
		within(t, 5*time.Second, "it is gone", func() bool { e, _ := service(t, consul, "a"); return e == nil })
	})

	t.Run("heart-beats are no writes", func(t *testing.T) {
		t.Parallel()
		k := keep(t, consul, "h2", ready("b"))
		within(t, 5*time.Second, "it is passing", passes("b"))
		_, _, wrote := k.State()
		if wrote != 1 {
			t.Errorf("%d writes until it is passing", wrote)
		}
		var before, after *api.ServiceEntry
		var ok bool
		for tries := 1; ; tries++ { // while the machine stands still no heart beats
			before, _ = service(t, consul, "b")
			steady := ran(7 * time.Second) // more than the TTL
			if after, ok = service(t, consul, "b"); steady {
				break
			}
			if tries == 10 {
				t.Fatal("the machine stood still in each of 10 tries of 7s")
			}
			within(t, 5*time.Second, "it is passing again", passes("b"))
			_, _, wrote = k.State()
		}
		if _, _, now := k.State(); !ok || now != wrote {
			t.Errorf("passing %v, %d writes, %d before", ok, now, wrote)
		}
		for i := range before.Checks {
			if before.Checks[i].ModifyIndex != after.Checks[i].ModifyIndex {
				t.Errorf("check %s was written", before.Checks[i].CheckID)
			}
		}
	})

	t.Run("out within the TTL of a kill", func(t *testing.T) {
		t.Parallel()
		client, transport := mortal(t)
		keep(t, client, "h3", ready("c"))
		within(t, 5*time.Second, "it is passing", passes("c"))
		transport.muted.Store(true)
		within(t, 7*time.Second, "it is out", not(passes("c")))
	})

	t.Run("a restart is not seen", func(t *testing.T) {
		t.Parallel()
		for _, how := range []string{"kill", "orderly"} {
			id := "d" + how
			client, transport := mortal(t)
			const ttl = 10 * time.Second // a machine that stands still for a moment is not a restart
			first := keepFor(t, client, "h4"+how, ttl, ready(id))
			within(t, 5*time.Second, "it is passing", passes(id))
			before, _ := service(t, consul, id)
			transport.muted.Store(how == "kill")
			first.stop()
			second := keepFor(t, consul, "h4"+how, ttl, ready(id))
			for end := time.Now().Add(ttl + time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				if !passes(id)() {
					t.Fatal(how + ": it was out for a moment")
				}
			}
			after, _ := service(t, consul, id)
			if _, _, writes := second.State(); writes != 0 || after.Service.ModifyIndex != before.Service.ModifyIndex {
				t.Errorf("%s: %d writes", how, writes)
			}
		}
	})

	t.Run("what is not known to be all is not taken out", func(t *testing.T) {
		t.Parallel()
		first := keep(t, consul, "h5", ready("e"))
		within(t, 5*time.Second, "it is passing", passes("e"))
		first.stop()
		second := keep(t, consul, "h5", ready("e"))
		second.mu.Lock()
		second.partial, second.entries = true, nil
		second.mu.Unlock()
		time.Sleep(time.Second)
		if !passes("e")() {
			t.Error("it was taken out")
		}
		third := register.NewInstances(register.InstancesConfig{Consul: consul, Node: "h5"})
		left, err := third.Left(t.Context())
		if e := left[register.InstancePrefix+"e"]; err != nil || e.Name != "e-warm" || e.Status != api.HealthPassing || e.Meta["job"] != "e" {
			t.Errorf("left are %+v, %v", left, err)
		}
		if other, err := register.NewInstances(register.InstancesConfig{Consul: consul, Node: "h6"}).Left(t.Context()); err != nil || len(other) != 0 {
			t.Errorf("another host's are %+v, %v", other, err)
		}
	})

	t.Run("comes back after somebody took it out", func(t *testing.T) {
		t.Parallel()
		keep(t, consul, "h7", ready("f"))
		within(t, 5*time.Second, "it is passing", passes("f"))
		if err := consul.Agent().ServiceDeregister(register.InstancePrefix + "f"); err != nil {
			t.Fatal(err)
		}
		within(t, 10*time.Second, "it is back", passes("f"))
	})

	t.Run("an operator's maintenance stays", func(t *testing.T) {
		t.Parallel()
		k := keep(t, consul, "h8", ready("g"))
		within(t, 5*time.Second, "it is passing", passes("g"))
		if err := consul.Agent().EnableServiceMaintenance(register.InstancePrefix+"g", "disk swap"); err != nil {
			t.Fatal(err)
		}
		changed := ready("g")
		changed.Meta = map[string]string{"job": "g", "model": "m"}
		k.set(changed)
		time.Sleep(2 * time.Second)
		if _, ok := service(t, consul, "g"); ok {
			t.Error("it is passing though an operator took it out")
		}
		if left, err := k.Left(t.Context()); err != nil || left[register.InstancePrefix+"g"].Maintenance != "" {
			t.Errorf("the operator's maintenance is taken for the agent's: %+v, %v", left, err)
		}
	})

	t.Run("one that Consul refuses does not keep the others", func(t *testing.T) {
		t.Parallel()
		bad := ready("h")
		bad.ID, bad.Name = register.InstancePrefix+"bad", strings.Repeat("x", 10)
		bad.Meta = map[string]string{"model": strings.Repeat("x", 600)} // beyond what Consul takes
		k := keep(t, consul, "h9", bad, ready("h"))
		within(t, 5*time.Second, "the other is passing", passes("h"))
		within(t, 5*time.Second, "it says that one is not known", func() bool { ok, failures, _ := k.State(); return !ok && failures > 0 })
		k.set(bad, notReady("h", "draining"))
		within(t, time.Second, "news of the other does not wait", not(passes("h")))
	})
}

func TestInstancesWhileConsulIsDown(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	consul := server.Client()
	k := keep(t, consul, "h1", ready("a"))
	within(t, 5*time.Second, "it is passing", func() bool { _, ok := service(t, consul, "a"); return ok })
	server.Stop()
	k.set(notReady("a", "unhealthy"))
	within(t, 10*time.Second, "a failure is counted", func() bool { ok, n, _ := k.State(); return !ok && n > 0 })
	server.Run()
	within(t, 15*time.Second, "Consul knows it", func() bool {
		e, ok := service(t, consul, "a")
		return e != nil && !ok && slices.Contains(e.Service.Tags, "unhealthy")
	})
}

// TestInstancesWithACLs: the rule that the reference gives is enough, and an
// agent without it says which it lacks.
func TestInstancesWithACLs(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t, `acl { enabled = true, default_policy = "deny" }`)
	admin := server.Client()
	token := func(name, rules string) string {
		t.Helper()
		if _, _, err := admin.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil); err != nil {
			t.Fatal(err)
		}
		token, _, err := admin.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{Name: name}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return token.SecretID
	}
	client := func(name, rules string) *api.Client {
		t.Helper()
		c, err := api.NewClient(&api.Config{Address: server.Addr, Token: token(name, rules)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	// The Consul agent has a token of its own, as wherever there are ACLs: it
	// takes checks out of the catalog with it.
	if _, err := admin.Agent().UpdateAgentACLToken(token("consul", `node_prefix "" { policy = "write" }`), nil); err != nil {
		t.Fatal(err)
	}
	entry := ready("a")
	entry.Name = "warm-a"
	passes := func() bool {
		list, _, err := admin.Health().Service("warm-a", "", true, nil)
		return err == nil && len(list) == 1
	}

	var log syncBuilder
	other := register.NewInstances(register.InstancesConfig{
		Consul: client("other", `service_prefix "gpupool-agent" { policy = "write" }`), Node: "h1", TTL: 5 * time.Second,
		Entries: func() ([]register.Entry, bool) { return []register.Entry{entry}, true }, Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); other.Run(ctx) }()
	within(t, 5*time.Second, "it says what it lacks", func() bool { return strings.Contains(log.String(), `service \"warm-a\" { policy = \"write\" }`) })
	cancel()
	<-done
	if passes() {
		t.Error("it was registered without the right to")
	}

	k := keep(t, client("agent", `service_prefix "warm-" { policy = "write" }`), "h1", entry)
	within(t, 5*time.Second, "it is passing", passes)
	drained := entry
	drained.Status, drained.Tags, drained.Maintenance = api.HealthCritical, []string{"draining"}, "Nomad stops the allocation"
	k.set(drained)
	within(t, time.Second, "it is out", func() bool { return !passes() })
	k.set(entry)
	within(t, 5*time.Second, "it is back", passes)
	k.set()
	within(t, 5*time.Second, "it is gone", func() bool { return !passes() })
	if ok, failures, _ := k.State(); !ok || failures != 0 {
		t.Errorf("registered %v with %d failures", ok, failures)
	}
}
