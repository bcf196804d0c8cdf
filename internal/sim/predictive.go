package sim

import (
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
)

// predictive is the live decision of strategy-predictive: it hands what is
// observed to a [plan.Planner] as the plugin does.
type predictive struct {
	plan   *plan.Planner
	bound  func(in *plan.Input, lead time.Duration) // what a schedule says; nil without one
	lead   time.Duration
	demand demand.Series // work present: busy slots and waiting requests
	load   demand.Series // arrivals times the mean service time known then
}

func newPredictive(s Setup) Policy { return newPredictiveBy(s, predictiveRules(s)) }

// predictiveRules is what an operator who only states the facts would ask for.
func predictiveRules(s Setup) plan.Rules {
	return plan.Rules{
		Units: float64(s.Slots), Min: s.Min, Max: s.Max,
		Lead: s.Lead, Interval: s.Interval, Wait: s.SLOWait, SLO: 1 - (1-s.SLO)*s.Knob,
	}
}

func newPredictiveBy(s Setup, r plan.Rules) Policy {
	samples := 0 // of the whole trace: then no series is ever moved
	if s.Sample > 0 {
		samples = int(time.Duration(len(s.Need)) * time.Minute / s.Sample)
	}
	p := &predictive{lead: s.Lead, plan: plan.NewPlanner(r), demand: make(demand.Series, 0, samples), load: make(demand.Series, 0, samples)}
	p.plan.Brief = true
	return p
}

// Predictive returns the policy called predictive with rules of the caller's:
// set changes those that follow from the world. Its knob multiplies the share
// of late work that they allow.
func Predictive(set func(*plan.Rules)) Spec {
	spec, _ := Lookup("predictive")
	spec.New = func(s Setup) Policy {
		knob := s.Knob
		s.Knob = 1
		r := predictiveRules(s)
		set(&r)
		if knob != 1 {
			r.SLO = 1 - (1-r.SLO)*knob
		}
		return newPredictiveBy(s, r)
	}
	return spec
}

// Scheduled is the policy with the floors and ceilings that bound writes into
// each decision's input.
func Scheduled(spec Spec, bound func(in *plan.Input, lead time.Duration)) Spec {
	inner := spec.New
	spec.New = func(s Setup) Policy {
		p := inner(s)
		if p, ok := p.(*predictive); ok {
			p.bound = bound
		}
		return p
	}
	return spec
}

// PredictiveRules are the rules that the policy called predictive has in this
// world when nobody changes them.
func (w *World) PredictiveRules() plan.Rules { return predictiveRules(w.Setup(1)) }

func (p *predictive) Name() string { return "predictive" }

func (p *predictive) Decide(now time.Time, o Observation) plan.Decision {
	in := plan.Input{Now: now, Count: o.Wanted, Queue: o.Waiting}
	for i := len(p.demand); i < len(o.InService); i++ {
		p.demand = append(p.demand, demand.Point{At: o.InService[i].At, Value: o.InService[i].Value + o.Waiting[i].Value})
	}
	in.Demand = p.demand
	if service, ok := meanService(o, now); ok {
		for i := len(p.load); i < len(o.Arrivals); i++ {
			p.load = append(p.load, demand.Point{At: o.Arrivals[i].At, Value: o.Arrivals[i].Value * service})
		}
		in.Service = time.Duration(service * float64(time.Second))
		in.Load = p.load
	}
	for _, s := range o.Starting {
		in.Starting = append(in.Starting, s.Add(p.lead))
	}
	if p.bound != nil {
		p.bound(&in, p.lead)
	}
	return p.plan.Decide(in)
}
