package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad-autoscaler/plugins"
	"github.com/hashicorp/nomad-autoscaler/plugins/target"
	"github.com/hashicorp/nomad-autoscaler/sdk"
)

// The test binary is also the plugin, for the tests in which the autoscaler's
// end of it matters.
const serveEnv = "TARGET_GPUPOOL_TEST_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serveEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func action(n int64) sdk.ScalingAction { return sdk.ScalingAction{Count: n, Reason: "the test"} }

func isNoOp(err error) bool {
	var noop *sdk.TargetScalingNoOpError
	return errors.As(err, &noop)
}

// TestPool is the life of pools whose servers are well. Each test has a pool
// of its own.
func TestPool(t *testing.T) {
	t.Parallel()
	s := startServers(t)
	t.Run("all", func(t *testing.T) { // ends when all of these have
		for _, tt := range []struct {
			name string
			run  func(t *testing.T, s servers)
		}{
			{"a count is adopted, wanted and followed", adoptedWantedFollowed},
			{"a dry run changes nothing and tells the plan", dryRun},
			{"counts out of range", countsOutOfRange},
			{"somebody else wants something", somebodyElseWants},
			{"the want is lost or broken", wantLostOrBroken},
			{"a new configuration while calls are in flight", newConfiguration},
			{"a mistake leaves the old configuration running", mistakenConfiguration},
			{"a pool that is taken out is given back", poolTakenOut},
			{"of two plugins one acts", twoPlugins},
			{"a host in another node pool is left alone", otherNodePool},
		} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				tt.run(t, s)
			})
		}
	})
}

func adoptedWantedFollowed(t *testing.T, s servers) {
	r := newRack(t)
	p := start(t, s.config(r.pools([]string{"followed"})))
	if got := p.untilReady("followed"); got.Count != 0 {
		t.Errorf("adopted %d hosts, and all are off", got.Count)
	}
	if w := s.want(t, "followed"); w.Count != 0 || !strings.Contains(w.Reason, "adopted the 0") || w.By == "" {
		t.Errorf("the first want is %+v", w)
	}

	if err := p.Scale(sdk.ScalingAction{Count: 1, Reason: " 2 GPUs are queued "}, policy("followed")); err != nil {
		t.Fatal(err)
	}
	if got := p.status("followed"); got.Count != 1 {
		t.Errorf("right after Scale, Status counts %d", got.Count)
	}
	if w := s.want(t, "followed"); w.Count != 1 || w.Reason != "2 GPUs are queued" || w.By != holder() || time.Since(w.At) > time.Hour {
		t.Errorf("the want is %+v", w)
	}
	r.untilDid("on followed-1")

	before := s.want(t, "followed").Rev
	if err := p.Scale(action(1), policy("followed")); !isNoOp(err) {
		t.Errorf("the same count again: %v", err)
	}
	if after := s.want(t, "followed").Rev; after != before {
		t.Error("the same count was written again")
	}
	p.untilHave("followed", "1")
	if got := p.status("followed"); got.Meta["gpupool.ready"] != "0" {
		t.Errorf("a host without a Nomad node is ready: %v", got.Meta)
	}
	if err := p.Scale(sdk.ScalingAction{Count: 2}, policy("followed")); err != nil {
		t.Fatal(err)
	}
	if w := s.want(t, "followed"); w.Reason != "the autoscaler gave no reason" {
		t.Errorf("the reason is %q", w.Reason)
	}
	r.untilDid("on followed-1, on followed-2")
}

func dryRun(t *testing.T, s servers) {
	r := newRack(t)
	p := start(t, s.config(r.pools([]string{"dry"})))
	p.untilReady("dry")
	before := s.want(t, "dry").Rev

	plan := action(1)
	plan.SetDryRun()
	if err := p.Scale(plan, policy("dry")); err != nil {
		t.Fatal(err)
	}
	if missing := lacks(p.log.String(), "dry run", "would_want=1", "power-on dry-1: 1 wanted, 0 in service"); missing != "" {
		t.Error(missing)
	}
	// Over gRPC the count comes as JSON.
	meta, err := json.Marshal(map[string]any{dryRunCount: 2})
	if err != nil {
		t.Fatal(err)
	}
	plan = sdk.ScalingAction{Count: sdk.StrategyActionMetaValueDryRunCount}
	if err := json.Unmarshal(meta, &plan.Meta); err != nil {
		t.Fatal(err)
	}
	if err := p.Scale(plan, policy("dry")); err != nil {
		t.Fatal(err)
	}
	if missing := lacks(p.log.String(), "would_want=2", "power-on dry-2"); missing != "" {
		t.Error(missing)
	}
	plan.Meta = nil
	wantError(t, p.Scale(plan, policy("dry")), "pool dry", "dry run", "count")

	if after := s.want(t, "dry").Rev; after != before || p.status("dry").Count != 0 {
		t.Error("the want was written")
	}
	time.Sleep(time.Second) // five ticks
	if did := r.did(); did != "" {
		t.Errorf("it did %s", did)
	}
}

func countsOutOfRange(t *testing.T, s servers) {
	r := newRack(t)
	// A max below the number of hosts leaves one alone.
	p := start(t, s.config(r.pools([]string{"range"}, "gpus_per_host", "max = 1\n  gpus_per_host")))
	p.untilReady("range")
	for _, n := range []int64{-2, math.MinInt64} {
		wantError(t, p.Scale(action(n), policy("range")), "pool range", fmt.Sprint(n), "less than none")
	}
	p.scale("range", math.MaxInt64)
	if w := s.want(t, "range"); w.Count != math.MaxInt64 {
		t.Errorf("the want is %d", w.Count)
	}
	if got := p.status("range"); got.Count != 1 || !got.Ready {
		t.Errorf("the status is %+v, and max is 1", got)
	}
	if err := p.Scale(action(math.MaxInt64), policy("range")); !isNoOp(err) {
		t.Errorf("the same count again: %v", err)
	}
	r.untilDid("on range-1")
	time.Sleep(time.Second) // five ticks
	r.untilDid("on range-1")
}

func somebodyElseWants(t *testing.T, s servers) {
	r := newRack(t)
	// It looks so seldom that Scale meets what it has not seen.
	p := start(t, s.config(r.pools([]string{"else"}, `"200ms"`, "\"10m\"\n  stale_after   = \"20m\"")))
	p.untilReady("else")
	records := s.records(t, "else")
	w := s.want(t, "else")
	until(t, "it has looked once more after the adoption, and will not for minutes", func() string {
		p.mu.RLock()
		defer p.mu.RUnlock()
		if at := p.runners["else"].State().At; !at.After(w.At) {
			return "it looked at " + at.String()
		}
		return ""
	})

	w.Count, w.Reason, w.By = 2, "I say so", "an operator"
	if _, err := records.SetWant(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	p.scale("else", 1) // the last writer wins
	if w := s.want(t, "else"); w.Count != 1 || w.By != holder() {
		t.Errorf("the want is %+v", w)
	}
	r.untilDid("on else-1")

	if _, err := s.consul.Client().KV().Delete("gpupool/v1/pools/else/want", nil); err != nil {
		t.Fatal(err)
	}
	p.scale("else", 2)
	if w := s.want(t, "else"); w.Count != 2 {
		t.Errorf("the want is %+v", w)
	}
	r.untilDid("on else-1, on else-2")
}

func wantLostOrBroken(t *testing.T, s servers) {
	r := newRack(t)
	p := start(t, s.config(r.pools([]string{"lost"})))
	p.untilReady("lost")
	kv, key := s.consul.Client().KV(), "gpupool/v1/pools/lost/want"
	put := func(value string) {
		t.Helper()
		if _, err := kv.Put(&api.KVPair{Key: key, Value: []byte(value)}, nil); err != nil {
			t.Fatal(err)
		}
	}

	// An operator's count is followed.
	put(`{"count":1,"reason":"test","by":"me","at":"2026-03-29T02:00:00Z"}`)
	until(t, "the operator's count is the status", func() string { return lacks(fmt.Sprint(p.status("lost").Count), "1") })
	r.untilDid("on lost-1")

	// One that is deleted is adopted anew from what is there.
	if _, err := kv.Delete(key, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "it is adopted anew", func() string {
		pair, _, err := kv.Get(key, nil)
		if err != nil || pair == nil {
			return fmt.Sprint("no record; ", err)
		}
		return lacks(string(pair.Value), `"count":1`, "adopted")
	})
	p.untilReady("lost")

	// One that nobody understands stops the pool, with the mend.
	put(`{"count":0,"colour":"red"}`)
	until(t, "the status names the key and the mend", func() string {
		return lacks(p.status("lost").Meta["gpupool.note"], key, "colour", "consul kv delete "+key)
	})
	wantError(t, p.Scale(action(2), policy("lost")), key, "consul kv delete "+key)
	if logged := strings.Count(p.log.String(), "no decision"); logged != 1 {
		t.Errorf("it was logged %d times", logged)
	}
	put(`{"count":2,"reason":"mended","by":"me","at":"2026-03-29T02:00:00Z"}`)
	r.untilDid("on lost-1, on lost-2")
	until(t, "it is said that it decides again", func() string { return lacks(p.log.String(), "deciding again") })
}

func newConfiguration(t *testing.T, s servers) {
	r := newRack(t)
	config := s.config(r.pools([]string{"reload"}))
	p := start(t, config)
	p.untilReady("reload")
	p.scale("reload", 1)
	r.untilDid("on reload-1")

	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				if _, err := p.Status(policy("reload")); err != nil {
					t.Errorf("Status: %v", err)
				}
				err := p.Scale(action(1), policy("reload"))
				if err != nil && !isNoOp(err) && !strings.Contains(err.Error(), "cannot be scaled now") {
					t.Errorf("Scale: %v", err)
				}
			}
		})
	}
	var configurers sync.WaitGroup
	for range 2 {
		configurers.Go(func() {
			for range 2 {
				if err := p.SetConfig(config); err != nil {
					t.Errorf("SetConfig: %v", err)
				}
			}
		})
	}
	configurers.Wait()
	close(stop)
	callers.Wait()

	if got := p.untilReady("reload"); got.Count != 1 {
		t.Errorf("after the reload, %d are wanted", got.Count)
	}
	time.Sleep(time.Second) // five ticks
	if did := r.did(); did != "on reload-1" {
		t.Errorf("it did %s", did)
	}
}

func mistakenConfiguration(t *testing.T, s servers) {
	r := newRack(t)
	p := start(t, s.config(r.pools([]string{"mistake"})))
	p.untilReady("mistake")
	lease := s.leaseSession(t, "mistake")

	wantError(t, p.SetConfig(s.config(r.pools([]string{"mistake"}, "agent ", "agents "))), "pools.hcl:4:", "agents")
	wantError(t, p.SetConfig(nil), "pools: ")
	if got := p.status("mistake"); !got.Ready {
		t.Errorf("the old configuration is not ready: %v", got.Meta)
	}
	p.scale("mistake", 1)
	r.untilDid("on mistake-1")
	if now := s.leaseSession(t, "mistake"); now != lease {
		t.Error("the lease changed hands")
	}
}

// leaseSession is the session that holds the lease of a pool; empty if none
// does.
func (s servers) leaseSession(t *testing.T, pool string) string {
	t.Helper()
	pair, _, err := s.consul.Client().KV().Get("gpupool/v1/pools/"+pool+"/lease", nil)
	if err != nil {
		t.Fatal(err)
	}
	if pair == nil {
		return ""
	}
	return pair.Session
}

func poolTakenOut(t *testing.T, s servers) {
	r := newRack(t)
	p := start(t, s.config(r.pools([]string{"stays", "goes"})))
	p.untilReady("stays")
	p.untilReady("goes")
	if s.leaseSession(t, "goes") == "" {
		t.Fatal("the pool has no lease")
	}
	p.mu.RLock()
	gone := p.runners["goes"]
	p.mu.RUnlock()

	if err := p.SetConfig(s.config(r.pools([]string{"stays"}))); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone.Done():
	default:
		t.Error("its runner runs on")
	}
	if session := s.leaseSession(t, "goes"); session != "" {
		t.Error("its lease was not given back")
	}
	_, err := p.Status(policy("goes"))
	wantError(t, err, `"goes" is not in the inventory`, "stays")
	p.untilReady("stays")
	p.scale("stays", 1)
	r.untilDid("on stays-1")

	p.halt()
	if session := s.leaseSession(t, "stays"); session != "" {
		t.Error("the plugin stopped, and did not give the lease back")
	}
	// Nothing starts any more, not even by a reload that comes too late.
	if err := p.SetConfig(s.config(r.pools([]string{"stays"}))); err != nil {
		t.Fatal(err)
	}
	if got := p.status("stays"); got.Ready {
		t.Error("a plugin that was stopped acts")
	}
}

// twoPlugins: the first one is a process of its own, as the autoscaler has it.
func twoPlugins(t *testing.T, s servers) {
	r := newRack(t)
	config := s.config(r.pools([]string{"two"}))
	first, kill := launch(t)

	// What is wrong comes through in one piece.
	err := first.SetConfig(nil)
	wantError(t, err, "target-gpupool: pools: ", "required")
	if err := first.SetConfig(config); err != nil {
		t.Fatal(err)
	}
	until(t, "the first is ready", func() string {
		got, err := first.Status(policy("two"))
		if err != nil || got.Ready {
			return errText(err)
		}
		return got.Meta["gpupool.note"]
	})

	second := start(t, config)
	second.untilNote("two", "is held by", "pid")
	wantError(t, second.Scale(action(2), policy("two")), "pool two: it cannot be scaled now", "is held by")

	if err := first.Scale(action(1), policy("two")); err != nil {
		t.Fatal(err)
	}
	r.untilDid("on two-1")
	if err := first.Scale(action(1), policy("two")); !isNoOp(err) {
		t.Errorf("the same count again: %v", err)
	}
	until(t, "the second knows what is wanted", func() string { return lacks(fmt.Sprint(second.status("two").Count), "1") })

	// The first stops in order. The second need not wait for a session to run
	// out, which takes longer than its TTL of 10 s, nor for the lock delay.
	stopped := time.Now()
	kill()
	second.untilReady("two")
	took := time.Since(stopped)
	t.Logf("stopped in order to the next one ready: %s", took.Round(time.Millisecond))
	if took >= 20*time.Second {
		t.Error("it took over as from one that was killed")
	}
	if got := second.status("two"); got.Count != 1 {
		t.Errorf("it counts %d", got.Count)
	}
	second.scale("two", 2)
	r.untilDid("on two-1, on two-2")
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// launch starts the plugin as the autoscaler does. Kill stops it as the
// autoscaler does, in order.
func launch(t *testing.T) (target.Target, func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serveEnv+"=1")
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  plugins.Handshake,
		Plugins:          map[string]goplugin.Plugin{sdk.PluginTypeTarget: &target.PluginTarget{}},
		Cmd:              cmd,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
	})
	t.Cleanup(client.Kill)
	rpc, err := client.Client()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := rpc.Dispense(sdk.PluginTypeTarget)
	if err != nil {
		t.Fatal(err)
	}
	return raw.(target.Target), client.Kill
}

func otherNodePool(t *testing.T, s servers) {
	s.nomad.Client("misplaced-1", "") // joins node pool gpu
	r := newRack(t)
	p := start(t, s.config(r.pools([]string{"misplaced"}, "  host \"misplaced-2\" {\n    power { host = \"misplaced-2\" }\n  }\n", "")))
	p.untilReady("misplaced")
	p.scale("misplaced", 1)
	until(t, "the note says that no host is left", func() string {
		return lacks(p.status("misplaced").Meta["gpupool.note"], "1 more wanted")
	})
	status, err := s.records(t, "misplaced").Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if h := status.Hosts[0]; h.Phase != "unknown" || lacks(h.Why, `node pool "gpu"`, `not "misplaced"`, "set node_pool") != "" {
		t.Errorf("the host is %s: %s", h.Phase, h.Why)
	}
	time.Sleep(time.Second) // five ticks
	if did := r.did(); did != "" {
		t.Errorf("it did %s", did)
	}
}

// TestServersAway takes Consul and Nomad away at the start and later. While
// one is away nothing is done, Status answers from memory, and all goes on by
// itself when it is back.
func TestServersAway(t *testing.T) {
	t.Parallel()
	s := startServers(t)
	s.consul.Stop()
	s.nomad.Kill()
	r := newRack(t)
	p := start(t, s.config(r.pools([]string{"away"}))) // does not fail

	p.untilNote("away", s.consul.Addr, "cannot reach Consul", "check that its agent runs")
	wantError(t, p.Scale(action(1), policy("away")), "pool away: it cannot be scaled now", "cannot reach Consul")

	s.consul.Run()
	p.untilNote("away", s.nomad.Addr, "cannot reach Nomad", "check that its servers run")
	wantError(t, p.Scale(action(1), policy("away")), "pool away: it cannot be scaled now", "cannot reach Nomad")
	if _, err := s.records(t, "away").Want(t.Context()); err == nil {
		t.Error("a count is wanted before anybody has looked at the hosts")
	}

	s.nomad.Run()
	p.untilReady("away")
	p.scale("away", 1)
	r.untilDid("on away-1")
	p.untilHave("away", "1")

	t.Log("Nomad goes away")
	s.nomad.Kill()
	until(t, "the note says that Nomad is away", func() string {
		return lacks(p.status("away").Meta["gpupool.note"], "cannot reach Nomad")
	})
	p.scale("away", 2) // is kept for when it is back
	if got := p.status("away"); !got.Ready || got.Count != 2 || got.Meta["gpupool.have"] != "1" {
		t.Errorf("the status is %+v", got)
	}
	if status, err := s.records(t, "away").Status(t.Context()); err != nil || lacks(status.Note, "nothing is decided", "cannot reach Nomad") != "" {
		t.Errorf("who asks for the status does not learn that Nomad is away: %+v, %v", status, err)
	}
	time.Sleep(time.Second) // five ticks
	if did := r.did(); did != "on away-1" {
		t.Errorf("without Nomad it did %s", did)
	}
	s.nomad.Run()
	r.untilDid("on away-1, on away-2")

	t.Log("Consul hangs")
	s.consul.Pause()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		for range 1000 { // each would take seconds if it asked Consul
			p.status("away")
		}
	}()
	select {
	case <-answered:
	case <-time.After(30 * time.Second):
		t.Error("Status waits for Consul")
	}
	wantError(t, p.Scale(action(0), policy("away")), "pool away")
	p.untilNote("away", "cannot reach Consul")
	if got := p.status("away"); got.Count != 2 {
		t.Errorf("it counts %d", got.Count)
	}
	s.consul.Resume()
	p.untilReady("away")

	t.Log("Consul restarts")
	s.consul.Stop()
	s.consul.Run()
	until(t, "it scales again", func() string {
		if err := p.Scale(action(1), policy("away")); err != nil && !isNoOp(err) {
			return err.Error()
		}
		return ""
	})
	until(t, "it decides again", func() string {
		if s := p.status("away"); !s.Ready || s.Meta["gpupool.note"] != "" && strings.Contains(s.Meta["gpupool.note"], "Consul") {
			return s.Meta["gpupool.note"]
		}
		return ""
	})
	if did := r.did(); did != "on away-1, on away-2" {
		t.Errorf("it did %s", did)
	}
	for _, line := range []string{"no decision", "lease cannot be claimed or renewed"} {
		if n := strings.Count(p.log.String(), line); n > 10 {
			t.Errorf("%q was logged %d times", line, n)
		}
	}
}
