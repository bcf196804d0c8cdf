// Package signal is what apm-nvml can be asked for: the table of signals, the
// language of the queries, and what a query's value is in a [Sight] of what
// the agents, Nomad and the queues said.
//
// Two rules hold for every value. What is not known is an error that says why,
// never a zero. And a value that rests on less than the stated coverage of what
// there is to ask is not known: hosts that did not answer may be the busy ones.
package signal

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/queue"
)

// Kind is what a signal has one value for each of. It decides the labels of
// its queries.
type Kind int

const (
	// PoolKind is one value for a pool, from Nomad.
	PoolKind Kind = iota + 1
	// HostKind is one value for each host of a pool that is up, from its agent.
	HostKind
	// GPUKind is one value for each GPU of the hosts of a pool that are up.
	GPUKind
	// GroupKind is one value for each task group of a job, from Nomad.
	GroupKind
	// InstanceKind is one value for each instance of a job's model server.
	InstanceKind
	// JobKind is one value for a job, of all of its instances.
	JobKind
	// QueueKind is one value for a queue of queues.hcl.
	QueueKind
)

// The labels of queries.
const (
	labelPool      = "pool"
	labelNode      = "node"
	labelGPU       = "gpu"
	labelModel     = "model"
	labelJob       = "job"
	labelNamespace = "namespace"
	labelGroup     = "group"
	labelEngine    = "engine"
	labelState     = "state"
	labelSource    = "source"
)

// kinds says of each kind what a query of it looks like.
var kinds = map[Kind]struct {
	title   string
	key     string   // the label that must be there, with =
	filters []string // labels that may be, with = != =~ !~
	what    string
}{
	PoolKind:     {"Pools", labelPool, nil, "What Nomad says of a pool: what jobs hold and wait for, whether or not a host is on."},
	HostKind:     {"Hosts", labelPool, []string{labelNode}, "What the agents of a pool's hosts say, one value for each host that is up in Nomad."},
	GPUKind:      {"GPUs", labelPool, []string{labelNode, labelGPU, labelModel}, "What the agents say of GPUs, one value for each GPU of the hosts that are up. `gpu` is its UUID, `model` its name. GPUs that are lost have only the signals that count them."},
	GroupKind:    {"Jobs", labelJob, []string{labelGroup}, "What Nomad says of a job, one value for each task group."},
	InstanceKind: {"Instances", labelJob, []string{labelGroup, labelNode, labelModel, labelEngine, labelState}, "What the agents say of a job's model servers, one value for each instance. All but `instances` and `instances_starting` are of instances that are ready. `model` is the model that is served; `state` is one of the states in [model servers](model-servers.md)."},
	JobKind:      {"Jobs and their instances", labelJob, []string{labelGroup}, "What follows from all instances of a job together."},
	QueueKind:    {"Queues", labelSource, nil, "What the queues of `queues.hcl` hold. `source` is the name of a queue there, which may have several sources."},
}

// Signal is one series that can be asked for.
type Signal struct {
	Name string
	Unit string
	Doc  string
	Kind Kind
	// Aggregate makes one number of its values where the query does not say
	// how. It is empty where there is only one.
	Aggregate string
	// Recorded says that it is demand, of which minutes are kept for weeks.
	Recorded bool
	// Uncovered says that it is about the coverage itself.
	Uncovered bool
	// Models says that a query of a pool may have the label model.
	Models bool

	pool     func(d nomad.Demand, gpusPerHost int, model match) float64
	host     func(s *fleet.Snapshot) measured
	gpu      func(g *fleet.GPU) measured
	counts   bool // with gpu: GPUs that are lost have it too
	group    func(g nomad.GroupScale) float64
	instance func(i *fleet.Instance) measured
	job      func(v jobView) (float64, error)
	queue    func(d queue.Depth) measured
}

// measured is a value, or why there is none.
type measured struct {
	value float64
	state state
}

type state int

const (
	there   state = iota
	missing       // it should be there: nobody knows
	none          // it is not offered
	apart         // it is not asked for: what has no part in the signal
)

func is(v float64) measured { return measured{value: v} }

func count[T ~int](n T) measured { return is(float64(n)) }

func unless(bad bool) state {
	if bad {
		return missing
	}
	return there
}

func flag(b bool) measured {
	if b {
		return is(1)
	}
	return is(0)
}

// Signals is every signal, in the order of the reference page.
var Signals = slices.Concat(poolSignals, hostSignals, gpuSignals, groupSignals, instanceSignals(), jobSignals, queueSignals)

// Find returns the signal of that name.
func Find(name string) (*Signal, bool) {
	i := slices.IndexFunc(Signals, func(s Signal) bool { return s.Name == name })
	if i < 0 {
		return nil, false
	}
	return &Signals[i], true
}

// Names are the names of all signals.
func Names() []string {
	var out []string
	for _, s := range Signals {
		out = append(out, s.Name)
	}
	return out
}

var poolSignals = []Signal{
	{Name: "demand_gpus", Unit: "GPUs", Kind: PoolKind, Recorded: true,
		Doc:  "GPUs held by allocations plus GPUs that blocked evaluations wait for. Not capped by what is on; works with no node at all.",
		pool: func(d nomad.Demand, _ int, _ match) float64 { return float64(d.Allocated + d.Queued) }},
	{Name: "demand_hosts", Unit: "hosts", Kind: PoolKind, Recorded: true,
		Doc: "`demand_gpus` over the pool's `gpus_per_host`, not rounded.",
		pool: func(d nomad.Demand, perHost int, _ match) float64 {
			return float64(d.Allocated+d.Queued) / float64(max(perHost, 1))
		}},
	{Name: "allocated_gpus", Unit: "GPUs", Kind: PoolKind, Recorded: true,
		Doc:  "GPUs held by allocations on the pool's nodes.",
		pool: func(d nomad.Demand, _ int, _ match) float64 { return float64(d.Allocated) }},
	{Name: "queued_gpus", Unit: "GPUs", Kind: PoolKind, Recorded: true, Models: true,
		Doc: "GPUs that blocked evaluations wait for, where another host would help. With the label `model`, those of jobs that ask for that model by name; `model=\"\"` is those that take any.",
		pool: func(d nomad.Demand, _ int, model match) float64 {
			return waiting(d, model, func(j nomad.JobDemand) bool { return j.Counted })
		}},
	{Name: "quota_gpus", Unit: "GPUs", Kind: PoolKind, Models: true,
		Doc: "GPUs that jobs wait for because a quota is used up, which no host would change. They are no demand.",
		pool: func(d nomad.Demand, _ int, model match) float64 {
			return waiting(d, model, func(j nomad.JobDemand) bool { return j.Quota })
		}},
	{Name: "queued_groups", Unit: "task groups", Kind: PoolKind, Models: true,
		Doc: "Task groups that wait for GPUs and are counted in `queued_gpus`.",
		pool: func(d nomad.Demand, _ int, model match) float64 {
			n := 0
			for _, j := range d.Jobs {
				if j.Counted && model.ok(j.Model) {
					n++
				}
			}
			return float64(n)
		}},
	{Name: "hosts_up", Unit: "hosts", Kind: PoolKind,
		Doc:  "Nodes of the pool that are not down.",
		pool: func(d nomad.Demand, _ int, _ match) float64 { return float64(len(d.Hosts)) }},
	{Name: "hosts_ready", Unit: "hosts", Kind: PoolKind,
		Doc: "Nodes of the pool that work can be placed on: ready, eligible, and not being drained.",
		pool: func(d nomad.Demand, _ int, _ match) float64 {
			return hosts(d, func(h nomad.HostDemand) bool { return h.Ready })
		}},
	{Name: "hosts_occupied", Unit: "hosts", Kind: PoolKind,
		Doc: "Nodes of the pool on which allocations hold GPUs.",
		pool: func(d nomad.Demand, _ int, _ match) float64 {
			return hosts(d, func(h nomad.HostDemand) bool { return h.GPUs > 0 })
		}},
}

func waiting(d nomad.Demand, model match, counts func(nomad.JobDemand) bool) float64 {
	n := 0
	for _, j := range d.Jobs {
		if counts(j) && model.ok(j.Model) {
			n += j.Instances * j.GPUs
		}
	}
	return float64(n)
}

func hosts(d nomad.Demand, ok func(nomad.HostDemand) bool) float64 {
	n := 0
	for _, h := range d.Hosts {
		if ok(h) {
			n++
		}
	}
	return float64(n)
}

var hostSignals = []Signal{
	{Name: "agents_answering", Unit: "hosts", Kind: HostKind, Aggregate: Sum, Uncovered: true,
		Doc:  "Hosts that are up and whose agents answered. Known whatever the coverage is.",
		host: func(s *fleet.Snapshot) measured { return flag(s != nil) }},
	{Name: "agent_coverage_ratio", Unit: "ratio", Kind: HostKind, Aggregate: Avg, Uncovered: true,
		Doc:  "Share of the hosts that are up whose agents answered. Known whatever it is.",
		host: func(s *fleet.Snapshot) measured { return flag(s != nil) }},
	{Name: "host_gpus", Unit: "GPUs", Kind: HostKind, Aggregate: Sum,
		Doc:  "GPUs that the agents see, in whatever state.",
		host: func(s *fleet.Snapshot) measured { return count(len(s.GPUs)) }},
	{Name: "host_usable_gpus", Unit: "GPUs", Kind: HostKind, Aggregate: Sum,
		Doc:  "GPUs that work can be expected to run on.",
		host: func(s *fleet.Snapshot) measured { return count(s.Usable()) }},
	{Name: "host_outside_gpus", Unit: "GPUs", Kind: HostKind, Aggregate: Sum,
		Doc: "GPUs with processes that belong to no Nomad allocation.",
		host: func(s *fleet.Snapshot) measured {
			return measured{float64(s.Outside.GPUs), unless(!s.Outside.Known)}
		}},
	{Name: "host_outside_processes", Unit: "processes", Kind: HostKind, Aggregate: Sum,
		Doc: "Processes on GPUs that belong to no Nomad allocation.",
		host: func(s *fleet.Snapshot) measured {
			return measured{float64(s.Outside.Processes), unless(!s.Outside.Known)}
		}},
	{Name: "host_driver_up", Unit: "0 or 1", Kind: HostKind, Aggregate: Sum,
		Doc:  "1 where the GPU driver can be asked.",
		host: func(s *fleet.Snapshot) measured { return flag(s.Driver.State == fleet.DriverOK) }},
	{Name: "host_idle", Unit: "0 or 1", Kind: HostKind, Aggregate: Sum,
		Doc:  "1 where no GPU is busy or has a process. Not known where that is not known of one of them; those that are lost do nothing.",
		host: stillHost},
}

func stillHost(s *fleet.Snapshot) measured {
	if s.Driver.State != fleet.DriverOK {
		return measured{state: missing}
	}
	unknown := false
	for i := range s.GPUs {
		g := &s.GPUs[i]
		if g.State == fleet.StateLost {
			continue
		}
		m := idle(g)
		if m.state == there && m.value == 0 {
			return m
		}
		unknown = unknown || m.state != there || !g.State.Usable()
	}
	return measured{1, unless(unknown)}
}

var groupSignals = []Signal{
	{Name: "instances_wanted", Unit: "instances", Kind: GroupKind, Aggregate: Sum,
		Doc:   "Count of the job's task groups: what a scaling policy set.",
		group: func(g nomad.GroupScale) float64 { return float64(g.Wanted) }},
	{Name: "instances_running", Unit: "instances", Kind: GroupKind, Aggregate: Sum,
		Doc:   "Allocations whose tasks run, ready or not.",
		group: func(g nomad.GroupScale) float64 { return float64(g.Running) }},
	{Name: "instances_queued", Unit: "instances", Kind: GroupKind, Aggregate: Sum,
		Doc:   "Instances that are wanted and have no host yet.",
		group: func(g nomad.GroupScale) float64 { return float64(max(g.Wanted-g.Placed, 0)) }},
}

var queueSignals = []Signal{
	{Name: "queue_demand", Unit: "units of capacity", Kind: QueueKind, Recorded: true,
		Doc: "Capacity that the queue's work asks for, waiting and running: each source's work over its target (`list_length`, `lag_threshold` and so on), combined as the queue says. 0 unless there is more work than the queue's `activation`.",
		queue: func(d queue.Depth) measured {
			if !d.Active {
				return is(0)
			}
			return is(d.Need)
		}},
	{Name: "queue_depth", Unit: "items", Kind: QueueKind, Recorded: true,
		Doc:   "Items that wait.",
		queue: func(d queue.Depth) measured { return is(d.Waiting) }},
	{Name: "queue_running", Unit: "items", Kind: QueueKind, Recorded: true,
		Doc: "Items that somebody works on. Not known where no source tells.",
		queue: func(d queue.Depth) measured {
			if d.Running == nil {
				return measured{state: none}
			}
			return is(*d.Running)
		}},
	{Name: "queue_work", Unit: "items", Kind: QueueKind, Recorded: true,
		Doc:   "Items that wait or are worked on, as far as the sources tell.",
		queue: func(d queue.Depth) measured { return is(d.Work()) }},
	{Name: "queue_oldest_seconds", Unit: "seconds", Kind: QueueKind,
		Doc: "How long the oldest item has waited; 0 where nothing waits. Not known where no source tells.",
		queue: func(d queue.Depth) measured {
			switch {
			case d.Oldest != nil:
				return is(d.Oldest.Seconds())
			case d.Waiting == 0:
				return is(0)
			}
			return measured{state: none}
		}},
	{Name: "queue_active", Unit: "0 or 1", Kind: QueueKind,
		Doc:   "1 while there is more work than the queue's `activation`.",
		queue: func(d queue.Depth) measured { return flag(d.Active) }},
}

// Page is the table of signals, for the reference page.
func Page() string {
	var b strings.Builder
	for k := PoolKind; k <= QueueKind; k++ {
		kind := kinds[k]
		fmt.Fprintf(&b, "### %s\n\n%s Labels: `%s` (required)", kind.title, kind.what, kind.key)
		for _, l := range labelsOf(k) {
			fmt.Fprintf(&b, ", `%s`", l)
		}
		b.WriteString(".\n\n| Signal | Unit | Made one by | Kept for weeks | What it is |\n|---|---|---|---|---|\n")
		for _, s := range Signals {
			if s.Kind == k {
				fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", s.Name, s.Unit, orDash(s.Aggregate), map[bool]string{true: "yes", false: "–"}[s.Recorded], s.Doc)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

func labelsOf(k Kind) []string {
	labels := kinds[k].filters
	if kinds[k].key == labelJob {
		labels = append([]string{labelNamespace}, labels...)
	}
	return labels
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}
