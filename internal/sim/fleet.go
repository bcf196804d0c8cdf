package sim

import (
	"math"
	"math/rand/v2"
	"time"
)

// fleet is the replicas of the pool and, where there is a host tier, the hosts
// beneath them. It starts and stops what is wanted, on ticks.
//
// A start that is no longer wanted is given up first, the youngest first; then
// a ready replica drains. A failed start is noticed after twice the lead time
// and made good by another.
type fleet struct {
	cfg      Config
	rng      *rand.Rand
	wanted   int
	ready    int
	starting []start // by time of command
	commands int     // since the scored part began
	started  int     // all commands
	hosts    []host
	kinds    kinds
	scored   int
}

// start is a replica between its start command and its first request.
type start struct {
	command int // tick
	ready   int // tick; when it is noticed, if it fails
	fails   bool
	host    int
	class   int // index in kinds
}

// host is a powered host.
type host struct {
	on    bool
	up    int // tick from which instances can be placed
	used  int // instances that start or are ready
	empty int // tick since which it has none
}

func newFleet(c Config) *fleet {
	return &fleet{cfg: c, rng: rand.New(rand.NewPCG(c.Seed, 0x737461727473)), kinds: newKinds(c), scored: ticks(c.Warmup)}
}

// begin makes n replicas ready at once.
func (f *fleet) begin(n int) {
	f.wanted = n
	for range n {
		class, ok := f.kinds.pick()
		if !ok {
			break
		}
		f.kinds.ready[class]++
		f.ready++
	}
	if k := f.cfg.Hosts.Instances; k > 0 {
		for left := n; left > 0; left -= k {
			f.hosts = append(f.hosts, host{on: true, used: min(left, k)})
		}
	}
}

// advance makes starts ready whose time has come, and powers off hosts that
// have been empty long enough.
func (f *fleet) advance(now int) {
	retry := 0
	keep := f.starting[:0]
	for _, s := range f.starting {
		switch {
		case s.ready > now:
			keep = append(keep, s)
		case s.fails:
			f.kinds.starting[s.class]--
			f.leave(s.host, now)
			retry++
		default:
			f.kinds.starting[s.class]--
			f.kinds.ready[s.class]++
			f.ready++
		}
	}
	f.starting = keep
	taken := f.kinds.interrupt(now >= f.scored)
	f.ready -= taken
	for range retry + taken {
		f.start(now)
	}
	f.idleHosts(now)
}

// want starts and stops replicas until n are ready or starting.
func (f *fleet) want(now, n int) {
	f.wanted = n
	for f.ready+len(f.starting) < n && f.start(now) {
	}
	for f.ready+len(f.starting) > n && len(f.starting) > 0 {
		last := len(f.starting) - 1
		f.kinds.starting[f.starting[last].class]--
		f.leave(f.starting[last].host, now)
		f.starting = f.starting[:last]
	}
	for f.ready > n {
		f.ready--
		f.kinds.letGo()
		f.leave(f.emptiest(), now)
	}
}

// start gives one start command, unless no class has room.
func (f *fleet) start(now int) bool {
	class, ok := f.kinds.pick()
	if !ok {
		return false
	}
	f.kinds.starting[class]++
	s := start{command: now, ready: now + f.lead(), host: -1, class: class}
	if f.cfg.Hosts.Instances > 0 {
		h, up := f.place(now)
		s.host = h
		s.ready += up - now
	}
	if f.cfg.StartFailure > 0 && f.rng.Float64() < f.cfg.StartFailure {
		s.fails = true
		s.ready += ticks(f.cfg.Lead)
	}
	f.starting = append(f.starting, s)
	if f.cfg.Hosts.Instances == 0 {
		f.count(now)
	}
	return true
}

func (f *fleet) count(now int) {
	f.started++
	if now >= f.scored {
		f.commands++
	}
}

// lead draws a start's lead time: lognormal with the median Lead, cut at its
// 5th and 99th percentile, in whole steps of the bound so that no capacity
// appears between them.
func (f *fleet) lead() int {
	if f.cfg.Jitter == 0 {
		return ticks(f.cfg.Lead)
	}
	z := max(min(f.rng.NormFloat64(), 2.326), -1.645)
	d := f.cfg.Lead.Seconds() * math.Exp(z*math.Log(1+f.cfg.Jitter)/1.645)
	step := boundStep(f.cfg)
	return ticks(time.Duration(math.Ceil(d/step.Seconds())) * step)
}

// place finds a host for an instance: the fullest that is up or coming up
// with room, or else one that is powered on now.
func (f *fleet) place(now int) (index, up int) {
	best := -1
	for i, h := range f.hosts {
		if h.on && h.used < f.cfg.Hosts.Instances && (best < 0 || better(h, f.hosts[best])) {
			best = i
		}
	}
	if best < 0 {
		best = f.powerOn(now)
	}
	f.hosts[best].used++
	return best, max(f.hosts[best].up, now)
}

func better(a, b host) bool {
	if a.up != b.up {
		return a.up < b.up
	}
	return a.used > b.used
}

func (f *fleet) powerOn(now int) int {
	f.count(now)
	h := host{on: true, up: now + ticks(f.cfg.Hosts.Boot), empty: now}
	for i := range f.hosts {
		if !f.hosts[i].on {
			f.hosts[i] = h
			return i
		}
	}
	f.hosts = append(f.hosts, h)
	return len(f.hosts) - 1
}

// emptiest is the host with the fewest instances, so that scale-in frees
// whole hosts; -1 without a host tier.
func (f *fleet) emptiest() int {
	best := -1
	for i, h := range f.hosts {
		if h.on && h.used > 0 && (best < 0 || h.used <= f.hosts[best].used) && !f.onlyStarting(i, h) {
			best = i
		}
	}
	return best
}

// onlyStarting tells whether all instances of a host still start.
func (f *fleet) onlyStarting(i int, h host) bool {
	n := 0
	for _, s := range f.starting {
		if s.host == i {
			n++
		}
	}
	return n == h.used
}

func (f *fleet) leave(i, now int) {
	if i < 0 {
		return
	}
	h := &f.hosts[i]
	h.used--
	if h.used == 0 {
		h.empty = now
	}
}

// idleHosts powers off hosts that were empty for Hold, but for the spare.
func (f *fleet) idleHosts(now int) {
	if len(f.hosts) == 0 && f.cfg.Hosts.Spare == 0 {
		return
	}
	empty := 0
	for i := range f.hosts {
		h := &f.hosts[i]
		if !h.on || h.used > 0 {
			continue
		}
		empty++
		if empty > f.cfg.Hosts.Spare && now-max(h.empty, h.up) >= ticks(f.cfg.Hosts.Hold) {
			h.on = false
		}
	}
	if f.cfg.Hosts.Instances > 0 {
		for ; empty < f.cfg.Hosts.Spare; empty++ {
			f.powerOn(now)
		}
	}
}

// billed is the number of replicas that are paid for: ready, starting, draining.
// A powered host is paid whole, which covers its drains.
func (f *fleet) billed(draining int) float64 {
	if f.cfg.Hosts.Instances == 0 {
		return float64(f.ready + len(f.starting) + draining)
	}
	n := 0
	for _, h := range f.hosts {
		if h.on {
			n += f.cfg.Hosts.Instances
		}
	}
	return float64(n)
}
