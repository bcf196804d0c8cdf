package pool

import (
	"fmt"
	"hash/fnv"
	"time"
)

// drought is a class of hosts of which the provider has none to give.
type drought struct {
	since time.Time
	n     int // refusals in a row
}

// refused reports whether a host's last power-on was refused for want of
// capacity, and the host is not on all the same.
func (v *View) refused(now time.Time, l Limits) bool {
	on := v.Power == PowerOn && v.powerReadable(now, l) || v.joined(now, l)
	return v.Verb == TurnOn && v.NoCapacity && !on
}

// droughts finds the classes whose last power-on was refused for want of
// capacity. One that was powered on since ends it for its class.
func droughts(hosts []View, now time.Time, l Limits) map[string]drought {
	var dry map[string]drought
	for i := range hosts {
		v := &hosts[i]
		if !v.refused(now, l) {
			continue
		}
		if dry == nil {
			dry = make(map[string]drought)
		}
		d := dry[v.Class]
		dry[v.Class] = drought{later(d.since, v.SettledAt), max(d.n, v.Refusals+1)}
	}
	if dry == nil {
		return nil
	}
	for i := range hosts {
		v := &hosts[i]
		if d, ok := dry[v.Class]; ok && v.OnAt.After(d.since) {
			delete(dry, v.Class)
		}
	}
	return dry
}

// until is when a power-on of the class is tried again: after 1, 2, 4 minutes
// and so on up to 32, each up to half longer, by a hash of the class, so that
// pools that share a provider do not ask together.
func (d drought) until(class string) time.Time {
	wait := time.Minute << min(d.n-1, 5)
	return d.since.Add(wait + jitter(wait/2, "%s/%d", class, d.n))
}

// backOff is how long a host is left off after n failed boots: the first is
// tried again at once, and then it is 2, 4, 8 minutes and so on up to 8 hours,
// each up to half longer, by a hash of the host, so that hosts that failed
// together do not come back together.
func backOff(host string, n int) time.Duration {
	if n < 2 {
		return 0
	}
	d := min(time.Minute<<min(n-1, 10), 8*time.Hour)
	return d + jitter(d/2, "%s/%d", host, n)
}

// jitter is a part of most that the words given choose, always the same for
// the same words.
func jitter(most time.Duration, format string, args ...any) time.Duration {
	h := fnv.New32a()
	fmt.Fprintf(h, format, args...)
	return time.Duration(h.Sum32()%1000) * most / 1000
}

// readOff reports whether a chassis was read as off lately, and is not about to
// follow its power-on.
func (v *View) readOff(now time.Time, l Limits) bool {
	told := v.Verb == TurnOn && v.Err == "" && now.Sub(v.Intent.At) < l.PowerConfirm
	return v.Power == PowerOff && now.Sub(v.PowerAt) <= l.StaleAfter && v.lookedAgain(l) && !told
}

// dark reports whether a host, which is in phase p, draws no power for certain.
func (v *View) dark(p Phase, now time.Time, l Limits) bool {
	return p == Off || p == Quarantined || v.Node.Status != NodeReady && v.readOff(now, l)
}

// watts is the most that a host draws: nothing if it is off for certain, its
// peak while it may boot. A host whose power nobody knows counts as on.
func (v *View) watts(p Phase, now time.Time, l Limits) float64 {
	c := l.Classes[v.Class]
	switch {
	case v.dark(p, now, l):
		return 0
	case v.Verb == TurnOn && !v.overdue(now, l) && !v.joined(now, l):
		return c.peak()
	}
	return c.RunWatts
}

// peak is the most that a host draws from its power-on onward.
func (c Class) peak() float64 { return max(c.BootWatts, c.RunWatts) }

// inRush reports whether a host may be booting now, as far as the most that
// boot at once is concerned: that its BMC went silent, or an operator took it
// in hand, makes its boot no smaller.
func (v *View) inRush(p Phase, now time.Time, l Limits) bool {
	switch p {
	case Booting:
		return !v.overdue(now, l)
	case Unknown, Held:
		return v.Verb == TurnOn && !v.overdue(now, l) && !v.dark(p, now, l)
	}
	return false
}
