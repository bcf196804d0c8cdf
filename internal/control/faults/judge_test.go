package faults

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/pool"
)

// judge holds what is done to the world against the world. It knows nothing of
// phases and asks neither Reconcile nor Check.
type judge struct {
	w      *world
	broken []string
	hosts  map[string]*docket
	lastOn time.Time // decision of the last power-on in the pool
	// lastOff is that of the last soft or hard off.
	lastOff time.Time
	refused map[string]time.Time // by class, when it was last on record that there is none to have
	inARow  map[string]int       // by class, how often it was refused since it was last given
	given   map[string]time.Time // by class, when a host of it last came on, by whomever
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
	settled  bool   // the last record has its outcome
	onAt     time.Time
	before   time.Time      // the last power-on in the pool before that of this host
	cycles   map[string]int // power-ons by day
	// drained: a drain of ours took effect, and nobody made it eligible since.
	drained bool
	asked   bool // a soft off was sent since the last power-on
	askedAt time.Time
	failed  bool // its client had not joined, or was gone, when it was taken out of service
	// sawJoin: since its power-on it was seen to have joined, by a process that
	// could write that down.
	sawJoin bool
	// sawOff: it was seen off since the last soft or hard off, by a process that
	// could write that down.
	sawOff bool
	// leaving: it was cordoned because an operator wanted it out.
	leaving bool
	// offs counts the soft and hard offs on record since the last power-on. One
	// that was recorded may have been sent, and is pressed whatever was said
	// since.
	offs     int
	onBefore time.Time // onAt before the last power-on
	refusals int       // of its class in a row, before that
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
	d.foreign, d.eligible, d.settled = in.Foreign, in.Eligible, false
	switch in.Verb {
	case pool.TurnOn:
		j.require(l.Stagger == 0 || in.At.Sub(j.lastOn) >= l.Stagger, "%s: two power-ons within %s", m.id, in.At.Sub(j.lastOn))
		day := in.At.UTC().Format(time.DateOnly)
		j.require(l.CycleBudget == 0 || d.cycles[day] < l.CycleBudget, "%s: powered on more than %d times on %s", m.id, l.CycleBudget, day)
		d.cycles[day]++
		d.before, d.onBefore, d.refusals = j.lastOn, d.onAt, j.inARow[m.class]
		if w.cameOn(m.class, j.refused[m.class].Add(-w.setup.poll)) {
			d.refusals = 0
		}
		j.inARow[m.class] = 0 // unless it is refused
		j.lastOn, d.onAt, d.asked, d.failed, d.sawJoin = in.At, in.At, false, false, false
		d.offs = 0
	case pool.Drain:
		if w, _ := w.heard(m, p); w == pool.WordDrain || w == pool.WordOff {
			m.hold.seen = false // whose hand it was before is the operators' to know
		}
	case pool.Cordon:
		d.failed = d.failed || !m.joined || m.node.status != pool.NodeReady
	case pool.SoftOff, pool.HardOff:
		j.require(l.Stagger == 0 || in.At.Sub(j.lastOff) >= l.Stagger, "%s: two offs within %s", m.id, in.At.Sub(j.lastOff))
		j.lastOff = in.At
		d.offs++
		if d.offs == 1 { // it may never be begun, which nobody could tell from one that was
			d.leaving = w.leaves(m, p)
		}
		d.sawOff = false
		d.failed = d.failed || !m.joined || m.node.status != pool.NodeReady
	}
}

// settled notes an outcome, or what was seen later and put on record with it.
func (j *judge) settled(m *machine, in pool.Intent) {
	d := j.docket(m)
	if d.settled {
		j.w.say("%s: on record: joined %v, went off %v", m.id, in.JoinedAt.After(in.OnAt), in.StoppedAt.After(in.OffAt))
		return
	}
	d.settled = true
	j.w.say("%s: %s settled %s", m.id, in.Verb, in.Err)
	// race: a soft off whose outcome is not known counts as sent.
	if in.Verb == pool.SoftOff && in.Ambiguous && !d.asked {
		d.asked, d.askedAt = true, in.At
	}
	if in.Verb == pool.TurnOn && in.NoCapacity {
		j.refused[m.class] = j.w.now
		j.inARow[m.class] = max(j.inARow[m.class], d.refusals+1)
		d.cycles[in.At.UTC().Format(time.DateOnly)]-- // nothing was worn, and nothing drawn
		if j.lastOn.Equal(in.At) {
			j.lastOn = d.before
		}
		d.onAt = d.onBefore
	}
}

// ticked notes what a process has seen that lived to write it down.
func (j *judge) ticked(p *proc, r control.Report) {
	if j.w.holder != p || p.short || j.w.isAway("consul") || !r.WantKnown {
		return
	}
	for _, v := range r.Snapshot.Hosts {
		m := j.w.byID[v.Host.ID]
		if v.Verb == pool.TurnOn && v.Node.Status == pool.NodeReady && v.Node.Index > v.Intent.NodeIndex && v.NodeAt.After(v.SettledAt.Add(j.w.setup.limits.Fence)) && m.joined {
			j.docket(m).sawJoin = true
		}
		if (v.Verb == pool.SoftOff || v.Verb == pool.HardOff) && v.Power == pool.PowerOff && v.PowerAt.After(later(v.Intent.At, v.SettledAt).Add(j.w.setup.limits.Fence)) && !m.on {
			j.docket(m).sawOff = true
		}
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// cameOn reports whether a host of a class came on since, by whomever, or its
// BMC said so: then there were some to have, even if it is off again.
func (w *world) cameOn(class string, since time.Time) bool {
	return w.judge.given[class].After(since) || slices.ContainsFunc(w.hosts, func(o *machine) bool {
		return o.class == class && o.bmcLied.After(since)
	})
}

// draw is what a host draws, as far as the process that acts could know.
func (j *judge) draw(o *machine, sight time.Time) float64 {
	l, d := j.w.setup.limits, j.docket(o)
	c := l.Classes[o.class]
	peak := max(c.BootWatts, c.RunWatts)
	told := d.verb == pool.TurnOn && j.w.now.Sub(d.at) < l.PowerConfirm
	switch {
	case !o.on && told && !o.intent().NoCapacity && o.intent().Err == "":
		return peak // it is about to be on
	case !o.on || !o.onSince.Before(sight) || !j.w.truthful(o, sight):
		return 0 // race: it came on after the look, or its BMC says that it is off
	case o.onByUs && !o.everJoined && d.verb == pool.TurnOn && j.w.now.Sub(d.at) < j.leastBootTime(o):
		return peak
	}
	return c.RunWatts
}

// leastBootTime is the least that a boot timeout can have come to.
func (j *judge) leastBootTime(m *machine) time.Duration {
	least := j.w.setup.limits.BootTimeout
	if len(j.w.times[m.class].Boot.Last) > 0 {
		least = max(least/4, j.w.setup.limits.PowerConfirm)
	}
	return least - time.Second
}

// truthful reports whether a host's BMC has not lied for as long as anybody
// may remember.
func (w *world) truthful(m *machine, sight time.Time) bool {
	return m.bmcLied.Before(sight.Add(-w.setup.limits.StaleAfter))
}

// mayMove reports whether an allocation may be moved off a host.
func (j *judge) mayMove(m *machine, a *job, p *proc) bool {
	rule := j.w.setup.limits.DrainWork
	return rule == pool.DrainAll || rule == pool.DrainServices && a.service || j.w.leaves(m, p)
}

// word judges that nothing is done against what an operator said.
func (j *judge) word(m *machine, c command) {
	d := j.docket(m)
	word, sure := j.w.heard(m, c.p)
	if !sure {
		return // race: it was said after the process asked
	}
	off := c.do == pool.SoftOff || c.do == pool.HardOff
	against := false
	switch word {
	case pool.WordHold:
		against = true
	case pool.WordDrain:
		against = c.do == pool.TurnOn || c.do == pool.Enable || off && d.offs == 1 && d.drained && !d.failed
	case pool.WordOff:
		against = c.do == pool.TurnOn || c.do == pool.Enable
	case pool.WordOn:
		against = c.do == pool.Drain || (c.do == pool.Cordon || off && d.offs == 1) && m.joined && !d.failed && m.node.status == pool.NodeReady && m.readyAt.Before(c.sight.NodeAt)
	}
	j.require(!against, "%s: %s although an operator says %s", m.id, c.do, word)
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
	word, sure := w.heard(m, c.p)
	leave := w.leaves(m, c.p) // which goes before another hand
	j.require(!m.hold.on || !m.hold.seen || !m.hold.since.Before(sight) || leave, "%s: %s although an operator holds it since %s", m.id, c.do, m.hold.since.Sub(w.start))
	m.hold.seen = m.hold.seen && (m.hold.drained || m.hold.since.Before(sight))

	j.word(m, c)
	j.require(c.p.ownHost() != m || c.do == pool.TurnOn || c.do == pool.Enable, "%s: %s by the process that runs on it", m.id, c.do)

	switch c.do {
	case pool.SoftOff:
		// A shutdown that a word had asked for is pressed when the word was taken
		// back as well: it may be under way, and no host that may go off at any
		// moment can be given work.
		d.leaving = leave || d.leaving && d.offs > 1
		if !d.asked {
			d.asked, d.askedAt = true, now
		}
	case pool.Drain:
		for _, a := range m.node.work {
			j.require(a.placed.After(sight) || j.mayMove(m, a, c.p), "%s: drained while %s runs on it, which must stay", m.id, a.id)
		}
	case pool.TurnOn:
		rest := time.Minute << max(d.refusals-1, 0)
		j.require(d.refusals == 0 || now.Sub(j.refused[m.class]) >= rest-actTimeout || w.cameOn(m.class, j.refused[m.class].Add(-w.setup.poll)), "%s: powered on %s after the provider had none of class %s", m.id, now.Sub(j.refused[m.class]), m.class)
		if budget, ok := l.Budgets[m.rack]; ok {
			class := l.Classes[m.class]
			watts := max(class.BootWatts, class.RunWatts)
			for _, o := range w.hosts {
				if o != m && o.rack == m.rack {
					watts += j.draw(o, sight)
				}
			}
			j.require(watts <= budget, "%s: powered on, with which %s draws %.0f W of its %.0f W", m.id, m.rack, watts, budget)
		}
		// race: hosts whose BMC does not tell the truth are not counted.
		booting, coming, in := 0, 0, 0
		for _, o := range w.hosts {
			od := j.docket(o)
			steady := w.clean(o, now.Add(-l.StaleAfter))
			switch {
			case o == m:
			case o.inService() && o.on:
				// One that joined without all of its GPUs is not in service yet.
				// race: one that did not boot in its time, and joins as it is told to
				// shut down, is neither.
				if steady && od.verb != pool.TurnOn && od.offs == 0 && o.readyAt.Before(sight) && o.dimmed.Before(sight) && !o.hold.on && !o.node.operators && w.unspoken(o, c.p) {
					in++
				}
			case o.on && o.onByUs && !o.everJoined && w.truthful(o, sight) && od.verb == pool.TurnOn && now.Sub(od.at) < j.leastBootTime(o):
				booting++
				if steady && !o.hold.on && w.unspoken(o, c.p) {
					coming++
				}
			case word != pool.WordOn && sure && o.class == m.class && len(o.node.work) == 0 && w.unspoken(o, c.p) && o.on && o.node.status == pool.NodeReady && o.joined && steady && (od.verb == pool.Cordon || od.verb == pool.Drain) &&
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
		j.require(in+coming < most || !sure || word == pool.WordOn, "%s: powered on as number %d in service or on its way, %d are allowed", m.id, in+coming+1, most)
		j.require(!m.on || !m.inService() || !w.clean(m, sight.Add(-time.Minute)), "%s: powered on although it serves", m.id)
	case pool.Enable:
		j.require(!m.onByUs || m.everJoined || !w.clean(m, sight.Add(-time.Minute)), "%s: made eligible before its client has come", m.id)
	case pool.Cordon:
		if m.inService() {
			for _, a := range m.node.work {
				j.require(a.placed.After(sight) || j.mayMove(m, a, c.p), "%s: cordoned while %s runs on it, which must stay", m.id, a.id)
			}
			d.leaving = leave
			j.require(d.onAt.IsZero() || d.at.Sub(d.onAt) >= l.MinOn || !m.joined || leave, "%s: cordoned %s after its power-on", m.id, d.at.Sub(d.onAt))
			// A host that goes on to its soft off in the same tick leaves its
			// place free: judge when the tick has recorded all that it does.
			w.after(900*time.Millisecond, func() {
				if !c.p.dead && !w.now.Before(c.p.still) && d.verb == pool.Cordon && !leave {
					j.draining(m, sight, c.p)
				}
			})
		}
	}
}

// unspoken reports whether no operator said a thing of a host that the process
// knows of, and none took back what it knows.
func (w *world) unspoken(m *machine, p *proc) bool {
	word, sure := w.heard(m, p)
	return sure && word == pool.WordNone
}

// draining judges how many drain, now that m does too.
func (j *judge) draining(m *machine, sight time.Time, p *proc) {
	w, l := j.w, j.w.setup.limits
	n := 1
	for _, o := range w.hosts {
		d := j.docket(o)
		// race: one that Nomad had lost sight of at the look is not counted.
		if o != m && o.on && o.node.status == pool.NodeReady && o.readyAt.Before(sight) && o.joined && !o.node.eligible && !o.hold.on && (d.verb == pool.Cordon || d.verb == pool.Drain) && w.clean(o, w.now.Add(-l.StaleAfter)) && o.docketStill(sight) && w.unspoken(o, p) {
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
		if m.inService() && c.sight.Node.Status == pool.NodeReady && !d.leaving { // race: it joined after the look
			j.floor(m, c)
		}
		if d.leaving && m.inService() {
			m.dimmed = w.now // by the operator who said so
		}
		m.node.operators = false
		m.hold.seen = m.hold.seen && m.hold.drained && !d.foreign // race: it came after the look
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
		// race: nobody saw it join before it was cut off.
		j.require(len(m.orphans) == 0 || !d.sawJoin || !w.clean(m, sight), "%s: %s while work runs on it that Nomad has given up", m.id, c.do)
		// race: eligible again by an operator after the look.
		j.require(!m.node.eligible || !m.node.known || c.sight.Node.Status == pool.NodeAbsent || m.node.operators, "%s: %s while it is eligible", m.id, c.do)
		if m.joined && c.sight.Node.Status == pool.NodeReady {
			j.require(d.drained || d.failed || m.node.operators || !w.clean(m, sight), "%s: %s before a drain of ours", m.id, c.do)
		}
		j.require(!m.node.draining || m.node.operators, "%s: %s before the drain has ended", m.id, c.do)
	}
	// One that did not boot in its time goes off even if it joins meanwhile.
	if m.joined && m.readyAt.Before(c.sight.NodeAt) && !d.onAt.IsZero() && !d.failed && !d.leaving {
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
