package gpu

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gpupool/gpupool/agent/health"
	"github.com/gpupool/gpupool/internal/fleet"
)

// pasts are what is remembered of the GPUs, by UUID, as long as the agent runs.
type pasts struct {
	mu  sync.Mutex
	all map[string]*past
}

// maxPasts bounds how many GPUs are remembered. A host sees more of them than
// it has slots for only while boards are swapped under a running agent.
const maxPasts = 4 * fleet.MaxGPUs

// of is the past of a GPU that answers in an epoch of the driver. A GPU that
// the driver was initialised anew for has begun a new life.
func (ps *pasts) of(id Identity, index, epoch int) *past {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.all[id.UUID]
	if p == nil {
		p = &past{epoch: epoch, xids: map[int]*xid{}}
		if len(ps.all) < maxPasts {
			ps.all[id.UUID] = p
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoch != epoch {
		p.renew()
	}
	p.identity, p.index, p.epoch = id, index, epoch
	return p
}

// list is all pasts, sorted by UUID.
func (ps *pasts) list() []*past {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	all := make([]*past, 0, len(ps.all))
	for _, uuid := range slices.Sorted(maps.Keys(ps.all)) {
		all = append(all, ps.all[uuid])
	}
	return all
}

// past is what is remembered of one GPU.
type past struct {
	mu        sync.Mutex // never held over a call
	identity  Identity
	index     int // in the last epoch that it answered in
	epoch     int
	xids      map[int]*xid // by code, at most fleet.MaxXIDs
	energy    meter
	throttled map[string]float64 // seconds, by reason
}

// xid is one kind of error of one GPU.
type xid struct {
	count    int64
	last     time.Time
	open     bool
	relapses int
}

// error counts an XID. It says whether that is worth telling people, which a
// repetition is not.
func (p *past) error(code int, now time.Time) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.xids[code]
	if x == nil {
		if len(p.xids) >= fleet.MaxXIDs {
			return false
		}
		x = &xid{}
		p.xids[code] = x
	}
	news = x.count == 0
	if opens(code) && !x.open {
		if x.count > 0 {
			x.relapses++
		}
		x.open, news = true, true
	}
	x.count++
	x.last = now
	return news
}

// opens says whether an XID stays open until something is done.
func opens(code int) bool {
	c := health.Find(code).Class
	return c != fleet.XIDNone && c != fleet.XIDApplication
}

// cameBack records that the GPU was lost and answers again.
func (p *past) cameBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.renew()
}

// renew ends the errors that a reset ends, with p.mu held. What hands must
// mend stays open until the agent is started anew.
func (p *past) renew() {
	for code, x := range p.xids {
		if health.Find(code).Class != fleet.XIDReplace {
			x.open = false
		}
	}
}

// used takes a reading of the driver's energy counter and returns the total.
// The counter starts over when the GPU is reset, which ends its errors.
func (p *past) used(joules float64) (total float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	total, restarted := p.energy.total(joules)
	if restarted {
		p.renew()
	}
	return total
}

// slowed adds time in which the clocks were lowered for the reasons in a mask.
func (p *past) slowed(mask uint64, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.throttled == nil {
		p.throttled = map[string]float64{}
	}
	for _, reason := range reasons(mask) {
		p.throttled[reason] += d.Seconds()
	}
}

// show adds to a GPU what is remembered of it.
func (p *past) show(g *fleet.GPU, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for code, x := range p.xids {
		g.XIDs.List = append(g.XIDs.List, fleet.XID{
			Code: code, Class: health.Find(code).Class,
			Count: x.count, Age: seconds(now, x.last), Open: x.open, Relapses: x.relapses,
		})
	}
	slices.SortFunc(g.XIDs.List, func(a, b fleet.XID) int { return cmp.Compare(a.Code, b.Code) })
	if g.Throttle.Known() && len(p.throttled) > 0 {
		g.Throttle.Total = make(map[string]float64, len(p.throttled))
		for reason, seconds := range p.throttled {
			g.Throttle.Total[reason] = rounded(seconds)
		}
	}
}

// meter makes a total that never goes down of a counter that starts over.
type meter struct {
	before float64 // what was counted until the counter last started over
	last   float64 // the counter's last reading
}

func (m *meter) total(reading float64) (total float64, restarted bool) {
	if reading < m.last {
		m.before += m.last
		restarted = true
	}
	m.last = reading
	return m.before + reading, restarted
}
