package gpu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gpupool/gpupool/agent/health"
	"github.com/gpupool/gpupool/agent/proc"
	"github.com/gpupool/gpupool/internal/fleet"
)

// Times of a GPU, in sampling periods.
const (
	staleAfter        = 3  // without a sample until it is stale,
	unresponsiveAfter = 10 // and unresponsive
	reopenAfter       = 10 // from one attempt to open a GPU to the next
)

// windows are the spans over which the busy ratio is summed up, longWindows
// those of what is read in the medium tier, and history is the longest.
var (
	windows     = []time.Duration{10 * time.Second, time.Minute, history}
	longWindows = []time.Duration{time.Minute, history}
)

const history = 5 * time.Minute

// reading is when a probe last succeeded.
type reading struct {
	at  time.Time // zero if it never did
	err error     // what the last attempt said
}

// slot is one GPU during one epoch of the driver.
type slot struct {
	index  int
	epoch  int
	period time.Duration
	owner  func(pid int) proc.Owner
	pasts  *pasts
	log    *slog.Logger

	// hurry is set when the next sample is to read everything.
	hurry atomic.Bool

	// Only run uses these.
	device   Device    // nil until it is opened
	reopenAt time.Time // not before
	samples  busySamples
	shown    fleet.GPU // what is being looked at for being plausible; 3 kB that are used again
	energy   struct {
		joules float64
		at     time.Time
	}

	mu       sync.Mutex // never held over a call
	identity Identity
	past     *past     // nil until it was opened
	began    time.Time // when the slot was made
	good     time.Time // when the last good sample began
	lost     bool
	err      error     // what went wrong last
	watch    error     // why its events are not recorded
	facts    facts     // changed by run only, which may read it without mu
	readings []reading // of the probes
	busy     ring      // Busy
	sm       ring      // Activity.SM
	power    ring      // mean watts between two readings
	throttle ring      // masks
}

func newSlot(index, epoch int, now time.Time, cfg Config, pasts *pasts) *slot {
	return &slot{
		index:    index,
		epoch:    epoch,
		period:   cfg.Period,
		owner:    cfg.Owner,
		pasts:    pasts,
		log:      cfg.Log,
		began:    now,
		readings: make([]reading, len(probes)),
		busy:     newRing(cfg.Period),
		sm:       newRing(medium * cfg.Period),
		power:    newRing(medium * cfg.Period),
		throttle: newRing(cfg.Period),
	}
}

// run samples until ctx ends. It is the only goroutine that calls the driver
// for this GPU, so a call that hangs is the last one.
func (s *slot) run(ctx context.Context, driver Driver) {
	ticker := time.NewTicker(s.period)
	defer ticker.Stop()
	defer s.close()
	for n := 0; ; {
		if s.open(driver, time.Now()) {
			s.sample(ctx, n)
			n++
		} else {
			n = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (s *slot) close() {
	if s.device != nil {
		s.device.Close()
		s.device = nil
	}
}

// open makes sure that there is a device. One that was lost is tried again
// in a while, because whatever brings it back takes longer.
func (s *slot) open(driver Driver, now time.Time) bool {
	if s.device != nil {
		return true
	}
	if now.Before(s.reopenAt) {
		return false
	}
	s.reopenAt = now.Add(reopenAfter * s.period)
	device, err := driver.Open(s.index)
	if err != nil {
		s.failed(err)
		return false
	}
	s.device = device
	identity, err := device.Identity()
	if err != nil {
		s.failed(err)
		s.close()
		return false
	}
	watch := device.Watch()
	past := s.pasts.of(identity, s.index, s.epoch)
	s.samples = busySamples{}
	s.energy.at = time.Time{}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost && s.past != nil {
		past.cameBack()
	}
	s.identity, s.past, s.watch, s.lost, s.err = identity, past, watch, false, nil
	return true
}

// sample makes the probes that are due in the nth sample since the device was
// opened, and stops at the first that says the GPU or the driver is gone.
func (s *slot) sample(ctx context.Context, n int) {
	began := time.Now()
	good := false
	var failure error
	all := s.hurry.Swap(false)
	for i, p := range probes {
		if ctx.Err() != nil {
			return
		}
		if n%p.every != 0 && !all {
			continue
		}
		switch err := s.probe(i); {
		case errors.Is(err, ErrLost), errors.Is(err, ErrGone):
			s.failed(err)
			return
		case err == nil, errors.Is(err, errNotYet):
			good = true
		case !errors.Is(err, ErrUnsupported) && !errors.Is(err, errNothing):
			failure = err
		}
	}
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = failure
	if good {
		s.good = began
	}
}

// probe makes one probe and keeps what it answers.
func (s *slot) probe(i int) error {
	at := time.Now()
	next := s.facts
	err := probes[i].read(s, &next)
	if err == nil {
		err = s.plausible(i, &next)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.readings[i]
	switch {
	case err == nil:
		s.facts, *r = next, reading{at: at}
	case errors.Is(err, errNotYet), errors.Is(err, errNothing):
		r.err = nil
	default:
		r.err = err
	}
	return err
}

// plausible refuses facts that no reader would believe. A driver that tells one
// absurd number must not cost the host all others.
func (s *slot) plausible(i int, f *facts) error {
	s.shown = fleet.GPU{}
	showMIG(f, fleet.Read{Quality: fleet.QualityOK}, &s.shown) // which others add to
	probes[i].show(f, fleet.Read{Quality: fleet.QualityOK}, &s.shown)
	if err := s.shown.Check(); err != nil {
		return fmt.Errorf("the driver tells what cannot be: %w", err)
	}
	return nil
}

// busySamples is how far the driver's samples of the busy share were read.
type busySamples struct {
	since uint64 // the newest that was seen; 0 for none
	none  int    // readings in a row without a newer one
	never bool   // the driver keeps none
}

// forgetAfter readings without a newer sample the next is taken as it comes:
// the driver's clock was set back.
const forgetAfter = 10

// readBusy takes the mean of the driver's samples since the reading before,
// which misses nothing in between. Where there are none, it takes the driver's
// own short look back.
func (s *slot) readBusy(f *facts) error {
	at := time.Now()
	share, found, err := s.busySince()
	if !found && err == nil {
		share, err = s.device.Number(Busy)
	}
	if err != nil {
		return err
	}
	f.numbers[Busy] = share
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy.add(at, share)
	return nil
}

// busySince is the mean of the driver's new samples, if there are any. Only an
// error that ends the sample is one here.
func (s *slot) busySince() (share float64, found bool, err error) {
	b := &s.samples
	if b.never {
		return 0, false, nil
	}
	samples, err := s.device.BusySamples(b.since)
	switch {
	case errors.Is(err, ErrLost), errors.Is(err, ErrGone):
		return 0, false, err
	case errors.Is(err, ErrUnsupported):
		b.never = true
		return 0, false, nil
	}
	newest := b.since
	for _, x := range samples {
		newest = max(newest, x.At)
	}
	from := b.since
	if from == 0 { // the first reading is of the last period, not of the driver's whole past
		from = newest - min(newest, uint64(s.period.Microseconds()))
	}
	n, sum := 0.0, 0.0
	for _, x := range samples {
		if x.At > from {
			n, sum = n+1, sum+x.Share
		}
	}
	if n == 0 {
		if b.none++; b.none >= forgetAfter {
			*b = busySamples{}
		}
		return 0, false, nil
	}
	b.since, b.none = newest, 0
	return min(1, max(0, rounded(sum/n))), true, nil
}

// readThrottle reads the reasons for lowered clocks, and counts the time since
// the reading before as theirs.
func (s *slot) readThrottle(f *facts) error {
	at := time.Now()
	v, err := s.device.Number(Throttling)
	if err != nil {
		return err
	}
	mask := uint64(v) & (1<<31 - 1) // as many names as a snapshot can have
	f.numbers[Throttling] = float64(mask)
	s.mu.Lock()
	defer s.mu.Unlock()
	since := s.period
	if s.throttle.n > 0 {
		last := s.throttle.samples[(s.throttle.next-1+len(s.throttle.samples))%len(s.throttle.samples)]
		since = min(at.Sub(last.at), staleAfter*s.period)
	}
	s.past.slowed(mask, since)
	s.throttle.add(at, float64(mask))
	return nil
}

// readEnergy reads the energy counter, and the mean power since the reading
// before.
func (s *slot) readEnergy(f *facts) error {
	at := time.Now()
	v, err := s.device.Number(Energy)
	if err != nil {
		s.energy.at = time.Time{}
		return err
	}
	total := s.past.used(v)
	f.numbers[Energy] = total
	before := s.energy
	s.energy.joules, s.energy.at = total, at
	if before.at.IsZero() || !at.After(before.at) || total < before.joules {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.power.add(at, rounded((total-before.joules)/at.Sub(before.at).Seconds()))
	return nil
}

// readPower reads the present power, which stands for that since the reading
// before where there is no energy counter.
func (s *slot) readPower(f *facts) error {
	at := time.Now()
	v, err := s.device.Number(Power)
	if err != nil {
		return err
	}
	f.numbers[Power] = v
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.energy.at.IsZero() {
		s.power.add(at, v)
	}
	return nil
}

// readProcesses asks who uses the GPU and whom they belong to.
func (s *slot) readProcesses(f *facts) error {
	all, err := s.device.Processes()
	if err != nil {
		return err
	}
	found := processes{total: len(all), parts: map[string]count{}}
	var inside []fleet.Process
	for _, p := range all {
		owner := s.owner(p.PID)
		q := fleet.Process{PID: p.PID, Comm: owner.Comm, Alloc: owner.Alloc, Task: owner.Task, MIG: f.mig.part(p)}
		q.Foreign = owner.Foreign(s.identity.UUID, q.MIG)
		if owner.Err != nil {
			q.Why = owner.Err.Error()
		}
		if p.Memory != nil {
			bytes := int64(*p.Memory)
			q.Memory = &bytes
		}
		c := found.parts[q.MIG]
		c.total++
		if q.Alloc != "" {
			inside = append(inside, q)
		} else {
			found.list = append(found.list, q)
			found.outside++
			c.outside++
		}
		found.parts[q.MIG] = c
	}
	found.list = append(found.list, inside...)
	found.list = found.list[:min(len(found.list), fleet.MaxProcesses)]
	f.processes = found
	return nil
}

// part is the UUID of the MIG device that a process runs on, if any.
func (m MIG) part(p Process) string {
	i := slices.IndexFunc(m.Parts, func(x Part) bool {
		return x.GPUInstance == p.GPUInstance && x.ComputeInstance == p.ComputeInstance
	})
	if i < 0 {
		return ""
	}
	return m.Parts[i].UUID
}

// event takes what the driver reported.
func (s *slot) event(e Event, now time.Time) {
	s.hurry.Store(true)
	past := s.remembered()
	if e.XID == 0 || past == nil {
		return
	}
	if past.error(e.XID, now) {
		rule := health.Find(e.XID)
		s.log.Warn("the GPU driver reports an error", "gpu", past.identity.UUID, "xid", e.XID, "class", rule.Class, "what", rule.What)
	}
}

// failed records that the GPU could not be opened or sampled.
func (s *slot) failed(err error) {
	lost := errors.Is(err, ErrLost)
	if lost {
		s.close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost, s.err = lost, err
}

// view is a GPU as it is now.
func (s *slot) view(now time.Time) fleet.GPU {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := fleet.GPU{Index: s.index, UUID: s.identity.UUID, Name: s.identity.Name, PCI: s.identity.PCI}
	g.State, g.Why = s.state(now)
	if !s.good.IsZero() {
		age := seconds(now, s.good)
		g.Age = &age
	}
	for i, p := range probes {
		p.show(&s.facts, s.read(now, s.readings[i], p.every), &g)
	}
	g.XIDs.Quality = s.read(now, reading{at: now, err: s.watch}, 1).Quality
	switch {
	case s.past == nil:
		g.XIDs.Quality = fleet.QualityUnknown
	case s.watch != nil && g.XIDs.Quality == fleet.QualityOK:
		g.XIDs.Quality = fleet.QualityFailed
	}
	if s.lost && errors.Is(s.err, ErrResetRequired) {
		g.Recovery = fleet.Recovery{Read: fleet.Read{Quality: fleet.QualityOK}, Action: "reset"}
	}
	if !s.lost {
		g.BusyOver = s.busy.windows(now, windows)
		g.SMOver = s.sm.windows(now, longWindows)
		g.PowerOver = s.power.windows(now, longWindows)
	}
	if g.Throttle.Known() {
		for _, span := range longWindows {
			g.Throttle.Over = append(g.Throttle.Over, fleet.ThrottleWindow{Seconds: span.Seconds(), Shares: s.throttle.shares(now, span)})
		}
	}
	if s.past != nil {
		s.past.show(&g, now)
	}
	g.Health = health.Judge(g)
	return g
}

// state judges the GPU by how long ago it last answered.
func (s *slot) state(now time.Time) (state fleet.State, why string) {
	if s.lost {
		return fleet.StateLost, s.err.Error()
	}
	silent := now.Sub(s.good)
	if s.good.IsZero() {
		silent = now.Sub(s.began)
	}
	why = "the driver does not answer"
	if s.err != nil {
		why = s.err.Error()
	}
	switch {
	case silent >= unresponsiveAfter*s.period:
		return fleet.StateUnresponsive, why
	case s.good.IsZero():
		return fleet.StateUnknown, "not sampled yet"
	case silent >= staleAfter*s.period:
		return fleet.StateStale, why
	}
	return fleet.StateOK, ""
}

// read judges what is read once in so many samples.
func (s *slot) read(now time.Time, r reading, every int) fleet.Read {
	switch {
	case s.lost:
		return fleet.Read{Quality: fleet.QualityLost}
	case errors.Is(r.err, ErrUnsupported):
		return fleet.Read{Quality: fleet.QualityUnsupported}
	case r.at.IsZero() && r.err == nil:
		return fleet.Read{Quality: fleet.QualityUnknown}
	case r.at.IsZero():
		return fleet.Read{Quality: fleet.QualityFailed}
	case now.Sub(r.at) >= staleAfter*s.period*time.Duration(every):
		return fleet.Read{Quality: fleet.QualityStale, Age: seconds(now, r.at)}
	}
	return fleet.Read{Quality: fleet.QualityOK, Age: seconds(now, r.at)}
}

// rounded is a mean without the digits that no driver measured.
func rounded(x float64) float64 { return math.Round(x*1e4) / 1e4 }

// seconds is an age to the millisecond.
func seconds(now, then time.Time) float64 {
	return max(0, now.Sub(then).Round(time.Millisecond).Seconds())
}

// status is the GPU's state, and whether the driver forgot that it was
// initialised.
func (s *slot) status(now time.Time) (state fleet.State, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, _ = s.state(now)
	return state, errors.Is(s.err, ErrGone)
}

// remembered is the GPU's past, or nil if it did not answer in this epoch.
func (s *slot) remembered() *past {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.past
}

// describe names the GPU in messages.
func describe(g fleet.GPU) string {
	if g.UUID != "" {
		return g.UUID
	}
	return fmt.Sprintf("GPU %d", g.Index)
}
