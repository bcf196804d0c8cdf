package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
)

var (
	errRefused    = errors.New("refused")
	errNoCapacity = errors.New("none left")
)

// site is a small world and its memory, with a plug to pull at each step.
type site struct {
	mu      sync.Mutex
	hosts   map[string]*machine
	want    int
	known   bool
	intents map[string]pool.Intent
	words   map[string]pool.Said
	times   map[string]pool.Times
	rev     uint64
	log     []string
	until   time.Time

	die     string // "record", "act" or "outcome": the process dies there, as if killed
	fail    error  // what acts answer
	hang    bool   // acts take until their deadline
	blind   error  // what Observe answers
	mute    error  // what Words answers
	foreign bool   // somebody else writes before every record of ours
}

type machine struct {
	on, eligible, draining, drained, joined bool
	missing                                 int // GPUs
	work                                    []pool.Alloc
}

func newSite(n int) *site {
	s := &site{hosts: map[string]*machine{}, intents: map[string]pool.Intent{}, known: true, until: time.Now().Add(time.Hour)}
	for i := range n {
		s.hosts[fmt.Sprintf("gpu-%d", i+1)] = &machine{eligible: true}
	}
	return s
}

func (s *site) Observe(context.Context) (pool.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blind != nil {
		return pool.Snapshot{}, s.blind
	}
	now := time.Now()
	snap := pool.Snapshot{At: now}
	for id, m := range s.hosts {
		v := pool.View{Host: pool.Host{ID: id, GPUs: 2}}
		v.PowerAt, v.NodeAt, v.AgentAt = now, now, now
		v.Power, v.Node.Status = pool.PowerOff, pool.NodeDown
		v.Node.Eligible = m.eligible
		if m.on {
			v.Power = pool.PowerOn
			if m.joined {
				v.Node = pool.Node{Status: pool.NodeReady, Eligible: m.eligible, Draining: m.draining, GPUs: 2 - m.missing, Work: m.work}
			}
		}
		if m.drained {
			v.Node.Mark = pool.MarkOurs
		}
		snap.Hosts = append(snap.Hosts, v)
	}
	return snap, nil
}

type killed struct{}

func (s *site) step(name string) {
	if s.die == name {
		panic(killed{})
	}
}

func (s *site) Act(ctx context.Context, v pool.View, do pool.Verb) error {
	s.step("act")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, do.String()+" "+v.Host.ID)
	if s.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if s.fail != nil {
		return s.fail
	}
	switch m := s.hosts[v.Host.ID]; do {
	case pool.TurnOn:
		m.on, m.joined = true, true
	case pool.Enable:
		m.eligible, m.drained = true, false
	case pool.Cordon:
		m.eligible = false
	case pool.Drain:
		m.drained = true
	case pool.SoftOff, pool.HardOff:
		m.on, m.joined = false, false
	}
	return nil
}

func (s *site) Want(context.Context) (int, bool, error) { return s.want, s.known, nil }

func (s *site) Intents(context.Context) (map[string]pool.Intent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[string]pool.Intent{}
	for k, v := range s.intents {
		m[k] = v
	}
	return m, nil
}

func (s *site) Words(context.Context) (map[string]pool.Said, error) { return s.words, s.mute }

func (s *site) Times(context.Context) (map[string]pool.Times, error) { return s.times, nil }

func (s *site) Record(_ context.Context, host string, in pool.Intent) (pool.Intent, error) {
	if in.SettledAt.IsZero() {
		s.step("record")
	} else {
		s.step("outcome")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.foreign || s.intents[host].Rev != in.Rev {
		return pool.Intent{}, errors.New("somebody else wrote first")
	}
	s.rev++
	in.Rev = s.rev
	s.intents[host] = in
	return in, nil
}

func (s *site) lease(now time.Time) (uint64, time.Time, bool) {
	return 7, s.until, now.Before(s.until)
}

func (s *site) loop() *Loop {
	return New(Config{
		World: s, Store: s, Lease: s.lease,
		Limits: pool.Limits{
			Max: 100, MaxBooting: 2, MaxDraining: 1, PowerConfirm: time.Minute, BootTimeout: 15 * time.Minute,
			SoftOffTimeout: 5 * time.Minute, StaleAfter: 45 * time.Second, Fence: 10 * time.Second, Agent: pool.AgentNone,
		},
		Ambiguous:  func(err error) bool { return !errors.Is(err, errRefused) },
		NoCapacity: func(err error) bool { return errors.Is(err, errNoCapacity) },
	})
}

// run ticks every second.
func (s *site) run(t *testing.T, ticks int) {
	t.Helper()
	for range ticks {
		if _, err := s.loop().Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
	}
}

func (s *site) did() string {
	out := strings.Join(s.log, ", ")
	s.log = nil
	return out
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("it did:  %s\nwanted:  %s", got, want)
	}
}

func TestThereAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(2)
		s.want = 1
		s.run(t, 5)
		expect(t, s.did(), "power-on gpu-1, enable gpu-1")
		s.want = 0
		s.run(t, 8)
		expect(t, s.did(), "cordon gpu-1, drain gpu-1, soft-off gpu-1")
		s.want = 1
		s.run(t, 5)
		expect(t, s.did(), "power-on gpu-2, enable gpu-2") // the one with less wear today
		if got := s.intents["gpu-1"]; got.Gen != 7 || got.SettledAt.IsZero() || got.Why == "" {
			t.Errorf("the last intent lacks its generation, outcome or reason: %+v", got)
		}
	})
}

// TestKilledAnywhere kills the process at each step of each act of a host's
// whole life. A new process finds its way to the same end, and no host ever
// loses its power but by a soft-off of an ineligible, drained, empty host,
// which Check has seen to before.
func TestKilledAnywhere(t *testing.T) {
	for _, where := range []string{"record", "act", "outcome"} {
		for after := range 7 { // the ticks before the plug is pulled
			t.Run(fmt.Sprintf("%s after %d", where, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSite(2)
					s.want = 1
					s.run(t, min(after, 3))
					if after >= 3 {
						s.want = 0
						s.run(t, after-3)
					}
					s.die = where
					s.tickAndDie()
					s.die = ""
					final := s.want
					s.run(t, 60)
					on := 0
					for _, m := range s.hosts {
						if m.on {
							on++
						}
					}
					if on != final {
						t.Errorf("%d hosts are on, %d are wanted; it did %s", on, final, s.did())
					}
				})
			})
		}
	}
}

// tickAndDie runs a tick in which the process is killed. Act's panics are
// caught by the loop, as a driver's would be, so a kill inside of it is a
// failure of the act whose outcome was not recorded.
func (s *site) tickAndDie() {
	if s.die == "act" {
		s.die = "outcome"
	}
	defer func() { _ = recover() }()
	l := s.loop()
	snap, _ := l.see(context.Background())
	d := pool.Reconcile(time.Now(), s.want, snap, l.cfg.Limits)
	for _, a := range d.Actions {
		for _, v := range snap.Hosts {
			if v.Host.ID == a.Host {
				_ = l.one(context.Background(), 7, v, a)
			}
		}
	}
}

func TestWithoutLeaseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(1)
		s.want = 1
		s.until = time.Now().Add(-time.Second)
		if _, err := s.loop().Tick(t.Context()); !errors.Is(err, ErrNotHolder) {
			t.Errorf("got %v", err)
		}
		// A lease that ends before the act could is none.
		s.until = time.Now().Add(5 * time.Second)
		r, err := s.loop().Tick(t.Context())
		if err != nil || len(r.Outcomes) != 1 || !errors.Is(r.Outcomes[0].Err, ErrNotHolder) {
			t.Errorf("got %+v, %v", r.Outcomes, err)
		}
		expect(t, s.did(), "")
	})
}

func TestWithoutRecordNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(1)
		s.want, s.foreign = 1, true
		r, err := s.loop().Tick(t.Context())
		if err != nil || len(r.Outcomes) != 1 || r.Outcomes[0].Done || !strings.Contains(r.Outcomes[0].Err.Error(), "was not begun") {
			t.Errorf("got %+v, %v", r.Outcomes, err)
		}
		expect(t, s.did(), "")
	})
}

func TestUnknownWantDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(2)
		s.known = false
		s.hosts["gpu-1"].on, s.hosts["gpu-1"].joined = true, true
		r, err := s.loop().Tick(t.Context())
		if err != nil || r.WantKnown || r.Decision.Have != 1 {
			t.Errorf("got %+v, %v", r, err)
		}
		expect(t, s.did(), "")
	})
}

func TestOutcomesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(1)
		s.want, s.fail = 1, errRefused
		s.run(t, 1)
		if in := s.intents["gpu-1"]; in.Err == "" || in.Ambiguous || in.SettledAt.IsZero() {
			t.Errorf("refused: %+v", in)
		}
		s = newSite(1)
		s.want, s.hang = 1, true
		s.run(t, 1)
		if in := s.intents["gpu-1"]; in.Err == "" || !in.Ambiguous || in.SettledAt.IsZero() {
			t.Errorf("timed out: %+v", in)
		}
		// Nothing more is done to it inside the fence.
		s.did()
		s.hang = false
		s.run(t, 5)
		expect(t, s.did(), "")
	})
}

func TestBlindDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(1)
		s.want, s.blind = 1, errors.New("nomad is down")
		if _, err := s.loop().Tick(t.Context()); err == nil || !strings.Contains(err.Error(), "nomad is down") {
			t.Errorf("got %v", err)
		}
		expect(t, s.did(), "")
	})
}

func TestADeadHostDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(2)
		s.want = 2
		slow := &slowFirst{site: s}
		cfg := s.loop().cfg
		cfg.World = slow
		start := time.Now()
		r, err := New(cfg).Tick(t.Context())
		if err != nil || len(r.Outcomes) != 2 {
			t.Fatalf("got %+v, %v", r, err)
		}
		if took := slow.second.Sub(start); took > time.Second {
			t.Errorf("the live host was told after %s", took)
		}
		done := slices.IndexFunc(r.Outcomes, func(o Outcome) bool { return o.Done })
		if done < 0 || r.Outcomes[done].Host != "gpu-2" {
			t.Errorf("got %+v", r.Outcomes)
		}
	})
}

// slowFirst is a site whose gpu-1 never answers.
type slowFirst struct {
	*site
	second time.Time
}

func (s *slowFirst) Act(ctx context.Context, v pool.View, do pool.Verb) error {
	if v.Host.ID == "gpu-1" {
		<-ctx.Done()
		return ctx.Err()
	}
	s.second = time.Now()
	return s.site.Act(ctx, v, do)
}

func TestPanickingDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(1)
		s.want, s.die = 1, "act"
		r, err := s.loop().Tick(t.Context())
		if err != nil || len(r.Outcomes) != 1 || !strings.Contains(r.Outcomes[0].Err.Error(), "panic") {
			t.Errorf("got %+v, %v", r.Outcomes, err)
		}
		if in := s.intents["gpu-1"]; !in.Ambiguous {
			t.Errorf("a panic leaves the outcome open: %+v", in)
		}
	})
}

func TestARefusalForWantOfCapacityWearsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(2)
		s.want, s.fail = 1, fmt.Errorf("start gpu-1: %w", errNoCapacity)
		s.run(t, 1)
		in := s.intents["gpu-1"]
		if !in.NoCapacity || in.Ambiguous || in.Err == "" || in.SettledAt.IsZero() {
			t.Errorf("it is not on record as refused: %+v", in)
		}
		if !in.OnAt.IsZero() || in.Cycles != 0 {
			t.Errorf("it is on record as powered on: %+v", in.Ledger)
		}
		expect(t, s.did(), "power-on gpu-1")
		s.run(t, 50) // gpu-2 is of the same class
		expect(t, s.did(), "")
		s.run(t, 60)
		expect(t, s.did(), "power-on gpu-1")
		if in := s.intents["gpu-1"]; in.Refusals != 1 {
			t.Errorf("refused twice in a row, %d on record before the last", in.Refusals)
		}
	})
}

func TestWordsAreHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(2)
		s.want, s.words = 1, map[string]pool.Said{"gpu-1": {Word: pool.WordHold}}
		s.run(t, 5)
		expect(t, s.did(), "power-on gpu-2, enable gpu-2")
		s.words = map[string]pool.Said{"gpu-2": {Word: pool.WordOff}}
		s.run(t, 8)
		slices.SortStableFunc(s.log, func(a, b string) int { return strings.Compare(a[len(a)-5:], b[len(b)-5:]) }) // by host
		expect(t, s.did(), "power-on gpu-1, enable gpu-1, cordon gpu-2, drain gpu-2, soft-off gpu-2")
		// What operators said is not known: nothing is done.
		s.want, s.mute = 2, errors.New("consul is away")
		if _, err := s.loop().Tick(t.Context()); err == nil || !strings.Contains(err.Error(), "words") {
			t.Errorf("got %v", err)
		}
		expect(t, s.did(), "")
	})
}

// TestAJoinIsPutOnRecord: a host that joins without all of its GPUs is not
// given back, so there is no act that would tell later that it was there.
func TestAJoinIsPutOnRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(1)
		s.want, s.hosts["gpu-1"].missing = 1, 1
		s.run(t, 3)
		expect(t, s.did(), "power-on gpu-1")
		in := s.intents["gpu-1"]
		if in.Verb != pool.TurnOn || !in.JoinedAt.After(in.OnAt) {
			t.Errorf("it has joined, and its record is %+v", in)
		}
		rev := in.Rev
		s.run(t, 3)
		if in := s.intents["gpu-1"]; in.Rev != rev {
			t.Errorf("it was put on record again: %+v", in)
		}
		s.hosts["gpu-1"].joined = false
		time.Sleep(20 * time.Minute)
		s.run(t, 3)
		expect(t, s.did(), "") // it may run work that Nomad has lost sight of
	})
}

func TestTimesAreLearnedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(1)
		s.until = time.Now().Add(24 * time.Hour)
		loop := s.loop()
		learned := func(ticks int) (all []string) {
			for range ticks {
				r, err := loop.Tick(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range r.Learned {
					all = append(all, fmt.Sprintf("%s %s %s", l.Host, l.Stage, l.Took))
				}
				time.Sleep(time.Second)
			}
			return all
		}
		s.want = 1
		if got := fmt.Sprint(learned(6)); got != "[gpu-1 boot 1s]" {
			t.Errorf("there: %v", got)
		}
		s.want = 0
		if got := fmt.Sprint(learned(8)); got != "[gpu-1 drain 1s gpu-1 stop 1s]" {
			t.Errorf("and back: %v", got)
		}
		// Of what ends while nobody looks nothing is learned.
		s.want = 1
		learned(1)
		time.Sleep(time.Hour)
		if got := learned(1); got != nil {
			t.Errorf("after an hour: %v", got)
		}
		// Nor by a process that has just begun to look.
		s.want = 0
		learned(2)
		loop = s.loop()
		if got := learned(1); got != nil {
			t.Errorf("by a new process: %v", got)
		}
	})
}
