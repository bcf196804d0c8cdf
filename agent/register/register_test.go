package register_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/agent/register"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/fleet"
)

var (
	passing = register.Verdict{Status: api.HealthPassing, Text: "sampling GPUs"}
	warning = register.Verdict{Status: api.HealthWarning, Text: "no answer"}
)

// agent is a registration that a test steers.
type agent struct {
	*register.Registration
	verdict atomic.Value
	stop    context.CancelFunc
	done    chan struct{}
}

// start runs a registration. end is how it stops: in order, or by kill.
func start(t *testing.T, consul *api.Client, node string, change func(*register.Config), first register.Verdict) *agent {
	t.Helper()
	a := &agent{done: make(chan struct{})}
	a.verdict.Store(first)
	cfg := register.Config{
		Consul: consul, Node: node, Version: "1.2.3", Address: "127.0.0.1", Port: 9109, TTL: 5 * time.Second,
		Verdict: func() register.Verdict { return a.verdict.Load().(register.Verdict) },
		Log:     slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	a.Registration = register.New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	a.stop = func() { cancel(); <-a.done }
	go func() {
		defer close(a.done)
		a.Run(ctx)
	}()
	t.Cleanup(a.stop)
	return a
}

// entry is what Consul's catalog has of a node's agent, or nil.
func entry(t *testing.T, consul *api.Client, node string) *api.ServiceEntry {
	t.Helper()
	entries, _, err := consul.Health().Service(fleet.Service, "", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Service.Meta["node"] == node {
			return e
		}
	}
	return nil
}

// check is the check in an entry.
func check(e *api.ServiceEntry, node string) *api.HealthCheck {
	for _, c := range e.Checks {
		if c.CheckID == register.CheckID(node) {
			return c
		}
	}
	return &api.HealthCheck{}
}

// eventually waits until the catalog has the status, or none for "".
func eventually(t *testing.T, consul *api.Client, node, status string) *api.ServiceEntry {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		e := entry(t, consul, node)
		if e == nil && status == "" || e != nil && check(e, node).Status == status {
			return e
		}
		if time.Now().After(deadline) {
			t.Fatalf("agent of %s is %+v, want status %q", node, e, status)
		}
	}
}

func TestRegistration(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	consul := server.Client()

	t.Run("is there at once and leaves at once", func(t *testing.T) {
		t.Parallel()
		a := start(t, consul, "n1", nil, passing)
		e := eventually(t, consul, "n1", api.HealthPassing)
		if s := e.Service; s.ID != "gpupool-agent-n1" || s.Service != "gpupool-agent" || s.Address != "127.0.0.1" || s.Port != 9109 ||
			s.Meta["version"] != "1.2.3" || s.Meta["schema"] != "1" {
			t.Errorf("registered as %+v", s)
		}
		a.stop()
		if e := entry(t, consul, "n1"); e != nil {
			t.Errorf("still registered after the end: %+v", e)
		}
	})

	t.Run("says nothing before it knows", func(t *testing.T) {
		t.Parallel()
		a := start(t, consul, "n2", nil, register.Verdict{})
		time.Sleep(time.Second)
		if e := entry(t, consul, "n2"); e != nil {
			t.Errorf("registered without a verdict: %+v", e)
		}
		a.verdict.Store(warning)
		eventually(t, consul, "n2", api.HealthWarning)
		a.verdict.Store(passing)
		e := eventually(t, consul, "n2", api.HealthPassing)
		if text := check(e, "n2").Output; text != passing.Text {
			t.Errorf("the check says %q", text)
		}
		a.verdict.Store(register.Verdict{}) // as between two epochs of the driver
		time.Sleep(7 * time.Second)         // more than the TTL
		if e := entry(t, consul, "n2"); e == nil || check(e, "n2").Status != api.HealthPassing {
			t.Errorf("without news the agent is %+v, want it to stay passing", e)
		}
	})

	t.Run("beats are no writes", func(t *testing.T) {
		t.Parallel()
		start(t, consul, "n3", nil, passing)
		before := check(eventually(t, consul, "n3", api.HealthPassing), "n3").ModifyIndex
		time.Sleep(7 * time.Second)
		e := entry(t, consul, "n3")
		if now := check(e, "n3"); now.Status != api.HealthPassing || now.ModifyIndex != before {
			t.Errorf("after 7 s with a TTL of 5 s the check is %s at index %d, was %d", now.Status, now.ModifyIndex, before)
		}
	})

	t.Run("a restart does not flap", func(t *testing.T) {
		t.Parallel()
		transport := &mute{base: http.DefaultTransport}
		settings := api.DefaultConfig()
		settings.Address, settings.HttpClient = server.Addr, &http.Client{Transport: transport}
		mortal, err := api.NewClient(settings)
		if err != nil {
			t.Fatal(err)
		}
		first := start(t, mortal, "n4", nil, passing)
		before := check(eventually(t, consul, "n4", api.HealthPassing), "n4").ModifyIndex
		transport.muted.Store(true) // killed: nothing more comes of it
		first.stop()

		start(t, consul, "n4", nil, passing)
		time.Sleep(7 * time.Second)
		if now := check(entry(t, consul, "n4"), "n4"); now.Status != api.HealthPassing || now.ModifyIndex != before {
			t.Errorf("after the restart the check is %s at index %d, was %d", now.Status, now.ModifyIndex, before)
		}
	})

	t.Run("another address or version is registered anew and stays passing", func(t *testing.T) {
		t.Parallel()
		start(t, consul, "n5", nil, passing)
		eventually(t, consul, "n5", api.HealthPassing)
		newer := start(t, consul, "n5", func(c *register.Config) { c.Port, c.Version = 9110, "1.2.4" }, passing)
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			e := entry(t, consul, "n5")
			if got := check(e, "n5").Status; got != api.HealthPassing {
				t.Fatalf("the agent was %s for a moment", got)
			}
			if e.Service.Port == 9110 && e.Service.Meta["version"] == "1.2.4" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("registered as %+v", e.Service)
			}
		}
		newer.stop()
	})

	t.Run("death is noticed after the TTL", func(t *testing.T) {
		t.Parallel()
		transport := &mute{base: http.DefaultTransport}
		settings := api.DefaultConfig()
		settings.Address, settings.HttpClient = server.Addr, &http.Client{Transport: transport}
		mortal, err := api.NewClient(settings)
		if err != nil {
			t.Fatal(err)
		}
		start(t, mortal, "n6", nil, passing)
		eventually(t, consul, "n6", api.HealthPassing)
		transport.muted.Store(true)
		eventually(t, consul, "n6", api.HealthCritical)
	})

	t.Run("comes back after somebody took it out", func(t *testing.T) {
		t.Parallel()
		start(t, consul, "n7", nil, passing)
		before := eventually(t, consul, "n7", api.HealthPassing).Service.CreateIndex
		if err := consul.Agent().ServiceDeregister(register.ServiceID("n7")); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			if e := entry(t, consul, "n7"); e != nil && e.Service.CreateIndex > before && check(e, "n7").Status == api.HealthPassing {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the agent did not register again")
			}
		}
	})

	t.Run("an operator's maintenance stays", func(t *testing.T) {
		t.Parallel()
		start(t, consul, "n8", nil, passing)
		eventually(t, consul, "n8", api.HealthPassing)
		if err := consul.Agent().EnableServiceMaintenance(register.ServiceID("n8"), "disk swap"); err != nil {
			t.Fatal(err)
		}
		start(t, consul, "n8", func(c *register.Config) { c.Version = "1.2.4" }, passing)
		time.Sleep(2 * time.Second)
		if got := entry(t, consul, "n8").Checks.AggregatedStatus(); got != api.HealthMaint {
			t.Errorf("the agent is %s after it registered anew, want maintenance", got)
		}
	})
}

// mute swallows requests, as a process that is not there any more.
type mute struct {
	base  http.RoundTripper
	muted atomic.Bool
}

func (m *mute) RoundTrip(r *http.Request) (*http.Response, error) {
	if m.muted.Load() {
		return nil, http.ErrServerClosed
	}
	return m.base.RoundTrip(r)
}

func TestConsulIsDownAtTheStart(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	server.Stop()
	consul := server.Client()
	a := start(t, consul, "n1", nil, passing)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if registered, failures := a.State(); failures > 1 && !registered {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no failure was counted")
		}
	}
	server.Run()
	eventually(t, consul, "n1", api.HealthPassing)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if registered, _ := a.State(); registered {
			break // Consul knew it a moment before the agent heard so
		}
		if time.Now().After(deadline) {
			t.Fatal("the agent does not know that it is registered")
		}
	}
}

func TestPermissionDeniedNamesTheMend(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "Permission denied", http.StatusForbidden)
	}))
	defer server.Close()
	consul, err := api.NewClient(&api.Config{Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	var log syncBuilder
	a := start(t, consul, "n1", func(c *register.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) }, passing)
	for deadline := time.Now().Add(time.Minute); !strings.Contains(log.String(), "service_prefix"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log does not name the rule that the token lacks:\n%s", log.String())
		}
	}
	a.stop()
	if n := strings.Count(log.String(), "will try again"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
}

func TestJudge(t *testing.T) {
	gpus := func(states ...fleet.State) (g []fleet.GPU) {
		for _, s := range states {
			g = append(g, fleet.GPU{State: s})
		}
		return g
	}
	ok, none, starting := fleet.Driver{State: fleet.DriverOK}, fleet.Driver{State: fleet.DriverNone}, fleet.Driver{State: fleet.DriverStarting}
	for _, tt := range []struct {
		name string
		s    fleet.Snapshot
		want string
	}{
		{"starting", fleet.Snapshot{Driver: starting}, ""},
		{"no sample yet", fleet.Snapshot{Driver: ok, GPUs: gpus(fleet.StateUnknown)}, ""},
		{"all well", fleet.Snapshot{Driver: ok, GPUs: gpus(fleet.StateOK, fleet.StateOK)}, api.HealthPassing},
		{"one is lost", fleet.Snapshot{Driver: ok, GPUs: gpus(fleet.StateOK, fleet.StateLost)}, api.HealthPassing},
		{"one is slow", fleet.Snapshot{Driver: ok, GPUs: gpus(fleet.StateStale)}, api.HealthPassing},
		{"none answers", fleet.Snapshot{Driver: ok, GPUs: gpus(fleet.StateUnresponsive)}, api.HealthWarning},
		{"driver not loaded", fleet.Snapshot{Driver: none, Outside: fleet.Outside{Known: true}}, api.HealthPassing},
		{"no library", fleet.Snapshot{Driver: none}, api.HealthWarning},
	} {
		if got := register.Judge(tt.s); got.Status != tt.want || (got.Text == "") != (tt.want == "") {
			t.Errorf("%s: %+v, want %q", tt.name, got, tt.want)
		}
	}
}
