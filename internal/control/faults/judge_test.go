package faults

import (
	"context"
	"fmt"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
)

// judge holds what is done to the world against the world. It knows nothing of
// phases and asks neither Reconcile nor Check.
type judge struct {
	w      *world
	broken []string
	hosts  map[string]*docket
	lastOn time.Time // decision of the last power-on in the pool
	// lastOff is that of the last soft off.
	lastOff time.Time
	acts    int
}

// docket is what is known of our acts on one host.
type docket struct {
	rev  uint64 // of the last record
	verb pool.Verb
	by   *proc
	at   time.Time
	// foreign: the node's last drain was an operator's when it was decided.
	foreign bool
	// eligible: its node was eligible then, or new.
	eligible bool
	acted    uint64 // revision that was acted on last
	onAt     time.Time
	cycles   map[string]int // power-ons by day
	// drained: a drain of ours took effect, and nobody made it eligible since.
	drained bool
	asked   bool // a soft off was sent since the last power-on
	askedAt time.Time
	failed  bool // its client had not joined, or was gone, when it was taken out of service
}

func (j *judge) docket(m *machine) *docket {
	d := j.hosts[m.id]
	if d == nil {
		d = &docket{cycles: map[string]int{}}
		j.hosts[m.id] = d
	}
	return d
}

func (j *judge) violated(format string, args ...any) {
	why := fmt.Sprintf(format, args...)
	j.broken = append(j.broken, fmt.Sprintf("at %s: %s", j.w.now.Sub(j.w.start), why))
	j.w.say("VIOLATED: %s", why)
}

func (j *judge) require(ok bool, format string, args ...any) {
	if !ok {
		j.violated(format, args...)
	}
}

// recorded judges an intent, the moment that it is stored.
func (j *judge) recorded(p *proc, m *machine, in pool.Intent) {
	w, d, l := j.w, j.docket(m), j.w.setup.limits
	w.lastAct = w.now
	w.say("%s: %s recorded by %s: %s", m.id, in.Verb, p.name, in.Why)
	j.require(w.holder == p && in.Gen == p.gen, "%s: %s was recorded by %s without the lease", m.id, in.Verb, p.name)
	j.require(p.until.Sub(in.At) >= actTimeout, "%s: %s was recorded with %s left of the lease", m.id, in.Verb, p.until.Sub(in.At))
	j.acts++
	d.rev, d.verb, d.by, d.at = in.Rev, in.Verb, p, in.At
	d.foreign, d.eligible = in.Foreign, in.Eligible
	switch in.Verb {
	case pool.TurnOn:
		j.require(l.Stagger == 0 || in.At.Sub(j.lastOn) >= l.Stagger, "%s: two power-ons within %s", m.id, in.At.Sub(j.lastOn))
		day := in.At.UTC().Format(time.DateOnly)
		j.require(l.CycleBudget == 0 || d.cycles[day] < l.CycleBudget, "%s: powered on more than %d times on %s", m.id, l.CycleBudget, day)
		d.cycles[day]++
		j.lastOn, d.onAt, d.asked, d.failed = in.At, in.At, false, false
	case pool.Cordon:
		d.failed = d.failed || !m.joined || m.node.status != pool.NodeReady
	case pool.SoftOff:
		j.require(l.Stagger == 0 || in.At.Sub(j.lastOff) >= l.Stagger, "%s: two soft offs within %s", m.id, in.At.Sub(j.lastOff))
		j.lastOff = in.At
		d.failed = d.failed || !m.joined || m.node.status != pool.NodeReady
	}
}

// settled notes an outcome.
func (j *judge) settled(m *machine, in pool.Intent) {
	j.w.say("%s: %s settled %s", m.id, in.Verb, in.Err)
	// race: a soft off whose outcome is not known counts as sent.
	if d := j.docket(m); in.Verb == pool.SoftOff && in.Ambiguous && !d.asked {
		d.asked, d.askedAt = true, in.At
	}
}

// begins judges an act when it is begun.
func (j *judge) begins(m *machine, c command) {
	w, d, l := j.w, j.docket(m), j.w.setup.limits
	now, sight := w.now, c.sight.NodeAt
	in, _ := w.mem.Intents(context.Background())
	rec := in[m.id]
	j.require(d.by == c.p && d.verb == c.do && rec.Rev == d.rev && rec.SettledAt.IsZero(), "%s: %s by %s was begun without its record", m.id, c.do, c.p.name)
	j.require(d.acted != d.rev, "%s: %s was begun twice on one record", m.id, c.do)
	d.acted = d.rev
	// race: a hand that came after the look is seen at the next.
	j.require(!m.hold.on || !m.hold.seen || !m.hold.since.Before(sight), "%s: %s although an operator holds it since %s", m.id, c.do, m.hold.since.Sub(w.start))
	m.hold.seen = m.hold.seen && (m.hold.drained || m.hold.since.Before(sight))

	switch c.do {
	case pool.SoftOff:
		if !d.asked {
			d.asked, d.askedAt = true, now
		}
	case pool.TurnOn:
		// race: hosts whose BMC does not tell the truth are not counted.
		booting, in := 0, 0
		for _, o := range w.hosts {
			od := j.docket(o)
			steady := w.clean(o, now.Add(-l.StaleAfter))
			switch {
			case o == m:
			case o.inService() && o.on:
				// One that joined without all of its GPUs is not in service yet.
				if steady && od.verb != pool.TurnOn && o.readyAt.Before(sight) && o.dimmed.Before(sight) && !o.hold.on && !o.node.operators {
					in++
				}
			case o.on && o.onByUs && !o.joined && !o.hold.on && steady && od.verb == pool.TurnOn && now.Sub(od.at) < l.BootTimeout-time.Second:
				booting++
			case o.on && o.node.status == pool.NodeReady && o.joined && steady && (od.verb == pool.Cordon || od.verb == pool.Drain) &&
				od.at.Before(sight.Add(-l.Fence-2*actTimeout)) && !o.hold.on && o.docketStill(sight):
				// The same tick may take it back: judge when all is recorded.
				w.after(900*time.Millisecond, func() {
					taken := c.p.dead || w.now.Before(c.p.still) || od.verb != pool.Cordon && od.verb != pool.Drain
					j.require(taken, "%s: powered on although %s is warm and could be taken back", m.id, o.id)
				})
			}
		}
		j.require(booting < l.MaxBooting, "%s: powered on as number %d that boots, %d are allowed", m.id, booting+1, l.MaxBooting)
		most := min(len(w.hosts), l.Max)
		j.require(in+booting < most, "%s: powered on as number %d in service or on its way, %d are allowed", m.id, in+booting+1, most)
		j.require(!m.on || !m.inService() || !w.clean(m, sight.Add(-time.Minute)), "%s: powered on although it serves", m.id)
	case pool.Enable:
		j.require(!m.onByUs || m.everJoined || !w.clean(m, sight.Add(-time.Minute)), "%s: made eligible before its client has come", m.id)
	case pool.Cordon:
		if m.inService() {
			for _, a := range m.node.work {
				j.require(a.placed.After(sight), "%s: cordoned while %s runs on it", m.id, a.id)
			}
			j.require(d.onAt.IsZero() || d.at.Sub(d.onAt) >= l.MinOn || !m.joined, "%s: cordoned %s after its power-on", m.id, d.at.Sub(d.onAt))
			// A host that goes on to its soft off in the same tick leaves its
			// place free: judge when the tick has recorded all that it does.
			w.after(900*time.Millisecond, func() {
				if !c.p.dead && !w.now.Before(c.p.still) && d.verb == pool.Cordon {
					j.draining(m, sight)
				}
			})
		}
	}
}

// draining judges how many drain, now that m does too.
func (j *judge) draining(m *machine, sight time.Time) {
	w, l := j.w, j.w.setup.limits
	n := 1
	for _, o := range w.hosts {
		d := j.docket(o)
		if o != m && o.on && o.node.status == pool.NodeReady && o.joined && !o.node.eligible && !o.hold.on && (d.verb == pool.Cordon || d.verb == pool.Drain) && w.clean(o, w.now.Add(-l.StaleAfter)) && o.docketStill(sight) {
			n++
		}
	}
	j.require(n <= l.MaxDraining, "%s: cordoned as number %d that drains, %d are allowed", m.id, n, l.MaxDraining)
}

// docketStill reports whether the host was as it is now at the last look.
func (m *machine) docketStill(sight time.Time) bool {
	return m.dimmed.Before(sight) && m.node.askedAt.Before(sight)
}

// takesEffect judges a command when it is carried out, which can be later.
func (j *judge) takesEffect(m *machine, c command) {
	w, d, l := j.w, j.docket(m), j.w.setup.limits
	w.lastAct = w.now
	if c.do != pool.TurnOn {
		m.node.askedAt = w.now
	}
	switch c.do {
	case pool.Drain:
		if c.sight.Node.ID != "" {
			d.drained = true
		}
		m.hold.seen = m.hold.seen && m.node.draining // race: it came after the look
		j.require(!m.node.eligible || m.node.operators, "%s: drained while it was eligible", m.id)
	case pool.Enable:
		j.require(m.osUp || w.now.Sub(c.sight.NodeAt) < heartbeatTTL+l.Fence || m.node.status != pool.NodeReady, "%s: made eligible while it is down", m.id)
		j.require(!m.shutting || !w.clean(m, c.sight.NodeAt), "%s: made eligible while it shuts down", m.id)
		// race: an operator's hand that came after the look, or cannot be told
		// from ours, is overruled.
		if !m.node.draining || m.node.mark != pool.MarkForeign { // which Nomad's client refuses
			d.drained, d.failed, m.node.operators, m.hold = false, false, false, hold{}
		}
	case pool.Cordon:
		if m.inService() && c.sight.Node.Status == pool.NodeReady { // race: it joined after the look
			j.floor(m, c)
		}
		m.node.operators = false
		m.hold.seen = m.hold.seen && m.hold.drained // race: it came after the look
	case pool.SoftOff, pool.HardOff:
		j.off(m, c, d)
	}
}

// floor: by our hand there are never fewer in service than wanted.
func (j *judge) floor(m *machine, c command) {
	w, l := j.w, j.w.setup.limits
	stay := 0
	for _, o := range w.hosts {
		if o != m && o.inService() {
			stay++
		}
		if o.dimmed.After(c.sight.NodeAt) {
			return // race: another host left service after the look
		}
	}
	least := -1
	for i, x := range w.wants {
		if i+1 < len(w.wants) && w.wants[i+1].at.Before(c.sight.NodeAt) {
			continue // it was not wanted any more when it was looked
		}
		if least < 0 || x.n < least {
			least = x.n
		}
	}
	most := min(len(w.hosts), l.Max)
	least = min(max(least+l.Spare, l.Min), most)
	j.require(stay >= least, "%s: cordoned, which leaves %d in service, and %d are wanted", m.id, stay, least)
}

// off is what the project stands on.
func (j *judge) off(m *machine, c command, d *docket) {
	w, l := j.w, j.w.setup.limits
	if !m.on {
		return
	}
	hard := c.do == pool.HardOff
	if m.osUp && (hard || !m.ignoresSoft.on(w.now)) {
		sight := c.sight.NodeAt
		for _, a := range m.node.work {
			unknown := c.sight.Node.Status == pool.NodeAbsent // race: it joined after the look
			j.require(a.placed.After(sight) && (unknown || m.node.operators), "%s: %s while %s runs on it, placed %s before the look", m.id, c.do, a.id, sight.Sub(a.placed))
		}
		j.outside(m, c)
		// race: eligible again by an operator after the look.
		j.require(!m.node.eligible || !m.node.known || c.sight.Node.Status == pool.NodeAbsent || m.node.operators, "%s: %s while it is eligible", m.id, c.do)
		if m.joined && c.sight.Node.Status == pool.NodeReady {
			j.require(d.drained || d.failed || m.node.operators || !w.clean(m, sight), "%s: %s before a drain of ours", m.id, c.do)
		}
		j.require(!m.node.draining || m.node.operators, "%s: %s before the drain has ended", m.id, c.do)
	}
	// One that did not boot in its time goes off even if it joins meanwhile.
	if m.joined && !d.onAt.IsZero() && !d.failed {
		j.require(c.sent.Sub(d.onAt) >= l.MinOn, "%s: %s %s after its power-on", m.id, c.do, c.sent.Sub(d.onAt))
	}
	if hard {
		j.require(d.asked, "%s: hard off without a soft off before", m.id)
		j.require(!d.asked || c.sent.Sub(d.askedAt) >= l.SoftOffTimeout-actTimeout, "%s: hard off %s after the soft off", m.id, c.sent.Sub(d.askedAt))
		j.require(l.HardOff || m.node.status != pool.NodeReady || c.sight.Node.Status != pool.NodeReady, "%s: hard off of a host that joined, which the pool does not allow", m.id)
	}
}

// outside judges processes on the GPUs that are no allocation's.
func (j *judge) outside(m *machine, c command) {
	rule, v := j.w.setup.limits.Agent, c.sight
	if rule == pool.AgentNone {
		return
	}
	// race: on a host that never joined, and whose agent is silent, nobody can
	// be asked.
	told := v.Agent.Status == pool.AgentPassing && v.Agent.Blind == ""
	j.require(rule == pool.AgentOptional || told || v.Node.Status != pool.NodeReady, "%s: %s on no word of its agent", m.id, c.do)
	for _, began := range m.outside {
		// race: it began after the agent's last sample.
		reported := v.Agent.Status == pool.AgentPassing && began.Before(v.AgentAt.Add(-sampleAge))
		if v.Agent.Blind != "" {
			reported = false
		}
		j.require(!reported, "%s: %s although its agent has told of a process on its GPUs, begun %s before", m.id, c.do, v.AgentAt.Sub(began))
	}
}
