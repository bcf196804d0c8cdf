package pool

import (
	"fmt"
)

// shrink takes surplus hosts out of service, in their order. Those that an
// operator wants out were taken before.
func (r *reconciler) shrink() {
	if r.ready <= r.base || r.draining >= r.l.MaxDraining {
		return
	}
	var serving, able []*host
	for _, h := range r.hosts {
		if h.Phase != Ready || h.busy || !h.free {
			continue
		}
		if !h.loaded() {
			h.kind.standing++
		}
		serving = append(serving, h)
		if h.passed = r.mustStay(h); h.passed == "" {
			h.lost = gpuHoursLost(h.Node.Work, r.now)
			able = append(able, h)
		}
	}
	standing := 0
	for _, k := range r.kinds {
		standing += min(k.Standby, k.standing)
	}
	surplus := max(r.ready-r.base-standing, r.ready-r.most)
	tooMany := r.ready > r.most // which those that stand by are no exception to
	room := newRooms(r.hosts)
	line(able, offRules)
	spread(able, offRules, -1)
	for i, h := range able {
		if surplus <= 0 || r.draining >= r.l.MaxDraining {
			return
		}
		switch {
		case !h.loaded() && h.kind.standing <= h.kind.Standby && !tooMany:
			h.passed = fmt.Sprintf("%d of class %s stand by", h.kind.Standby, h.Host.Class)
			continue
		case !room[h.Host.Class].move(h):
			h.passed = "its work fits on no other host of its class"
			continue
		case !h.loaded():
			h.kind.standing--
		}
		why := fmt.Sprintf("%d wanted, %d in service, and %s", r.d.Want, r.d.Ready, load(h))
		if i+1 < len(able) {
			why += "; " + because(offRules, h, able[i+1])
		}
		r.act(h, Cordon, why)
		surplus--
	}
	if surplus > 0 {
		r.note("%d more in service than wanted%s", surplus, passedOver(", but %s stays: %s", serving))
	}
}

// mustStay says why a host in service cannot leave it for want of demand;
// empty if it can.
func (r *reconciler) mustStay(h *host) string {
	if h.Said.Word == WordOn {
		return h.Said.String()
	}
	if h.Self {
		return ownHost
	}
	if !h.powerReadable(r.now, r.l) {
		return "its power cannot be read, so it could not be powered off"
	}
	if movable, why := h.movable(r.l); !movable {
		return why
	}
	if h.loaded() && r.l.standby() > 0 {
		// It would be replaced at once, and surplus again, and so on for ever.
		return "its work could land on a host that stands by"
	}
	if h.loaded() && h.Verb == Enable && r.now.Sub(h.Intent.At) < r.l.BootTimeout {
		// Work that found no other place comes back with the demand that it is.
		return fmt.Sprintf("it has work, and was put in service less than %s ago", r.l.BootTimeout)
	}
	if unused, why := h.unused(r.now, r.l); !unused {
		return why
	}
	if h.tooYoung(r.now, r.l) {
		return fmt.Sprintf("it is on for at least %s", r.l.MinOn)
	}
	return ""
}

func load(h *host) string {
	if !h.loaded() {
		return "it has no work"
	}
	return fmt.Sprintf("its work may be moved: %s%s", h.Node.Work[0], more(len(h.Node.Work)-1))
}

// room is how many hosts in service have so many GPUs free, by that number.
type room []int

// newRooms is the room on the hosts of each class. What work needs besides
// GPUs nobody here knows; hosts of the class that it runs on are likely to have
// it.
func newRooms(hosts []*host) map[string]room {
	rooms := make(map[string]room)
	for _, h := range hosts {
		if free := h.spare(); h.Phase == Ready && !h.busy && free >= 0 {
			r := rooms[h.Host.Class]
			for len(r) <= free {
				r = append(r, 0)
			}
			r[free]++
			rooms[h.Host.Class] = r
		}
	}
	return rooms
}

// move takes a host and its work out of service, if all of the work fits
// elsewhere, each allocation where the fewest GPUs are left over. If not,
// nothing changes.
func (r room) move(h *host) bool {
	free := h.spare()
	if free < 0 {
		return false
	}
	r[free]--
	var from, to []int // what was placed, to be undone
	for _, a := range h.Node.Work {
		at := a.GPUs
		for at < len(r) && r[at] == 0 {
			at++
		}
		if at >= len(r) {
			for i := range from {
				r[to[i]]--
				r[from[i]]++
			}
			r[free]++
			return false
		}
		r[at]--
		r[at-a.GPUs]++
		from, to = append(from, at), append(to, at-a.GPUs)
	}
	return true
}
