package sim

import (
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
)

// predictive is the live decision of strategy-predictive: it hands what is
// observed to [plan.Decide] as the plugin does.
type predictive struct {
	rules   plan.Rules
	lead    time.Duration
	demand  demand.Series // work present: busy slots and waiting requests
	load    demand.Series // rate times the mean service time
	service float64       // s, that load was made with
	seen    int           // samples taken over from the observation
}

func newPredictive(s Setup) Policy {
	return &predictive{lead: s.Lead, rules: plan.Rules{
		Units: float64(s.Slots), Min: s.Min, Max: s.Max,
		Lead: s.Lead, Interval: s.Interval, Utilization: s.Knob, DrainTime: s.SLOWait,
	}}
}

func (p *predictive) Name() string { return "predictive" }

func (p *predictive) Decide(now time.Time, o Observation) plan.Decision {
	in := plan.Input{Now: now, Count: o.Wanted, Queue: o.Waiting}
	for ; p.seen < len(o.InService); p.seen++ {
		at := o.InService[p.seen].At
		p.demand = append(p.demand, demand.Point{At: at, Value: o.InService[p.seen].Value + o.Waiting[p.seen].Value})
		p.load = append(p.load, demand.Point{At: at, Value: o.Arrivals[p.seen].Value * p.service})
	}
	if s, ok := meanService(o, now); ok {
		p.rescale(o, s)
		in.Load = p.load
		in.Service = time.Duration(p.service * float64(time.Second))
	}
	in.Demand = p.demand
	for _, s := range o.Starting {
		in.Starting = append(in.Starting, s.Add(p.lead))
	}
	return plan.Decide(in, p.rules)
}

// rescale makes the load anew when the service time is no longer what it was
// made with, to a hundredth.
func (p *predictive) rescale(o Observation, service float64) {
	if d := service - p.service; d < 0.01*p.service && -d < 0.01*p.service {
		return
	}
	p.service = service
	for i := range p.load {
		p.load[i].Value = o.Arrivals[i].Value * service
	}
}
