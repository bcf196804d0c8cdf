package gpu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/gpupool/gpupool/agent/health"
	"github.com/gpupool/gpupool/agent/proc"
	"github.com/gpupool/gpupool/internal/fleet"
)

// Config is what a [Sampler] needs.
type Config struct {
	Driver Driver
	// Owner finds the owner of a process by its PID. It may block.
	Owner func(pid int) proc.Owner
	// Period is the time from one sample of a GPU to the next, 100 ms to 10 s.
	Period time.Duration
	// Log gets changes of the driver's state.
	Log *slog.Logger
}

// Sampler watches the GPUs of one host through their driver. Its driver goes
// round these states, which [fleet.Driver] shows:
//
//   - starting, until Init first returns;
//   - ok: every GPU is sampled. It ends when the driver says that it is not
//     initialised any more, or when it has no GPU that is not lost;
//   - no-gpu: Init failed, or is about to be called again after an ok that
//     ended. Tried again after 5 s, doubling up to a minute.
type Sampler struct {
	cfg Config

	pasts pasts // of the GPUs that answered in any epoch

	mu     sync.Mutex // never held over a call to the driver
	driver fleet.Driver
	empty  bool // there is no driver or no GPU that anything could run on
	slots  []*slot
}

// New makes a sampler, which does nothing until [Sampler.Run].
func New(cfg Config) *Sampler {
	return &Sampler{
		cfg:    cfg,
		driver: fleet.Driver{State: fleet.DriverStarting, Why: "the driver has not answered yet"},
		pasts:  pasts{all: map[string]*past{}},
	}
}

var errNoGPU = errors.New("the driver has no GPU")

// Back-off between attempts to initialise the driver.
const (
	firstRetry = 5 * time.Second
	lastRetry  = time.Minute
)

// Run samples until ctx ends and the driver is shut down, or until the driver
// can be had in a new process only, which the error says. While a call to the
// driver hangs, Run does not return.
func (s *Sampler) Run(ctx context.Context) error {
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		sampled, why := s.epoch(ctx)
		if errors.Is(why, ErrReplaced) {
			return why
		}
		if sampled {
			retry = firstRetry
		}
		if ctx.Err() == nil {
			s.none(why)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
	}
}

// epoch is one time round the driver's states: it samples until ctx ends, or
// until the driver cannot be had or is worth initialising anew, which why
// says. sampled is whether any GPU gave a good sample.
func (s *Sampler) epoch(ctx context.Context) (sampled bool, why error) {
	if err := s.begin(); err != nil {
		return false, err
	}
	sampled, why = s.sample(ctx)
	_ = s.cfg.Driver.Shutdown() // whatever it says, Init is next
	return sampled, why
}

// begin initialises the driver and makes a slot for each of its GPUs.
func (s *Sampler) begin() error {
	if err := s.cfg.Driver.Init(); err != nil {
		return err
	}
	count, err := s.cfg.Driver.Count()
	if err == nil && count > fleet.MaxGPUs {
		err = fmt.Errorf("the driver offers %d GPUs, more than %d", count, fleet.MaxGPUs)
	}
	if err != nil {
		_ = s.cfg.Driver.Shutdown() // the error of Count is the one that counts
		return err
	}
	version, err := s.cfg.Driver.Version()
	if err != nil {
		s.cfg.Log.Warn("GPU driver does not tell its version", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.driver = fleet.Driver{State: fleet.DriverOK, Version: version, Epoch: s.driver.Epoch + 1}
	slots := make([]*slot, count)
	for i := range slots {
		slots[i] = newSlot(i, s.driver.Epoch, time.Now(), s.cfg, &s.pasts)
	}
	s.slots, s.empty = slots, false
	s.cfg.Log.Info("GPU driver is initialised", "version", version, "gpus", count, "epoch", s.driver.Epoch)
	return nil
}

// sample runs every GPU's goroutine, and watches them.
func (s *Sampler) sample(ctx context.Context) (sampled bool, why error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var workers sync.WaitGroup
	for _, slot := range s.slots {
		workers.Go(func() { slot.run(ctx, s.cfg.Driver) })
	}
	workers.Go(func() { s.listen(ctx, s.slots) })
	ticker := time.NewTicker(s.cfg.Period)
	defer ticker.Stop()
	for ctx.Err() == nil && why == nil {
		select {
		case <-ctx.Done():
		case now := <-ticker.C:
			var good bool
			good, why = s.look(now)
			sampled = sampled || good
		}
	}
	stop()
	workers.Wait() // no shutdown while a call is in progress
	return sampled, why
}

// patience is how long the driver is waited for at a time. It bounds how long
// Run takes to return.
const patience = time.Second

// listen gives the driver's events to the GPUs that they are about, until ctx
// ends or the driver turns out to have none.
func (s *Sampler) listen(ctx context.Context, slots []*slot) {
	for ctx.Err() == nil {
		asked := time.Now()
		event, ok, err := s.cfg.Driver.Wait(patience)
		switch {
		case errors.Is(err, ErrUnsupported):
			return
		case ok && event.Index >= 0 && event.Index < len(slots):
			slots[event.Index].event(event, time.Now())
		case ok:
			s.cfg.Log.Warn("the GPU driver reports an error without a GPU", "xid", event.XID)
		default: // a driver that does not wait must not be asked all the time
			select {
			case <-ctx.Done():
			case <-time.After(time.Until(asked.Add(patience))):
			}
		}
	}
}

// look says whether any GPU answers, and why the driver should be initialised
// anew, if it should.
func (s *Sampler) look(now time.Time) (sampled bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := 0
	for _, slot := range s.slots {
		switch state, gone := slot.status(now); {
		case gone:
			return sampled, fmt.Errorf("GPU %d: %w", slot.index, ErrGone)
		case state == fleet.StateLost:
			lost++
		case state == fleet.StateOK:
			sampled = true
		}
	}
	switch {
	case len(s.slots) == 0:
		return sampled, errNoGPU
	case lost == len(s.slots):
		return sampled, fmt.Errorf("%w: all %d of them", ErrLost, lost)
	}
	return sampled, nil
}

// none records that there is no driver to ask, and logs it when it is news.
func (s *Sampler) none(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.driver
	s.driver = fleet.Driver{State: fleet.DriverNone, Why: err.Error(), Code: codeOf(err), Epoch: before.Epoch}
	s.empty = errors.Is(err, ErrNotLoaded) || errors.Is(err, ErrLost) || errors.Is(err, errNoGPU)
	if s.driver != before {
		s.cfg.Log.Warn("no GPU driver, will try again", "error", err)
	}
}

// Snapshot is the host as it is at now: the driver, its GPUs and the work
// outside Nomad. The other fields are for the caller to fill in.
func (s *Sampler) Snapshot(now time.Time) fleet.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	snapshot := fleet.Snapshot{Schema: fleet.Schema, At: now, Driver: s.driver, GPUs: s.gpus(now)}
	snapshot.Outside = outside(snapshot, s.empty)
	return snapshot
}

// gpus are the GPUs of this epoch and those that only an earlier one had,
// which are lost.
func (s *Sampler) gpus(now time.Time) []fleet.GPU {
	gpus := make([]fleet.GPU, 0, len(s.slots))
	present := map[string]bool{}
	for _, slot := range s.slots {
		g := slot.view(now)
		if s.driver.State == fleet.DriverNone {
			g = lostGPU(Identity{g.UUID, g.Name, g.PCI}, g.Index, s.driver.Why)
			if past := slot.remembered(); past != nil {
				g = past.lost(now, s.driver.Why)
			}
		}
		if present[g.UUID] { // what two GPUs say is neither's
			g.UUID = ""
		}
		present[g.UUID] = g.UUID != ""
		gpus = append(gpus, g)
	}
	for _, past := range s.pasts.list() {
		uuid, index := past.who()
		if present[uuid] { // in its slot
			continue
		}
		// One that is lost already when it is opened does not tell its UUID.
		nameless := slices.IndexFunc(gpus, func(o fleet.GPU) bool { return o.UUID == "" && o.Index == index })
		switch {
		case nameless >= 0:
			past.name(&gpus[nameless], now)
		case len(gpus) < fleet.MaxGPUs:
			gpus = append(gpus, past.lost(now, "the driver does not list it any more"))
		}
	}
	slices.SortFunc(gpus, func(a, b fleet.GPU) int { return cmp.Or(a.Index-b.Index, cmp.Compare(a.UUID, b.UUID)) })
	return gpus
}

// lostGPU is a GPU of which nothing but its identity is known.
func lostGPU(id Identity, index int, why string) fleet.GPU {
	g := fleet.GPU{Index: index, UUID: id.UUID, Name: id.Name, PCI: id.PCI, State: fleet.StateLost, Why: why}
	for _, p := range probes {
		p.show(&facts{}, fleet.Read{Quality: fleet.QualityLost}, &g)
	}
	g.XIDs.Quality = fleet.QualityLost
	g.Health = health.Judge(g)
	return g
}

// who is the GPU's UUID, and its last index.
func (p *past) who() (uuid string, index int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.identity.UUID, p.index
}

// lost is the GPU when nothing but its past is known.
func (p *past) lost(now time.Time, why string) fleet.GPU {
	p.mu.Lock()
	id, index := p.identity, p.index
	p.mu.Unlock()
	g := lostGPU(id, index, why)
	p.name(&g, now)
	return g
}

// name adds to a GPU that does not tell who it is what is remembered of it.
func (p *past) name(g *fleet.GPU, now time.Time) {
	p.mu.Lock()
	g.UUID, g.Name, g.PCI = p.identity.UUID, p.identity.Name, p.identity.PCI
	p.mu.Unlock()
	p.show(g, now)
	g.Health = health.Judge(*g)
}

// outside counts the work that belongs to no allocation. It is not known
// while the processes of any GPU are not, unless that GPU cannot have any.
func outside(s fleet.Snapshot, empty bool) fleet.Outside {
	out := fleet.Outside{Known: true}
	unknown := func(why string) {
		if out.Known {
			out.Known, out.Why = false, why
		}
	}
	if s.Driver.State != fleet.DriverOK && !empty {
		unknown(s.Driver.Why)
	}
	for _, g := range s.GPUs {
		out.Processes += g.Processes.Outside
		if g.Processes.Outside > 0 {
			out.GPUs++
		}
		if q := g.Processes.Quality; q != fleet.QualityOK && q != fleet.QualityLost {
			unknown(fmt.Sprintf("processes of %s: %s", describe(g), q))
		}
	}
	return out
}
