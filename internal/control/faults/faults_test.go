package faults

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
)

var (
	schedules = flag.Int("schedules", 2000, "how many random schedules to run")
	firstSeed = flag.Uint64("first", 1, "seed of the first of them")
	mostBad   = flag.Int("failures", 3, "how many schedules may fail before the rest is not run")
	oneSeed   = flag.Uint64("seed", 0, "run only the schedule of this seed, and tell its story")
)

// TestSchedules runs the loop through random schedules of faults. What must
// hold is in the package's comment.
func TestSchedules(t *testing.T) {
	if *oneSeed != 0 {
		s := generate(*oneSeed)
		out := play(t, s, true)
		t.Logf("%s\n%s", s, out.story)
		if out.broken != nil {
			t.Errorf("%q", out.broken)
		}
		return
	}
	acts, bad := 0, 0
	var total, longest time.Duration
	for seed := *firstSeed; seed < *firstSeed+uint64(*schedules); seed++ {
		s := generate(seed)
		out := play(t, s, false)
		acts += out.acts
		total += out.calm
		longest = max(longest, out.calm)
		if out.broken != nil {
			short := shorten(t, s, out.broken)
			t.Errorf("%q\n# to be kept in testdata/schedules\n%s\n%s", out.broken, short, play(t, short, true).story)
			if bad++; bad == *mostBad {
				t.Fatal("that is enough")
			}
		}
	}
	t.Logf("%d schedules, %d acts; at rest %s after the last fault on average, %s at most", *schedules, acts, (total / time.Duration(*schedules)).Round(time.Second), longest.Round(time.Second))
	if acts < *schedules {
		t.Errorf("only %d acts in %d schedules: they try nothing", acts, *schedules)
	}
}

// outcome is how a schedule ended.
type outcome struct {
	broken []string
	story  string
	acts   int
	calm   time.Duration // from the last fault until the pool was at rest
}

// play runs one schedule to its end.
func play(t *testing.T, s setup, tell bool) (out outcome) {
	synctest.Test(t, func(*testing.T) {
		time.Sleep(s.offset)
		w := newWorld(s, tell)
		w.lock()
		w.begin(0, 1)
		w.begin(1, 1)
		w.unlock()
		time.Sleep(s.chaos)
		w.lock()
		w.calm()
		w.unlock()
		out.calm = w.rest()
		w.lock()
		w.finished = true
		out.broken, out.acts, out.story = w.judge.broken, w.judge.acts, w.story.String()
		w.unlock()
		time.Sleep(10 * time.Minute) // for the processes to find that it is over
	})
	return out
}

func newWorld(s setup, tell bool) *world {
	w := &world{setup: s, start: time.Now(), now: time.Now(), byID: map[string]*machine{}, away: map[string]time.Time{}, procs: make([]*proc, 2), tell: tell,
		words: map[string]pool.Said{}, saidAt: map[string]time.Time{}, times: map[string]pool.Times{}}
	w.judge = judge{w: w, hosts: map[string]*docket{}, refused: map[string]time.Time{}, inARow: map[string]int{}, given: map[string]time.Time{}}
	if s.learned { // that hosts are fast, as nearly all of them are here
		for range 12 {
			w.times["owned"] = w.times["owned"].Add(pool.Sample{Stage: pool.StageBoot, Took: 50 * time.Second})
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range s.hosts {
		m := &machine{w: w, n: i, id: fmt.Sprintf("gpu-%d", i+1), class: s.class[i], rack: s.rack[i]}
		w.hosts, w.byID[m.id] = append(w.hosts, m), m
		switch w.dice("begins", i) % 3 {
		case 0:
			m.powerOn(false)
		case 1:
			m.node.known, m.node.eligible, m.node.status = true, true, pool.NodeDown
		}
	}
	w.setWant(s.want)
	for _, f := range s.faults {
		w.at(w.start.Add(f.at), func() { w.befall(f) })
	}
	return w
}

// calm ends all that is wrong, and lets nothing new begin.
func (w *world) calm() {
	w.say("--- no more faults ---")
	for _, m := range w.hosts {
		m.outside = nil
		for _, j := range slices.Clone(m.node.work) {
			j.lasts = min(j.lasts, 30*time.Second)
			w.after(30*time.Second, func() { m.end(j, "ends") })
		}
		// What we powered on and did not boot is ours to give up.
		if d := w.judge.docket(m); m.on && (!m.osUp || !m.client) && (d.verb != pool.TurnOn || m.intent().NoCapacity || m.intent().JoinedAt.After(d.onAt)) {
			w.say("%s: an operator resets it", m.id)
			m.powerOff()
			m.powerOn(false)
		}
	}
	w.queue = nil
	for _, p := range w.procs {
		p.trap = nil
	}
}

func (m *machine) intent() pool.Intent {
	in, _ := m.w.mem.Intents(context.Background())
	return in[m.id]
}

// bound is how long the pool may take to come to rest.
func (w *world) bound() time.Duration {
	l := w.setup.limits
	in, _ := w.mem.Intents(context.Background())
	var quarantine time.Duration
	for _, i := range in {
		if n := i.FailedBoots + 1; n >= 2 {
			quarantine = max(quarantine, 3*time.Minute<<min(n-1, 9)/2)
		}
	}
	each := l.BootTimeout + 20*time.Second + 8*w.setup.poll + 2*l.Stagger
	return 2*(leaseTTL+lockDelay) + heartbeatTTL + quarantine + time.Minute + l.MinOn +
		2*(l.BootTimeout+l.SoftOffTimeout+l.PowerConfirm) + time.Duration(w.setup.hosts)*each
}

// rest waits until the pool is at rest as it should be, and judges whether it
// was in time. It returns how long it took.
func (w *world) rest() time.Duration {
	l := w.setup.limits
	began := time.Now()
	w.lock()
	limit := began.Add(w.bound())
	w.unlock()
	quiet := l.SoftOffTimeout + l.PowerConfirm + l.StaleAfter
	for {
		time.Sleep(5 * time.Second)
		w.lock()
		why := w.unrest()
		at := w.lastAct
		if at.Before(began) {
			at = began
		}
		switch {
		case why == "" && w.now.Sub(at) >= quiet:
			w.unlock()
			return at.Sub(began)
		case w.now.After(limit.Add(quiet)):
			w.judge.violated("%s after the last fault it is not at rest: %s; the last act was %s ago", w.now.Sub(began), why, w.now.Sub(w.lastAct))
			w.unlock()
			return w.now.Sub(began)
		}
		w.unlock()
	}
}

// unrest says what is not as it should be in the end; empty if nothing.
func (w *world) unrest() string {
	l := w.setup.limits
	most := min(len(w.hosts), l.Max)
	target, standby := min(max(w.want+l.Spare, l.Min), most), 0
	for _, c := range l.Classes {
		standby += c.Standby
	}
	serve, stay := 0, 0 // in service, and of those the ones that must be
	ready := false      // a host is off that could be powered on
	for _, m := range w.hosts {
		word := w.words[m.id].Word
		serves := m.on && m.osUp && m.inService()
		own := w.holder != nil && w.holder.ownHost() == m
		switch {
		case m.hold.on || word == pool.WordHold:
			continue
		case own && m.on && !serves:
			continue // nothing brings what is under way to its end
		case own && m.on: // nor takes it out of service
		case word == pool.WordOff && m.on:
			return fmt.Sprintf("%s is on, an operator says off", m.id)
		case word == pool.WordDrain && (serves || len(m.node.work) > 0):
			return fmt.Sprintf("%s is in service, an operator says drain", m.id)
		case word == pool.WordOff || word == pool.WordDrain:
			continue
		case word == pool.WordOn && !serves && w.couldGoOn(m):
			return fmt.Sprintf("%s is not in service, an operator says on", m.id)
		case m.on && !serves:
			return fmt.Sprintf("%s is on and not in service", m.id)
		}
		if serves && (own || word == pool.WordOn) {
			stay++
		}
		if serves {
			serve++
		} else {
			ready = ready || w.couldGoOn(m)
		}
	}
	standing, why := w.standing()
	target = min(target+standing, most)
	switch {
	case serve > max(target, stay+standby):
		return fmt.Sprintf("%d hosts are in service, %d should be", serve, max(target, stay+standby))
	case serve < target && ready:
		return fmt.Sprintf("%d hosts are in service, %d should be, and there is one more", serve, target)
	case serve < most:
		return why
	}
	return ""
}

// standing is how many hosts stand by, and which class has too few of them
// although it could have more.
func (w *world) standing() (n int, why string) {
	idle, could := map[string]int{}, map[string]bool{}
	for _, m := range w.hosts {
		free := !m.hold.on && w.words[m.id].Word == pool.WordNone
		if m.on && m.inService() && len(m.node.work) == 0 && !m.hold.on && w.words[m.id].Word != pool.WordHold {
			idle[m.class]++
		}
		could[m.class] = could[m.class] || !m.on && free && w.couldGoOn(m)
	}
	for name, c := range w.setup.limits.Classes {
		n += min(c.Standby, idle[name])
		if idle[name] < c.Standby && could[name] {
			why = fmt.Sprintf("%d of class %s stand by, %d are to", idle[name], name, c.Standby)
		}
	}
	return n, why
}

// couldGoOn reports whether a host that is off has cycles left for the day, and
// its rack the power.
func (w *world) couldGoOn(m *machine) bool {
	l := w.setup.limits
	if l.CycleBudget > 0 && w.judge.docket(m).cycles[w.now.UTC().Format(time.DateOnly)] >= l.CycleBudget {
		return false
	}
	budget, limited := l.Budgets[m.rack]
	watts := max(l.Classes[m.class].BootWatts, l.Classes[m.class].RunWatts)
	for _, o := range w.hosts {
		if o.on && o.rack == m.rack {
			watts += l.Classes[o.class].RunWatts
		}
	}
	return !limited || watts <= budget
}

// shorten drops faults for as long as the schedule still breaks the same law.
func shorten(t *testing.T, s setup, broken []string) setup {
	fails := func(faults []fault) bool {
		try := s
		try.faults = faults
		return play(t, try, false).broken != nil
	}
	for size := (len(s.faults) + 1) / 2; size > 0; size /= 2 {
		for i := 0; i < len(s.faults); {
			less := slices.Concat(s.faults[:i], s.faults[min(i+size, len(s.faults)):])
			if fails(less) {
				s.faults = less
			} else {
				i += size
			}
		}
	}
	return s
}
