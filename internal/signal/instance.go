package signal

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/gpupool/gpupool/internal/fleet"
)

// instanceSignals is what the agents say of each instance of a job: its
// state, its load, and each of the signals of fleet.Signals.
func instanceSignals() []Signal {
	all := []Signal{
		{Name: "instances", Unit: "instances", Kind: InstanceKind, Aggregate: Sum,
			Doc:      "Instances that the agents see, in whatever state; with the label `state`, those in one, as in `instances{job=\"chat\",state=\"warming\"}`.",
			instance: func(*fleet.Instance) measured { return is(1) }},
		{Name: "instances_ready", Unit: "instances", Kind: InstanceKind, Aggregate: Sum,
			Doc:      "Instances that get requests: warm, serving or saturated.",
			instance: func(i *fleet.Instance) measured { return flag(i.State.Ready()) }},
		{Name: "instances_starting", Unit: "instances", Kind: InstanceKind, Aggregate: Sum,
			Doc:      "Instances that are on a host and will be ready by themselves: cold or warming.",
			instance: func(i *fleet.Instance) measured { return flag(i.State.Starting()) }},
		{Name: "instance_warm_up_seconds", Unit: "seconds", Kind: InstanceKind, Aggregate: Max,
			Doc: "How long the instance took from the start of its task until it was ready: what to set a policy's lead time by.",
			instance: ready(func(i *fleet.Instance) measured {
				if i.WarmUp == nil {
					return measured{state: none}
				}
				return is(*i.WarmUp)
			})},
		{Name: "instance_demand", Unit: "requests", Kind: InstanceKind, Aggregate: Sum, Recorded: true,
			Doc:      "Requests that an instance works on or has waiting. Not capped by the instances that there are.",
			instance: ready(work)},
		{Name: "instance_load", Unit: "instances", Kind: InstanceKind, Aggregate: Sum, Recorded: true,
			Doc:      "How full an instance is, 1 for full: the larger of its requests, waiting ones too, over its slots, and the share of its KV cache in use. Where the server tells of no slots, what it works on while others wait is taken for all that it can. The sum is the work in instances, not capped by those that there are; `avg` is a utilization.",
			instance: ready(load)},
	}
	for _, s := range fleet.Signals {
		of := s.Signal
		unit, aggregate := unitOf(string(of))
		all = append(all, Signal{
			Name: "instance_" + string(of), Unit: unit, Kind: InstanceKind, Aggregate: aggregate, Doc: s.Doc,
			Recorded: of == fleet.Waiting || of == fleet.Running || of == fleet.Finished,
			instance: ready(func(i *fleet.Instance) measured { return value(i.Load[of]) }),
		})
	}
	return all
}

// unitOf reads a unit off a name, and how values of it make one.
func unitOf(name string) (unit, aggregate string) {
	switch {
	case strings.HasSuffix(name, "_per_second"):
		return "per second", Sum
	case strings.HasSuffix(name, "_ratio"):
		return "ratio", Avg
	case strings.HasSuffix(name, "_seconds"):
		return "seconds", Max
	}
	return "requests", Sum
}

// ready is of instances that get requests. One that does not has no work to
// tell of: those that start have none, and those that drain finish theirs.
func ready(of func(*fleet.Instance) measured) func(*fleet.Instance) measured {
	return func(i *fleet.Instance) measured {
		if !i.State.Ready() {
			return measured{state: apart}
		}
		return of(i)
	}
}

// work is the requests of an instance.
func work(i *fleet.Instance) measured {
	return requests(value(i.Load[fleet.Running]), value(i.Load[fleet.Waiting]))
}

// requests adds up those that are worked on and those that wait. What a server
// does not tell of the two counts for nothing, if it tells the other.
func requests(running, waiting measured) measured {
	switch {
	case running.state == missing || waiting.state == missing:
		return measured{state: missing}
	case running.state == none && waiting.state == none:
		return measured{state: none}
	}
	return is(running.value + waiting.value)
}

// load is how full an instance is.
func load(i *fleet.Instance) measured {
	running, waiting := value(i.Load[fleet.Running]), value(i.Load[fleet.Waiting])
	slots, kv := value(i.Load[fleet.Slots]), value(i.Load[fleet.KVUsed])
	all := requests(running, waiting)
	if all.state == missing || slots.state == missing || kv.state == missing {
		return measured{state: missing}
	}
	full := -1.0
	if kv.state == there {
		full = kv.value
	}
	switch {
	case all.state != there:
	case slots.state == there && slots.value > 0:
		full = max(full, all.value/slots.value)
	case waiting.value > 0:
		full = max(full, all.value/max(running.value, 1))
	case running.state == there && running.value == 0:
		full = max(full, 0)
	}
	if full < 0 {
		return measured{state: none}
	}
	return is(full)
}

// jobView is all that is seen of a job's instances.
type jobView struct {
	ready  []*fleet.Instance
	demand float64 // requests of those that are ready
}

var jobSignals = []Signal{
	{Name: "instances_needed", Unit: "instances", Kind: JobKind, Recorded: true,
		Doc: "Instances that the requests present would fill: `instance_demand` over the slots of an instance, the mean of those that tell.",
		job: needed},
}

func needed(v jobView) (float64, error) {
	if v.demand == 0 {
		return 0, nil
	}
	sum, n := 0.0, 0
	for _, i := range v.ready {
		if m := value(i.Load[fleet.Slots]); m.state == there && m.value > 0 {
			sum += m.value
			n++
		}
	}
	if n == 0 {
		return 0, errors.New("no instance tells how many requests it can work on at a time: use instance_load")
	}
	needed := v.demand * float64(n) / sum
	if math.IsInf(needed, 0) || math.IsNaN(needed) {
		return 0, fmt.Errorf("%g requests over %g slots is no number", v.demand, sum)
	}
	return needed, nil
}
