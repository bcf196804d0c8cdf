package signal

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/setting"
)

// Sight is what was seen last, each part as of its own time. Nothing in it is
// changed once it is in use.
type Sight struct {
	// Coverage is the share of what there is to ask, from 0 to 1, that must
	// have answered.
	Coverage float64
	// Apart is how long the parts that a value rests on may lie apart.
	Apart time.Duration

	Pools  map[string]Pool
	Fleet  *Fleet
	Jobs   map[JobID]Job
	Queues map[string]Queue
}

// Pool is what Nomad said of a pool.
type Pool struct {
	At          time.Time // when Demand was asked for
	Demand      nomad.Demand
	GPUsPerHost int
	Err         error // why the last reading failed; Demand is that of the one before
}

// JobID names a job in all namespaces.
type JobID struct{ Namespace, Job string }

// Job is what Nomad said of a job.
type Job struct {
	At     time.Time
	Groups map[string]nomad.GroupScale
	Err    error
}

// Queue is what a queue said. If Err is not nil, at least Depth is there.
type Queue struct {
	At    time.Time
	Depth queue.Depth
	Err   error
}

// Fleet is what the agents said, in one round.
type Fleet struct {
	At       time.Time // when the first of them was asked
	Err      error     // why the agents could not be found; then there is nothing else
	readings map[string]fleet.Reading
	jobs     map[JobID][]seen
}

// seen is an instance and the node on which it was seen.
type seen struct {
	node string
	*fleet.Instance
}

// NewFleet sorts what the agents answered, by the names of their nodes.
func NewFleet(at time.Time, readings map[string]fleet.Reading) *Fleet {
	f := &Fleet{At: at, readings: readings, jobs: make(map[JobID][]seen)}
	for node, r := range readings {
		if r.Err != nil || r.Snapshot.Instances == nil {
			continue
		}
		list := r.Snapshot.Instances.List
		for i := range list {
			id := JobID{cmp.Or(list[i].Namespace, "default"), list[i].Job}
			f.jobs[id] = append(f.jobs[id], seen{node, &list[i]})
		}
	}
	return f
}

// Reading is the value of a query's base at one moment.
type Reading struct {
	At    time.Time // the oldest of what it rests on
	Value float64
	// Err is why the value is not known.
	Err error
	// AtLeast says, beside Err, that it is known to be no less than Value.
	AtLeast bool
}

// Value is the value of the query, without its window, in what was seen.
func (q Query) Value(s *Sight) Reading {
	var all []Reading
	for _, t := range q.Terms {
		all = append(all, t.value(s))
	}
	r := all[0]
	if q.Join != "" {
		r = join(q.Join, all)
	}
	if r.Value <= q.Above { // never so if Above is NaN
		r.Value = 0
	}
	if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
		return Reading{At: r.At, Err: cmp.Or(r.Err, fmt.Errorf("%s is %g, which is no number to act on", q.Base(), r.Value))}
	}
	return r
}

// join makes one reading of several. It is known if all are; otherwise, as no
// value here is negative, it is at least what those make that are.
func join(how string, all []Reading) Reading {
	out := Reading{At: all[0].At}
	var errs []error
	for _, r := range all {
		if r.At.Before(out.At) {
			out.At = r.At
		}
		if r.Err != nil {
			errs = append(errs, r.Err)
			if !r.AtLeast {
				continue
			}
		}
		out.AtLeast = true
		if how == Max {
			out.Value = max(out.Value, r.Value)
		} else {
			out.Value += r.Value
		}
	}
	if len(errs) == 0 {
		out.AtLeast = false
		return out
	}
	out.Err = errors.Join(errs...)
	return out
}

func (t Term) value(s *Sight) Reading {
	r := t.read(s)
	if r.Err != nil {
		r.Err = fmt.Errorf("%s: %w", t, r.Err)
	}
	return r
}

func (t Term) read(s *Sight) Reading {
	switch t.Signal.Kind {
	case PoolKind:
		return t.ofPool(s)
	case HostKind, GPUKind:
		return t.ofAgents(s)
	case GroupKind:
		return t.ofGroups(s)
	case InstanceKind, JobKind:
		return t.ofInstances(s)
	default:
		return t.ofQueue(s)
	}
}

// ErrNotYet is wrapped by the error of a reading of what has not been looked at
// since the start.
var ErrNotYet = errors.New("it has not been read yet")

func (t Term) ofPool(s *Sight) Reading {
	p, ok := s.Pools[t.key]
	if !ok {
		return Reading{Err: ErrNotYet}
	}
	return Reading{At: p.At, Err: p.Err, Value: t.Signal.pool(p.Demand, p.GPUsPerHost, t.filter[labelModel])}
}

func (t Term) ofQueue(s *Sight) Reading {
	q, ok := s.Queues[t.key]
	if !ok {
		return Reading{Err: ErrNotYet}
	}
	m := t.Signal.queue(q.Depth)
	r := Reading{At: q.At, Value: m.value, Err: q.Err, AtLeast: q.Err != nil && m.state == there}
	if m.state != there && r.Err == nil {
		r.Err = errors.New("no source of the queue tells")
	}
	return r
}

func (t Term) ofGroups(s *Sight) Reading {
	j, err := t.job(s)
	if err != nil {
		return Reading{At: j.At, Err: err}
	}
	var l list
	for name, g := range j.Groups {
		if t.filter[labelGroup].ok(name) {
			l.add(is(t.Signal.group(g)))
		}
	}
	if len(l.values) == 0 {
		return Reading{At: j.At, Err: t.noGroup(j)}
	}
	v, err := t.By.of(l.values)
	return Reading{At: j.At, Value: v, Err: err}
}

// job is what Nomad said of the term's job.
func (t Term) job(s *Sight) (Job, error) {
	j, ok := s.Jobs[JobID{t.space, t.key}]
	switch {
	case !ok:
		return j, ErrNotYet
	case errors.Is(j.Err, nomad.ErrNotFound):
		var known []string
		if s.Fleet != nil {
			for id := range s.Fleet.jobs {
				if id.Namespace == t.space {
					known = append(known, id.Job)
				}
			}
		}
		mend := "is the namespace right?"
		if len(known) > 0 {
			mend = setting.Suggest(t.key, known)
		}
		return j, fmt.Errorf("there is no job %.80q in namespace %.80q; %s", t.key, t.space, mend)
	}
	return j, j.Err
}

func (t Term) noGroup(j Job) error {
	return fmt.Errorf("job %.80q has no such task group: it has %.300s", t.key, strings.Join(slices.Sorted(maps.Keys(j.Groups)), ", "))
}

// list collects values and what is missing.
type list struct {
	values  []float64
	missing int
	absent  int
}

func (l *list) add(m measured) {
	switch m.state {
	case there:
		l.values = append(l.values, m.value)
	case missing:
		l.missing++
	case none:
		l.absent++
	}
}

// coverage is the share of the values that are there.
func (l *list) coverage() float64 {
	if l.missing == 0 {
		return 1
	}
	return float64(len(l.values)) / float64(len(l.values)+l.missing)
}

// result makes one number of a list, if enough of it is there: what answered
// tells the share of the hosts, or instances, that did. Where it is not enough,
// sums and maxima are known to be at least what was seen.
func (t Term) result(s *Sight, at time.Time, l list, answered float64, silent func() error) Reading {
	r := Reading{At: at}
	covered := answered * l.coverage()
	v, err := t.By.of(l.values)
	r.Value = v
	switch {
	case t.Signal.Uncovered || covered >= s.Coverage && covered > 0:
		if r.Err = err; l.absent > 0 && len(l.values) == 0 {
			r.Err = fmt.Errorf("none of the %d there are offers it", l.absent)
		}
		return r
	case answered < 1:
		r.Err = silent()
	default:
		r.Err = fmt.Errorf("not known of %d of %d", l.missing, l.missing+len(l.values))
	}
	r.Err = fmt.Errorf("a coverage of %.0f%%, below the %.0f%% that are asked for: %w", 100*covered, 100*s.Coverage, r.Err)
	r.AtLeast = err == nil && slices.Contains([]string{Sum, Max, Count}, t.By.how)
	return r
}

// of makes one number of several. It is an error where there is none to make
// one of.
func (r reduction) of(values []float64) (float64, error) {
	if len(values) == 0 && r.how != Sum && r.how != Count {
		return 0, fmt.Errorf("there is nothing that could have a value, and %s of nothing is no number", cmp.Or(r.how, "the value"))
	}
	switch r.how {
	case Count:
		return float64(len(values)), nil
	case Min:
		return slices.Min(values), nil
	case Max:
		return slices.Max(values), nil
	case Quantile:
		sorted := slices.Sorted(slices.Values(values))
		return quantile(r.phi, sorted), nil
	case "":
		return values[0], nil
	}
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	if r.how == Avg {
		return sum / float64(len(values)), nil
	}
	return sum, nil
}

// quantile interpolates between the values around it, as Prometheus does.
// Source: prometheus/prometheus, promql/quantile.go, function quantile.
func quantile(phi float64, sorted []float64) float64 {
	rank := phi * float64(len(sorted)-1)
	lower := int(rank)
	upper := min(lower+1, len(sorted)-1)
	weight := rank - float64(lower)
	return sorted[lower]*(1-weight) + sorted[upper]*weight
}

// ofAgents is of the hosts of a pool that are up, or their GPUs.
func (t Term) ofAgents(s *Sight) Reading {
	f, p := s.Fleet, s.Pools[t.key]
	switch {
	case f == nil:
		return Reading{Err: ErrNotYet}
	case f.Err != nil:
		return Reading{At: f.At, Err: f.Err}
	case p.At.IsZero():
		return Reading{At: f.At, Err: fmt.Errorf("which hosts are up is not known: %w", cmp.Or(p.Err, ErrNotYet))}
	case p.Err != nil && f.At.Sub(p.At) > s.Apart:
		return Reading{At: f.At, Err: fmt.Errorf("which hosts are up has not been known for %s: %w", f.At.Sub(p.At).Round(time.Second), p.Err)}
	}
	var l list
	var silent []string
	up := 0
	for i, h := range p.Demand.Hosts {
		if i > 0 && h.Node == p.Demand.Hosts[i-1].Node || !t.filter[labelNode].ok(h.Node) {
			continue // two nodes of one name have one agent
		}
		up++
		r, asked := f.readings[h.Node]
		if !asked || r.Err != nil {
			silent = append(silent, h.Node)
			if t.Signal.Uncovered {
				l.add(t.Signal.host(nil))
			}
			continue
		}
		t.look(&l, &r.Snapshot)
	}
	answered := 1.0
	if up > 0 {
		answered = float64(up-len(silent)) / float64(up)
	}
	return t.result(s, f.At, l, answered, func() error { return f.why(silent, up) })
}

// look takes in the snapshot of one host.
func (t Term) look(l *list, s *fleet.Snapshot) {
	if t.Signal.Kind == HostKind {
		l.add(t.Signal.host(s))
		return
	}
	if s.Driver.State == fleet.DriverStarting {
		l.add(measured{state: missing}) // whatever GPUs it has
		return
	}
	for i := range s.GPUs {
		g := &s.GPUs[i]
		switch {
		case !t.filter[labelGPU].ok(g.UUID) || !t.filter[labelModel].ok(g.Name):
		case !t.Signal.counts && g.State == fleet.StateLost: // nothing runs there
		case !t.Signal.counts && !g.State.Usable(): // it hangs, or has not answered yet: it may be busy
			l.add(measured{state: missing})
		default:
			l.add(t.Signal.gpu(g))
		}
	}
}

// why says which agents are silent, and what is known of the first of them.
func (f *Fleet) why(nodes []string, of int) error {
	const most = 3
	text := fmt.Sprintf("%d of %d agents gave no answer: %s", len(nodes), of, strings.Join(nodes[:min(len(nodes), most)], ", "))
	if len(nodes) > most {
		text += fmt.Sprintf(" and %d more", len(nodes)-most)
	}
	r, asked := f.readings[nodes[0]]
	if !asked {
		return fmt.Errorf("%s; no agent of node %s is in Consul: does the agent run there, with its -node the name of the Nomad node?", text, nodes[0])
	}
	return fmt.Errorf("%s; %w", text, r.Err)
}

// ofInstances is of the instances of a job. How many of them there must be to
// see is what Nomad says to be running.
func (t Term) ofInstances(s *Sight) Reading {
	f := s.Fleet
	j, err := t.job(s)
	switch {
	case f == nil:
		return Reading{Err: ErrNotYet}
	case f.Err != nil:
		return Reading{At: f.At, Err: f.Err}
	case err != nil:
		return Reading{At: f.At, Err: err}
	case f.At.Sub(j.At).Abs() > s.Apart:
		return Reading{At: f.At, Err: fmt.Errorf("how many instances run was read %s apart from what they do", f.At.Sub(j.At).Abs().Round(time.Second))}
	}
	at := f.At
	if j.At.Before(at) {
		at = j.At
	}
	running, groups := 0, 0
	for name, g := range j.Groups {
		if t.filter[labelGroup].ok(name) {
			running += g.Running
			groups++
		}
	}
	if groups == 0 {
		return Reading{At: at, Err: t.noGroup(j)}
	}
	var l list
	view := jobView{}
	of := f.jobs[JobID{t.space, t.key}]
	allocs := make(map[string]struct{}, len(of))
	l.values = make([]float64, 0, len(of))
	group, node, model, engine, state := t.filter[labelGroup], t.filter[labelNode], t.filter[labelModel], t.filter[labelEngine], t.filter[labelState]
	for _, i := range of {
		if !group.ok(i.Group) {
			continue
		}
		if i.State != fleet.Cold {
			allocs[i.Alloc] = struct{}{}
		}
		switch {
		case !node.ok(i.node) || !model.ok(i.Model) || !engine.ok(i.Engine) || !state.ok(string(i.State)):
		case t.Signal.Kind == JobKind:
			if i.State.Ready() {
				view.ready = append(view.ready, i.Instance)
				l.add(work(i.Instance))
			}
		default:
			m := t.Signal.instance(i.Instance)
			if m.state == none && t.Signal.Recorded {
				m.state = missing // demand of which a part is never told would be too low
			}
			l.add(m)
		}
	}
	answered := 1.0
	if len(allocs) < running {
		answered = float64(len(allocs)) / float64(running)
	}
	silent := func() error {
		return fmt.Errorf("of the %d instances that Nomad says to be running, agents see %d: do they answer, and look for model servers?", running, len(allocs))
	}
	if t.Signal.Kind != JobKind {
		return t.result(s, at, l, answered, silent)
	}
	whole := t
	whole.By = reduction{how: Sum}
	r := whole.result(s, at, l, answered, silent)
	if r.Err != nil && !r.AtLeast {
		return r
	}
	view.demand = r.Value
	if r.Value, err = t.Signal.job(view); err != nil {
		return Reading{At: at, Err: cmp.Or(r.Err, err)}
	}
	return r
}
