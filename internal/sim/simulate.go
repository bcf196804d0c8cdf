package sim

import (
	"fmt"
	"runtime"
	"sync"
)

// Options is what to try in a world.
type Options struct {
	Policies []Spec
	Front    bool // sweep each policy's knob too
	// Progress is called, never by two at once, after each piece of work.
	Progress func(done, all int, what string)
}

// Simulate tries policies in one world and compares them with the bound. It
// uses all processors; its answer does not depend on how many there are.
func Simulate(cfg Config, t Trace, o Options) (*Report, error) {
	w, err := NewWorld(cfg, t)
	if err != nil {
		return nil, err
	}
	r := w.report()
	jobs := []job{{"bound", func() { r.Bound = w.Bound(w.cfg.SLO) }}}
	r.Policies = make([]PolicyReport, len(o.Policies))
	for i, spec := range o.Policies {
		p := &r.Policies[i]
		jobs = append(jobs, job{spec.Name, func() {
			*p = w.Run(spec, spec.Knob.Default)
		}})
	}
	do(jobs, o.Progress)
	if o.Front {
		w.fronts(r, o)
	}
	for i := range r.Policies {
		p := &r.Policies[i]
		p.CostRatio = ratio(p.GPUHours, r.Bound.GPUHours)
		for k := range p.Front {
			p.Front[k].CostRatio = ratio(p.Front[k].GPUHours, r.Bound.GPUHours)
		}
	}
	return r, nil
}

// fronts sweeps the knob of each policy.
func (w *World) fronts(r *Report, o Options) {
	bare := *w
	bare.cfg.Timeline = 0
	var jobs []job
	for i, spec := range o.Policies {
		front := make([]FrontPoint, len(spec.Knob.Sweep))
		r.Policies[i].Front = front
		for k, v := range spec.Knob.Sweep {
			jobs = append(jobs, job{fmt.Sprintf("%s %s=%g", spec.Name, spec.Knob.Name, v), func() {
				p := bare.Run(spec, v)
				front[k] = FrontPoint{Knob: v, GPUHours: p.GPUHours, Attainment: p.Attainment, WorstDay: p.WorstDay}
			}})
		}
	}
	do(jobs, o.Progress)
}

// report is the part of a report that does not depend on policies.
func (w *World) report() *Report {
	c := w.cfg
	return &Report{
		Trace: w.trace.Info(), World: string(c.Engine), LeadS: c.Lead.Seconds(), Peak: c.Peak, Slots: c.Slots,
		SLOWaitS: c.SLOWait.Seconds(), SLO: c.SLO, WarmupS: c.Warmup.Seconds(), ServiceS: w.service, Seed: c.Seed,
		Assumptions: w.assumptions(), Config: c,
	}
}

func (w *World) assumptions() []string {
	c := w.cfg
	a := append([]string(nil), w.trace.Notes...)
	a = append(a,
		fmt.Sprintf("The service rate is set so that the p99.9 minute keeps %g replicas of %d slots busy; policies are not told it.", c.Peak, c.Slots),
		fmt.Sprintf("Requests within a minute arrive unevenly: variance over mean is %.3g in 5 seconds.", c.Dispersion),
		fmt.Sprintf("Metrics come every %s, %s late, and %.3g %% of them never.", c.Sample, c.Delay, 100*c.Loss),
		fmt.Sprintf("A replica is billed from its start command, through %s of start, to the end of its drain.", c.Lead),
		fmt.Sprintf("Every policy decides once in %s, between %d and %d replicas.", c.Interval, c.Min, c.Max),
		"The bound knows the future and is exact up to simplifications that all make it lower; nothing real can reach it.")
	for _, k := range c.Classes {
		if k.Interruptions > 0 {
			a = append(a, fmt.Sprintf("A %s replica that serves is taken away %.3g times an hour by chance, independently of the others, after it has finished its requests.", k.Name, k.Interruptions))
		}
	}
	if c.Engine == Fluid {
		a = append(a, "Requests are served as an amount: a slot that is free or taken by chance, and the length of single requests, are not modelled.")
	}
	return a
}

func ratio(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

type job struct {
	what string
	run  func()
}

// do runs all jobs on all processors.
func do(jobs []job, progress func(done, all int, what string)) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	next, done := 0, 0
	for range min(runtime.GOMAXPROCS(0), len(jobs)) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(jobs) {
					return
				}
				jobs[i].run()
				mu.Lock()
				done++
				if progress != nil {
					progress(done, len(jobs), jobs[i].what)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}
