package live

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/nomad/nomadtest"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/command"
)

// life is a pool of one host: a Nomad client that the test starts and stops as
// its chassis, which is a file, says.
type life struct {
	*testing.T
	nomad  *nomadtest.Server
	host   *nomadtest.Client
	runner *Runner
	log    *logBuffer
	file   string
	driver power.Driver
	look   func(want int, driver power.Driver) control.Report // as another process
}

// newLife is a pool whose host is on and in service.
func newLife(t *testing.T) *life {
	t.Helper()
	l := newPool(t)
	l.start()
	return l
}

// newPool is a pool whose host is on and in service, and that nobody looks at yet.
func newPool(t *testing.T) *life {
	t.Helper()
	l := &life{T: t, nomad: nomadtest.Start(t, ""), file: filepath.Join(t.TempDir(), "chassis")}
	l.host = l.nomad.GPUClient("gpu-1", "count 2")
	l.chassis("on")

	sh := func(script string) []string { return []string{"/bin/sh", "-c", script} }
	driver, err := command.New(command.Config{
		Host: "gpu-1", State: []string{"/bin/cat", l.file},
		On: sh("echo on > " + l.file), OffSoft: sh("echo off > " + l.file),
	})
	if err != nil {
		t.Fatal(err)
	}
	cc, err := consul.New(consul.Config{Address: consultest.Start(t).Addr})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nomad.New(nomad.Config{API: &nomadapi.Config{Address: l.nomad.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	logger, said := newLog()
	l.log = said
	limits := pool.Limits{
		Max: 1, MaxBooting: 1, MaxDraining: 1, PowerConfirm: time.Minute, BootTimeout: 15 * time.Minute,
		SoftOffTimeout: 5 * time.Minute, StaleAfter: 10 * time.Second, Fence: time.Second, Agent: pool.AgentNone,
	}
	host := pool.Host{ID: "gpu-1", NodeName: "gpu-1", GPUs: 2}
	site := SiteConfig{
		Hosts: []Host{{Host: host, Driver: driver}},
		Nomad: nc, Consul: cc, Spec: nomad.PoolSpec{Name: "p", NodePool: "gpu", Device: "nvidia/gpu"}, Agent: pool.AgentNone,
	}
	l.look = func(n int, driver power.Driver) control.Report {
		l.Helper()
		other := site
		other.Hosts = []Host{{Host: host, Driver: driver, Blind: "not asked"}}
		report, err := Look(t.Context(), LookConfig{Pool: "p", Site: NewSite(other), Consul: cc, Limits: limits, Want: &n})
		l.ok(err)
		return report
	}
	l.driver = driver
	l.runner = NewRunner(RunnerConfig{
		Pool: "p", Consul: cc, Limits: limits, Poll: 200 * time.Millisecond, Log: logger,
		Lease: consul.LeaseConfig{Holder: "the test"},
		Site:  NewSite(site),
	})
	return l
}

// start runs the loop until the end of the test.
func (l *life) start() {
	ctx, cancel := context.WithCancel(l.Context())
	go l.runner.Run(ctx)
	l.Cleanup(func() {
		cancel()
		<-l.runner.Done()
		if l.Failed() {
			l.Log(l.log)
		}
	})
}

func (l *life) chassis(state string) {
	l.Helper()
	if err := os.WriteFile(l.file, []byte(state+"\n"), 0o600); err != nil {
		l.Fatal(err)
	}
}

func (l *life) ok(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *life) node() *nomadapi.Node {
	l.Helper()
	node, err := l.host.Node()
	l.ok(err)
	return node
}

// until waits for a condition, which says what it still lacks.
func (l *life) until(what string, lacking func() string) {
	l.Helper()
	for deadline := time.Now().Add(45 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		missing := lacking()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			l.Fatalf("it did not happen that %s: %s", what, missing)
		}
	}
}

// untilPhase waits for the host's phase, and why it is in it.
func (l *life) untilPhase(phase pool.Phase, why string) {
	l.Helper()
	l.until(fmt.Sprintf("the host is %s (%s)", phase, why), func() string {
		s := l.runner.State()
		if len(s.Decision.Hosts) != 1 {
			return s.Why
		}
		h := s.Decision.Hosts[0]
		if h.Phase == phase && strings.Contains(h.Why, why) {
			return ""
		}
		return fmt.Sprintf("it is %s: %s (%s)", h.Phase, h.Why, s.Why)
	})
}

func (l *life) untilChassis(state string) {
	l.Helper()
	l.until("the chassis is "+state, func() string {
		text, err := os.ReadFile(l.file)
		if got := strings.TrimSpace(string(text)); err != nil || got != state {
			return fmt.Sprintf("it is %s, %v", got, err)
		}
		return ""
	})
}

func (l *life) want(n int) {
	l.Helper()
	l.ok(l.runner.SetWant(l.Context(), n, "the test"))
}

// did is what was done to the host since the last call.
func (l *life) did() string {
	var did []string
	for line := range strings.Lines(l.log.String()) {
		if _, after, ok := strings.Cut(line, " did: "); ok {
			_, do, _ := strings.Cut(after, "do=")
			do, _, _ = strings.Cut(do, " ")
			did = append(did, do)
		}
	}
	l.log.mu.Lock()
	l.log.b.Reset()
	l.log.mu.Unlock()
	return strings.Join(did, ", ")
}

func (l *life) expect(did string) {
	l.Helper()
	if got := l.did(); got != did {
		l.Errorf("it did %q, want %q", got, did)
	}
}

// TestLife is what docs/operations.md says of a host: it is adopted, an
// operator takes it out in either of two ways and gives it back, it goes off
// when it is surplus, and comes back into service.
func TestLife(t *testing.T) {
	t.Parallel()
	l := newLife(t)
	nodes := l.nomad.API().Nodes()

	l.untilPhase(pool.Ready, "")
	l.until("it is adopted", func() string {
		if s := l.runner.State(); !s.Ready || s.Want != 1 {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})

	// Another process looks, and changes nothing.
	if r := l.look(0, l.driver); len(r.Decision.Actions) != 1 || r.Decision.Actions[0].Do != pool.Cordon || r.Decision.Hosts[0].Phase != pool.Ready {
		t.Errorf("with none wanted it would %v, and sees %+v", r.Decision.Actions, r.Decision.Hosts)
	}
	if r := l.look(1, l.driver); len(r.Decision.Actions) != 0 {
		t.Errorf("with one wanted it would %v", r.Decision.Actions)
	}
	if r := l.look(0, nil); len(r.Decision.Actions) != 0 || r.Snapshot.Hosts[0].PowerErr != "not asked" {
		t.Errorf("of power that it cannot read it would %v, and sees %+v", r.Decision.Actions, r.Snapshot.Hosts[0].Seen)
	}
	l.expect("")

	// nomad node eligibility -disable, and -enable.
	id := l.node().ID
	_, err := nodes.ToggleEligibility(id, false, nil)
	l.ok(err)
	l.untilPhase(pool.Held, "made ineligible by somebody else")
	l.want(0)
	time.Sleep(time.Second) // five ticks, in which it could be powered off
	l.untilPhase(pool.Held, "")
	l.expect("")
	l.want(1)
	_, err = nodes.ToggleEligibility(id, true, nil)
	l.ok(err)
	l.untilPhase(pool.Ready, "")

	// nomad node drain -enable, and nomad node eligibility -enable.
	_, err = nodes.UpdateDrainOpts(id, &nomadapi.DrainOptions{DrainSpec: &nomadapi.DrainSpec{Deadline: time.Minute}}, nil)
	l.ok(err)
	l.untilPhase(pool.Held, "somebody else")
	l.until("the drain is over", func() string {
		if l.node().DrainStrategy != nil {
			return "it goes on"
		}
		return ""
	})
	l.untilPhase(pool.Held, "made ineligible by somebody else")
	l.expect("")
	_, err = nodes.ToggleEligibility(id, true, nil)
	l.ok(err)
	l.untilPhase(pool.Ready, "")

	// Surplus: it goes off.
	l.want(0)
	l.untilChassis("off")
	l.host.Stop()
	l.untilPhase(pool.Off, "")
	l.expect("cordon, drain, soft-off")
	if n := l.node(); n.SchedulingEligibility == nomadapi.NodeSchedulingEligible || n.LastDrain.Meta["gpupool"] != "drained" {
		t.Errorf("it is off, and its node is %s with the mark %v", n.SchedulingEligibility, n.LastDrain.Meta)
	}

	// And it comes back.
	l.want(1)
	l.untilChassis("on")
	l.untilPhase(pool.Booting, "waiting for its Nomad node")
	l.host.Run()
	l.untilPhase(pool.Ready, "")
	l.expect("power-on, enable")
	l.until("its node is eligible, and the mark is released", func() string {
		if n := l.node(); n.SchedulingEligibility != nomadapi.NodeSchedulingEligible || n.LastDrain.Meta["gpupool"] != "released" {
			return fmt.Sprint(n.SchedulingEligibility, n.LastDrain.Meta)
		}
		return ""
	})

	// An operator takes it out now: our old mark must not claim it.
	_, err = nodes.ToggleEligibility(id, false, nil)
	l.ok(err)
	l.untilPhase(pool.Held, "made ineligible by somebody else")
	l.expect("")

	// Given back, it is surplus once more.
	_, err = nodes.ToggleEligibility(id, true, nil)
	l.ok(err)
	l.untilPhase(pool.Ready, "")
	l.want(0)
	l.untilChassis("off")
	l.host.Stop()
	l.untilPhase(pool.Off, "")
	l.expect("cordon, drain, soft-off")

	// nomad node drain -enable of a host that is off, and given back.
	_, err = nodes.UpdateDrainOpts(id, &nomadapi.DrainOptions{DrainSpec: &nomadapi.DrainSpec{}}, nil)
	l.ok(err)
	l.untilPhase(pool.Held, "drained by somebody else")
	l.want(1)
	time.Sleep(time.Second) // five ticks, in which it could be powered on
	l.expect("")
	l.want(0)
	_, err = nodes.ToggleEligibility(id, true, nil)
	l.ok(err)
	l.untilPhase(pool.Off, "")
	l.want(1)
	l.untilChassis("on")
	l.host.Run()
	l.untilPhase(pool.Ready, "")
}

// A host that is on while its node is down may have missed a heartbeat: what is
// there is not adopted without it, or it would be surplus when it is back.
func TestAdoptedWhenKnown(t *testing.T) {
	t.Parallel()
	l := newPool(t)
	l.host.Stop()
	l.until("its node is down", func() string {
		if n := l.node(); n.Status != nomadapi.NodeStatusDown {
			return n.Status
		}
		return ""
	})
	l.start()
	l.untilPhase(pool.Unknown, "is down")
	l.until("it is waited for", func() string {
		if s := l.runner.State(); s.Ready || !strings.Contains(s.Why, "before host gpu-1 is known") {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	l.host.Run()
	l.untilPhase(pool.Ready, "")
	l.until("it is adopted", func() string {
		if s := l.runner.State(); !s.Ready || s.Want != 1 {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	l.expect("")
}

// TestWordsAndTimes is an operator's day with `gpupool host`: each word is
// heard at the next look, and release gives the host back to the pool. What it
// took to boot, drain and stop is learned on the way.
func TestWordsAndTimes(t *testing.T) {
	t.Parallel()
	l := newLife(t)
	records := l.runner.records
	say := func(w pool.Word) {
		t.Helper()
		words, err := records.Words(t.Context())
		l.ok(err)
		_, err = records.Say(t.Context(), "gpu-1", pool.Said{Word: w, Reason: "the test", By: "ann@desk", At: time.Now(), Rev: words["gpu-1"].Rev})
		l.ok(err)
	}
	l.untilPhase(pool.Ready, "")
	l.until("it is adopted", func() string {
		if s := l.runner.State(); !s.Ready || s.Want != 1 {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})

	say(pool.WordHold)
	l.untilPhase(pool.Held, "ann@desk")
	l.want(0)
	time.Sleep(time.Second) // five ticks, in which it could be powered off
	l.untilPhase(pool.Held, "")
	l.expect("")

	say(pool.WordNone)
	l.untilChassis("off") // nobody wants it
	l.host.Stop()
	l.untilPhase(pool.Off, "")
	l.expect("cordon, drain, soft-off")

	say(pool.WordOn) // and somebody says so all the same
	l.untilChassis("on")
	l.host.Run()
	l.untilPhase(pool.Ready, "")
	time.Sleep(time.Second)
	l.expect("power-on, enable")

	say(pool.WordOff)
	l.untilChassis("off")
	l.host.Stop()
	l.want(1)
	time.Sleep(time.Second)
	l.untilPhase(pool.Held, "")
	l.expect("cordon, drain, soft-off")

	say(pool.WordNone)
	l.untilChassis("on")
	l.host.Run()
	l.untilPhase(pool.Ready, "")

	// What was learned is written a moment after the phase is there.
	l.until("two boots, and drains and stops, are learned", func() string {
		times, err := records.Times(t.Context())
		l.ok(err)
		learned := times[""]
		if len(learned.Boot.Last) != 2 || len(learned.Drain.Last) == 0 || len(learned.Stop.Last) == 0 {
			return fmt.Sprintf("%+v", learned)
		}
		return ""
	})
	if s := l.runner.State(); s.Times[""].Boot.Quantile(0.95) <= 0 || s.Times[""].Boot.Quantile(0.95) > time.Minute {
		t.Errorf("State has %+v", s.Times)
	}
}
