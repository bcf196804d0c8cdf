package gpu

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gpupool/gpupool/agent/proc"
	"github.com/gpupool/gpupool/internal/fleet"
)

// signal is one number that is sampled.
type signal int

const (
	busy signal = iota
	memoryUsed
	memoryReserved
	memoryTotal
	power
	temperature
	signals // how many there are
)

// probe is one call to the driver and the signals that it answers.
type probe struct {
	every   int // samples from one call to the next
	signals []signal
	read    func(d Device, set func(signal, float64)) error
}

// probes are in the order in which a sample makes them. What changes slowly
// or costs the driver more is asked more seldom.
var probes = []probe{
	{1, []signal{busy}, func(d Device, set func(signal, float64)) error {
		v, err := d.Busy()
		set(busy, v)
		return err
	}},
	{1, []signal{memoryUsed, memoryReserved, memoryTotal}, func(d Device, set func(signal, float64)) error {
		m, err := d.Memory()
		set(memoryUsed, float64(m.Used))
		set(memoryTotal, float64(m.Total))
		if m.Reserved != nil {
			set(memoryReserved, float64(*m.Reserved))
		}
		return err
	}},
	{10, []signal{power}, func(d Device, set func(signal, float64)) error {
		v, err := d.Power()
		set(power, v)
		return err
	}},
	{10, []signal{temperature}, func(d Device, set func(signal, float64)) error {
		v, err := d.Temperature()
		set(temperature, v)
		return err
	}},
}

// everyOf is how many samples apart a signal is read.
var everyOf = func() (every [signals]int) {
	for _, p := range probes {
		for _, s := range p.signals {
			every[s] = p.every
		}
	}
	return every
}()

// Times of a GPU, in sampling periods.
const (
	staleAfter        = 3  // without a sample until it is stale,
	unresponsiveAfter = 10 // and unresponsive
	reopenAfter       = 10 // from one attempt to open a GPU to the next
)

// windows are the spans over which the busy ratio is summed up, and history
// is the longest.
var windows = []time.Duration{10 * time.Second, time.Minute, history}

const history = 5 * time.Minute

// reading is the last that is known of a signal.
type reading struct {
	value float64
	at    time.Time // when value was read; zero if it never was
	err   error     // what the last attempt to read it said
}

// processes is the last that is known of who uses a GPU.
type processes struct {
	list    []fleet.Process // those outside first, at most fleet.MaxProcesses
	total   int
	outside int
	at      time.Time
	err     error
}

// slot is one GPU during one epoch of the driver.
type slot struct {
	index  int
	period time.Duration
	owner  func(pid int) proc.Owner

	device   Device    // nil until it is opened; only run uses it
	reopenAt time.Time // not before

	mu       sync.Mutex // never held over a call
	identity Identity
	began    time.Time // when the slot was made
	good     time.Time // when the last good sample began
	lost     bool
	err      error // what went wrong last
	readings [signals]reading
	busy     ring
	procs    processes
}

func newSlot(index int, now time.Time, cfg Config) *slot {
	return &slot{
		index:  index,
		period: cfg.Period,
		owner:  cfg.Owner,
		began:  now,
		busy:   newRing(int(history / cfg.Period)),
	}
}

// run samples until ctx ends. It is the only goroutine that calls the driver
// for this GPU, so a call that hangs is the last one.
func (s *slot) run(ctx context.Context, driver Driver) {
	ticker := time.NewTicker(s.period)
	defer ticker.Stop()
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
	var identity Identity
	if err == nil {
		identity, err = device.Identity()
	}
	if err != nil {
		s.failed(err)
		return false
	}
	s.device = device
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity, s.lost, s.err = identity, false, nil
	return true
}

// sample makes the calls that are due in the nth sample since the device was
// opened, and stops at the first that says the GPU or the driver is gone.
func (s *slot) sample(ctx context.Context, n int) {
	began := time.Now()
	good := false
	var failure error
	for _, p := range probes {
		if ctx.Err() != nil {
			return
		}
		if n%p.every != 0 {
			continue
		}
		err := s.probe(p)
		if errors.Is(err, ErrLost) || errors.Is(err, ErrGone) {
			s.failed(err)
			return
		}
		if err == nil {
			good = true
		} else if !errors.Is(err, ErrUnsupported) {
			failure = err
		}
	}
	if ctx.Err() != nil {
		return
	}
	switch err := s.readProcesses(); {
	case errors.Is(err, ErrLost), errors.Is(err, ErrGone):
		s.failed(err)
		return
	case err == nil:
		good = true
	case !errors.Is(err, ErrUnsupported):
		failure = err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = failure
	if good {
		s.good = began
	}
}

// probe makes one call and keeps what it answers.
func (s *slot) probe(p probe) error {
	at := time.Now()
	var got [signals]struct {
		value float64
		set   bool
	}
	err := p.read(s.device, func(sig signal, v float64) {
		got[sig].value, got[sig].set = v, true
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sig := range p.signals {
		switch r := &s.readings[sig]; {
		case err != nil:
			r.err = err
		case !got[sig].set:
			r.err = ErrUnsupported
		default:
			*r = reading{value: got[sig].value, at: at}
		}
	}
	if r := s.readings[busy]; err == nil && got[busy].set {
		s.busy.add(at, r.value)
	}
	return err
}

// readProcesses asks who uses the GPU and whom they belong to.
func (s *slot) readProcesses() error {
	at := time.Now()
	all, err := s.device.Processes()
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.procs.err = err
		return err
	}
	found := processes{total: len(all), at: at}
	var inside []fleet.Process
	for _, p := range all {
		owner := s.owner(p.PID)
		q := fleet.Process{PID: p.PID, Comm: owner.Comm, Alloc: owner.Alloc, Task: owner.Task}
		if owner.Err != nil {
			q.Why = owner.Err.Error()
		}
		if p.Memory != nil {
			bytes := int64(*p.Memory)
			q.Memory = &bytes
		}
		if q.Alloc != "" {
			inside = append(inside, q)
			continue
		}
		found.list = append(found.list, q)
		found.outside++
	}
	found.list = append(found.list, inside...)
	found.list = found.list[:min(len(found.list), fleet.MaxProcesses)]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.procs = found
	return nil
}

// failed records that the GPU could not be opened or sampled.
func (s *slot) failed(err error) {
	lost := errors.Is(err, ErrLost)
	if lost {
		s.device = nil
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
	for sig, to := range map[signal]*fleet.Value{
		busy:           &g.Busy,
		memoryUsed:     &g.MemoryUsed,
		memoryReserved: &g.MemoryReserved,
		memoryTotal:    &g.MemoryTotal,
		power:          &g.Power,
		temperature:    &g.Temperature,
	} {
		*to = s.value(now, sig)
	}
	if !s.lost {
		for _, span := range windows {
			if w, ok := s.busy.window(now, span, s.period); ok {
				g.BusyOver = append(g.BusyOver, w)
			}
		}
	}
	g.Processes = s.processes(now)
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

// value is a signal with its age and quality.
func (s *slot) value(now time.Time, sig signal) fleet.Value {
	r := s.readings[sig]
	quality := s.quality(now, r.at, r.err, everyOf[sig])
	v := fleet.Value{Quality: quality}
	if quality == fleet.QualityOK || quality == fleet.QualityStale {
		v.Value, v.Age = &r.value, seconds(now, r.at)
	}
	return v
}

func (s *slot) processes(now time.Time) fleet.Processes {
	quality := s.quality(now, s.procs.at, s.procs.err, 1)
	p := fleet.Processes{Quality: quality}
	if quality == fleet.QualityOK || quality == fleet.QualityStale {
		p.Age = seconds(now, s.procs.at)
		p.Total, p.Outside, p.List = s.procs.total, s.procs.outside, s.procs.list
	}
	return p
}

// quality judges what was read at a time, once in so many samples.
func (s *slot) quality(now, at time.Time, err error, every int) fleet.Quality {
	switch {
	case s.lost:
		return fleet.QualityLost
	case errors.Is(err, ErrUnsupported):
		return fleet.QualityUnsupported
	case at.IsZero() && err == nil:
		return fleet.QualityUnknown
	case at.IsZero():
		return fleet.QualityFailed
	case now.Sub(at) >= staleAfter*s.period*time.Duration(every):
		return fleet.QualityStale
	}
	return fleet.QualityOK
}

// seconds is an age to the millisecond.
func seconds(now, then time.Time) float64 {
	return max(0, now.Sub(then).Round(time.Millisecond).Seconds())
}

// gone says that the driver forgot that it was initialised.
func (s *slot) gone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Is(s.err, ErrGone)
}

// describe names the GPU in messages.
func describe(g fleet.GPU) string {
	if g.UUID != "" {
		return g.UUID
	}
	return fmt.Sprintf("GPU %d", g.Index)
}
