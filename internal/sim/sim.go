// Package sim replays demand through scaling policies in a model of a GPU
// pool, and measures what each would have cost and how late it would have
// been, beside an exact lower bound.
//
// # The world
//
// A trace says how many requests arrive each minute. Within the minute they
// arrive unevenly (over-dispersed, seeded). A replica serves [Config.Slots]
// requests at once; what finds no free slot waits, first in first out. The
// service rate follows from [Config.Peak]: the p99.9 minute of the trace keeps
// so many replicas busy. A replica takes work one lead time after its start
// command and is billed from the command to its end, the drain included. The
// lead time is deterministic, because an exponential one, which mathematics
// likes, makes delays look much shorter than fixed boots do; jitter and failed
// starts are options.
//
// Two engines serve the requests, under the same pool of replicas:
//
//   - fluid, the default: requests are an amount. Each tick of five seconds
//     brings a cohort, and the cohorts' waiting times follow exactly from the
//     two piecewise linear curves of arrivals and service. Its cost depends on
//     the length of the trace only, which makes months and tuning affordable.
//   - requests: every request has its own arrival and service time and its own
//     slot. It shows what slots, long requests and drains add, and is the
//     check on the first.
//
// # Policies
//
// A [Policy] sees an [Observation], late, sampled and with holes, and answers
// a [plan.Decision]. Each is a row of the table in policy.go; baselines are one
// file each, baseline_NAME.go, and cite what they follow. The policy called
// predictive is [plan.Decide], the function that the live plugin runs.
//
// # Random numbers
//
// All come from [Config.Seed], by separate streams for arrivals, service,
// starts and lost samples, so that all policies meet the same world and a run
// gives the same answer on every machine.
package sim

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// tick is the time step of the world, and what its durations are rounded to.
const tick = 5 * time.Second

const (
	tickSeconds    = float64(tick) / float64(time.Second)
	ticksPerMinute = int(time.Minute / tick)
	ticksPerDay    = 24 * 60 * ticksPerMinute
)

// Engine is how requests are served.
type Engine string

// The engines.
const (
	Fluid    Engine = "fluid"    // amounts and cohorts; fast
	Requests Engine = "requests" // each request in its slot; exact
)

// Config is the world that policies are tried in. The zero value of each field
// means its default.
type Config struct {
	Engine  Engine        // Fluid
	Peak    float64       // replicas that the p99.9 minute of the trace keeps busy; 40. It sets the service rate
	Slots   int           // requests that a replica serves at once; 8
	Min     int           // fewest replicas; 1, -1 for none
	Max     int           // most replicas; twice Peak
	Lead    time.Duration // from start command to first request served; 5 min
	SLOWait time.Duration // longest wait of a request that is on time; 60 s
	SLO     float64       // share of requests that shall be on time; 0.99
	Warmup  time.Duration // not scored at the start; 24 h, or of traces up to a day 1 h, at most a quarter
	Seed    uint64        // of everything random; 1

	// Tokens makes the work of a request follow the tokens of its minute,
	// where the trace has them: in at PrefillRate plus out at DecodeRate,
	// scaled so that Peak holds. Otherwise all minutes have the same mean.
	Tokens      bool
	PrefillRate float64 // tokens a second and request; 5000
	DecodeRate  float64 // tokens a second and request; 40
	ServiceCV   float64 // coefficient of variation of service times (lognormal); 0.73. Requests engine only
	SlowDown    float64 // how much faster an empty batch serves than a full one, as a share of the time, 0 to 0.9; 0. Requests engine only
	Dispersion  float64 // variance over mean of the arrivals in a tick; that of the trace's minutes, at most 30

	Interval time.Duration // between decisions; 1 min
	Sample   time.Duration // between metric samples; 30 s
	Delay    time.Duration // before a sample is visible; 15 s
	Loss     float64       // share of samples that are lost; 0.01, -1 for none

	Jitter       float64 // spread of the lead time: p95 is 1+Jitter times the median, which is Lead; 0
	StartFailure float64 // share of starts that fail, to be seen after twice the lead time and tried again; 0

	Hosts Hosts // the tier beneath; none where Instances is 0

	GPUs       float64 // GPUs of a replica; 1
	Price      float64 // of a GPU-hour; 2. Where there are Classes, theirs
	Classes    []Class // prices and limits, most preferred first; one without limit. Not with Hosts
	CyclePrice float64 // wear of one start; 0.1
	IdleWatts  float64 // a GPU that is on and idle, its share of the host included; 150
	BusyWatts  float64 // a GPU whose slots are all busy; 650
	BootWatts  float64 // a GPU whose replica starts; 250

	Timeline time.Duration // step of the recorded timeline; 0 records none
}

// Hosts is the host tier beneath the replicas, which then are instances. Lead
// is an instance's start on a host that is up; a cold host adds Boot, and is
// billed whole.
type Hosts struct {
	Instances int           // on one host
	Boot      time.Duration // from power-on to where an instance can be placed; 5 min
	Hold      time.Duration // how long an empty host stays on; the longer of Boot and 5 min
	Spare     int           // hosts kept on beyond those that instances need
}

func (c Config) withDefaults(t Trace) Config {
	or(&c.Engine, Fluid)
	or(&c.Peak, 40)
	or(&c.Slots, 8)
	or(&c.Min, 1)
	or(&c.Max, int(math.Ceil(2*c.Peak)))
	or(&c.Lead, 5*time.Minute)
	or(&c.SLOWait, time.Minute)
	or(&c.SLO, 0.99)
	or(&c.Warmup, defaultWarmup(t.Duration()))
	or(&c.Seed, 1)
	or(&c.PrefillRate, 5000)
	or(&c.DecodeRate, 40)
	or(&c.ServiceCV, 0.73)
	or(&c.Dispersion, t.dispersion())
	or(&c.Interval, time.Minute)
	or(&c.Sample, 30*time.Second)
	or(&c.Delay, 15*time.Second)
	or(&c.Loss, 0.01)
	or(&c.GPUs, 1)
	or(&c.Price, 2)
	or(&c.CyclePrice, 0.1)
	or(&c.IdleWatts, 150)
	or(&c.BusyWatts, 650)
	or(&c.BootWatts, 250)
	if c.Hosts.Instances > 0 {
		or(&c.Hosts.Boot, 5*time.Minute)
		or(&c.Hosts.Hold, max(c.Hosts.Boot, 5*time.Minute))
	}
	if c.Min < 0 {
		c.Min = 0
	}
	if c.Loss < 0 {
		c.Loss = 0
	}
	return c
}

func or[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// defaultWarmup is a day; of traces of up to a day an hour, and never more
// than a quarter.
func defaultWarmup(d time.Duration) time.Duration {
	if d > 24*time.Hour {
		return 24 * time.Hour
	}
	return min(time.Hour, d/4).Truncate(time.Minute)
}

// validate reports all that is wrong with a config whose defaults are filled.
func (c Config) validate(t Trace) error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(c.Engine == Fluid || c.Engine == Requests, "engine %q: must be %s or %s", c.Engine, Fluid, Requests)
	bad(c.Peak > 0 && c.Peak <= 10_000, "peak %g: must be above 0 and at most 10000 replicas", c.Peak)
	bad(c.Slots > 0 && c.Slots <= 100_000, "slots %d: must be 1 to 100000", c.Slots)
	bad(c.Max >= 1 && c.Max >= c.Min && c.Max <= 100_000, "max %d: must be at least 1 and min (%d), at most 100000", c.Max, c.Min)
	bad(c.SLO > 0 && c.SLO <= 1, "slo %g: must be above 0 and at most 1", c.SLO)
	bad(c.SLOWait > 0, "slo-wait %s: must be above 0", c.SLOWait)
	bad(c.Lead >= 0 && c.Lead <= 24*time.Hour, "lead %s: must be 0 to 24h", c.Lead)
	bad(c.Warmup >= 0 && c.Warmup < t.Duration(), "warmup %s: must be shorter than the trace, which is %s", c.Warmup, t.Duration())
	bad(c.ServiceCV >= 0 && c.ServiceCV <= 10, "service-cv %g: must be 0 to 10", c.ServiceCV)
	bad(c.SlowDown >= 0 && c.SlowDown <= 0.9, "slow-down %g: must be 0 to 0.9", c.SlowDown)
	bad(c.Dispersion > 0 && c.Dispersion <= 1e6, "dispersion %g: must be above 0", c.Dispersion)
	bad(c.Loss <= 0.9, "loss %g: must be at most 0.9", c.Loss)
	bad(c.Jitter >= 0 && c.Jitter <= 10, "jitter %g: must be 0 to 10", c.Jitter)
	bad(c.StartFailure >= 0 && c.StartFailure <= 0.9, "start-failure %g: must be 0 to 0.9", c.StartFailure)
	bad(!c.Tokens || t.Tokens != nil, "the trace has no tokens to count work in")
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"interval", c.Interval}, {"sample", c.Sample}} {
		bad(d.v >= tick && d.v%tick == 0, "%s %s: must be a multiple of %s", d.name, d.v, tick)
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"lead", c.Lead}, {"delay", c.Delay}, {"warmup", c.Warmup}, {"host boot", c.Hosts.Boot}, {"host hold", c.Hosts.Hold}} {
		bad(d.v >= 0 && d.v%tick == 0, "%s %s: must be a multiple of %s", d.name, d.v, tick)
	}
	bad(len(c.Classes) <= maxClasses, "%d price classes: at most %d", len(c.Classes), maxClasses)
	bad(len(c.Classes) == 0 || c.Hosts.Instances == 0, "price classes are of replicas, and a host tier is billed by the host: give one of the two")
	bad(c.Hosts.Instances >= 0 && c.Hosts.Spare >= 0, "instances a host and spare hosts must not be negative")
	return errors.Join(errs...)
}

// World is one trace in one config, ready for policies to be tried in. It is
// safe for concurrent use.
type World struct {
	cfg      Config
	trace    Trace
	arrivals []float64 // requests in each tick
	work     []float64 // replica-seconds of a request of each minute
	service  float64   // mean seconds that a request holds a slot
	scored   int       // first tick that counts
}

// NewWorld checks the config and prepares the trace.
func NewWorld(cfg Config, t Trace) (*World, error) {
	if len(t.Arrivals) == 0 {
		return nil, fmt.Errorf("%w: %s is empty", ErrTrace, t.Name)
	}
	cfg = cfg.withDefaults(t)
	if err := cfg.validate(t); err != nil {
		return nil, err
	}
	w := &World{cfg: cfg, trace: t, scored: ticks(cfg.Warmup)}
	if err := w.calibrate(); err != nil {
		return nil, err
	}
	w.arrivals = spread(t.Arrivals, cfg)
	return w, nil
}

// Config is the world's config with the defaults filled in.
func (w *World) Config() Config { return w.cfg }

// calibrate sets the work of a request so that the p99.9 minute keeps Peak
// replicas busy.
func (w *World) calibrate() error {
	w.work = w.weights()
	total := Trace{Arrivals: make([]float64, len(w.work))}
	for i, a := range w.trace.Arrivals {
		total.Arrivals[i] = a * w.work[i]
	}
	top := total.quantile(0.999)
	if top <= 0 {
		top = total.quantile(1)
	}
	if top <= 0 {
		return fmt.Errorf("%w: %s has no work in it", ErrTrace, w.trace.Name)
	}
	unit := w.cfg.Peak * 60 / top // replica-seconds of weight 1
	requests, work := 0.0, 0.0
	for i, a := range w.trace.Arrivals {
		w.work[i] *= unit
		requests += a
		work += a * w.work[i]
	}
	w.service = work / requests * float64(w.cfg.Slots)
	return nil
}

// weights is the work of a request of each minute, in any unit: 1 without
// tokens; with them, the seconds that they take. A minute whose tokens nobody
// counted has the mean.
func (w *World) weights() []float64 {
	out := make([]float64, len(w.trace.Arrivals))
	if !w.cfg.Tokens {
		fill(out, 1)
		return out
	}
	seconds, requests := 0.0, 0.0
	for i, a := range w.trace.Arrivals {
		k := w.trace.Tokens[i]
		if s := k.In/w.cfg.PrefillRate + k.Out/w.cfg.DecodeRate; a > 0 && s > 0 {
			out[i] = s / a
			seconds += s
			requests += a
		}
	}
	for i := range out {
		if out[i] == 0 && requests > 0 {
			out[i] = seconds / requests
		}
	}
	return out
}

// dispersion is the variance of the minutes over their mean, taken from the
// differences of neighbours so that trends do not count: 1 for Poisson
// arrivals, 2 to 24 for measured LLM traffic. It is cut to 1 to 30.
func (t Trace) dispersion() float64 {
	squares, sum := 0.0, 0.0
	for i, a := range t.Arrivals {
		sum += a
		if i > 0 {
			d := a - t.Arrivals[i-1]
			squares += d * d
		}
	}
	n := float64(len(t.Arrivals))
	if n < 2 || sum <= 0 {
		return 1
	}
	return max(min(squares/2/(n-1)/(sum/n), 30), 1)
}

// spread distributes each minute's requests over its ticks, with weights drawn
// so that a tick's variance is Dispersion times its mean. Poisson arrivals
// would flatter every policy.
func spread(minutes []float64, cfg Config) []float64 {
	rng := rand.New(rand.NewPCG(cfg.Seed, 0x6172726976616c73))
	out := make([]float64, len(minutes)*ticksPerMinute)
	for i, a := range minutes {
		part := out[i*ticksPerMinute : (i+1)*ticksPerMinute]
		sum := 0.0
		for k := range part {
			part[k] = gamma(rng, a/float64(ticksPerMinute)/cfg.Dispersion)
			sum += part[k]
		}
		for k := range part {
			if sum > 0 {
				part[k] *= a / sum
			} else {
				part[k] = a / float64(ticksPerMinute)
			}
		}
	}
	return out
}

// need is, for each minute, the work that arrives, in replicas' worth.
func (w *World) need() []float64 {
	n := make([]float64, len(w.trace.Arrivals))
	for i, a := range w.trace.Arrivals {
		n[i] = a * w.work[i] / 60
	}
	return n
}

// Setup is what policies are told of this world.
func (w *World) Setup(knob float64) Setup {
	c := w.cfg
	return Setup{Slots: c.Slots, Min: c.Min, Max: c.Max, Lead: c.Lead + c.Hosts.Boot, Interval: c.Interval, Sample: c.Sample,
		Delay: c.Delay, SLOWait: c.SLOWait, SLO: c.SLO, Start: w.trace.Start, Knob: knob, Need: w.need()}
}

// Run tries one policy, with its knob at the given value.
func (w *World) Run(spec Spec, knob float64) PolicyReport {
	r := w.run(spec.New(w.Setup(knob)))
	r.Name, r.About, r.Knob, r.KnobValue = spec.Name, spec.About, spec.Knob.Name, knob
	return r
}

// server is an engine: it serves one tick after the other.
type server interface {
	// resize sets the number of replicas that take work from now on.
	resize(now int, ready int)
	// step serves the tick that begins at now.
	step(now int) served
	// draining is the number of replicas that finish their last requests.
	draining(now int) int
	// waiting is the number of requests that wait.
	waiting() float64
	// finish scores what still waits at the end.
	finish(end int)
}

// served is what an engine did in a tick.
type served struct {
	busy        float64 // slot-seconds
	completions float64 // requests
}

// run is the loop: decide, start and stop, serve, measure.
func (w *World) run(p Policy) PolicyReport {
	c := w.cfg
	end := len(w.arrivals)
	score := newScore(c, w.scored, end)
	var engine server
	if c.Engine == Requests {
		engine = newRequests(w, score)
	} else {
		engine = newFluid(w, score)
	}
	pool := newFleet(c)
	pool.begin(w.initial())
	seen := newMeter(w, end)
	every, line := ticks(c.Interval), newTimeline(w)
	for now := 0; now < end; now++ {
		pool.advance(now)
		if now%every == 0 {
			d := p.Decide(w.at(now), seen.observe(now, pool))
			pool.want(now, max(min(d.Count, c.Max), c.Min))
			score.decided(now, d)
		}
		engine.resize(now, pool.ready)
		did := engine.step(now)
		billed := score.bill(now, pool, engine.draining(now), did)
		seen.measure(now, w.arrivals[now], did, pool.ready, engine.waiting())
		score.backlog(now, engine.waiting())
		line.add(now, w, pool.ready, billed, engine.waiting())
	}
	engine.finish(end)
	r := score.report(pool)
	r.Timeline = line.done()
	r.Forecast = score.forecast(w)
	return r
}

// initial is the number of replicas ready at the start: what the first ten
// minutes need, so that no policy begins in a debt that it did not make.
func (w *World) initial() int {
	top := 0.0
	for _, n := range w.need()[:min(10, len(w.trace.Arrivals))] {
		top = max(top, n)
	}
	return max(min(int(math.Ceil(top)), w.cfg.Max), w.cfg.Min)
}

func (w *World) at(now int) time.Time { return w.trace.Start.Add(time.Duration(now) * tick) }

func ticks(d time.Duration) int { return int(d / tick) }
