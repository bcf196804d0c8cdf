package nomad

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/sync/errgroup"
)

// Demand is how many GPUs of a pool jobs hold and wait for. It does not depend
// on there being a node.
type Demand struct {
	Allocated int // GPUs that allocations on the pool's nodes hold
	Queued    int // GPUs that allocations wait for which could not be placed
	// Hosts are the pool's nodes that Nomad knows and that are not down, by
	// name, sorted. Of several nodes of one name that are alive each is there.
	Hosts []HostDemand
	// Jobs are the task groups that wait for GPUs of the pool, those that
	// were not counted among them, sorted by namespace, job and group.
	Jobs []JobDemand
}

// HostDemand is one of the pool's nodes that is up.
type HostDemand struct {
	Node  string // its name
	Ready bool   // ready and eligible: work can be placed on it
	GPUs  int    // GPUs that allocations on it hold
}

// JobDemand is one task group that waits.
type JobDemand struct {
	Namespace string
	Job       string
	Group     string
	Instances int  // allocations that could not be placed
	GPUs      int  // GPUs that each asks for
	Counted   bool // false: more hosts would not help
	Quota     bool // it waits for a quota, which is why it is not counted
	// Model is the one model of GPU that it asks for; empty if any will do, or
	// any of several.
	Model string
	// Why is why it waits, as Nomad's scheduler said, and why it was not
	// counted if it was not.
	Why string
	// Since is when the scheduler last failed to place it anew.
	Since time.Time
	// Ignored are its constraints that were not looked at: it is counted
	// even if no host of the pool meets them.
	Ignored []string
}

// Demand reads the demand for the pool's GPUs: what allocations on its nodes
// hold, and what blocked evaluations wait for. Jobs that run on every node are
// no demand. A job counts if its node pool and datacenters take in the pool's,
// it asks for the pool's device, and a host of the pool could ever have it.
//
// An allocation that Nomad wants stopped is not demand, since a successor,
// if it has one, is placed or queued itself; nor is one on a node that was cut
// off.
//
// It is not read at one moment: what is held first, what waits after that. An
// allocation that is placed in between, within milliseconds, is missing once.
// The other order would count it twice, and a host would be powered on for it.
func (c *Client) Demand(ctx context.Context, spec PoolSpec) (Demand, error) {
	if err := spec.Validate(); err != nil {
		return Demand{}, err
	}
	nodes, err := c.poolNodes(ctx, spec)
	if err != nil {
		return Demand{}, err
	}
	held, err := c.held(ctx, spec, nodes)
	if err != nil {
		return Demand{}, err
	}
	evals, err := c.blocked(ctx)
	if err != nil {
		return Demand{}, err
	}
	waits, err := c.waits(ctx, evals)
	if err != nil {
		return Demand{}, err
	}
	allocated := 0
	for _, n := range held {
		allocated += n
	}
	d := demandOf(spec, offerOf(spec, nodes), allocated, waits)
	d.Hosts = hostsOf(spec, nodes, held)
	return d, nil
}

// poolNodes lists the pool's nodes that Nomad knows.
func (c *Client) poolNodes(ctx context.Context, spec PoolSpec) ([]*api.NodeListStub, error) {
	if len(spec.Nodes) > 0 {
		return c.nodesNamed(ctx, spec.Nodes)
	}
	return c.nodesIn(ctx, spec.nodePool())
}

// held is the number of GPUs that jobs hold on each of the nodes, by its ID.
func (c *Client) held(ctx context.Context, spec PoolSpec, nodes []*api.NodeListStub) (map[string]int, error) {
	held := make(map[string]int, len(nodes))
	names := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		held[n.ID], names[n.Name] = 0, true
	}
	allocs, err := c.allocsOn(ctx, slices.Sorted(maps.Keys(names)))
	if err != nil {
		return nil, err
	}
	gpu := parseDevice(spec.Device)
	for _, a := range allocs {
		if _, ours := held[a.NodeID]; ours && wanted(a) && !everywhere(a) {
			held[a.NodeID] += heldGPUs(a.AllocatedResources, gpu)
		}
	}
	return held, nil
}

// hostsOf are the nodes of the pool that are not down. A node of another node
// pool is not the pool's, even if it has a host's name.
func hostsOf(spec PoolSpec, nodes []*api.NodeListStub, held map[string]int) []HostDemand {
	var hosts []HostDemand
	for _, n := range nodes {
		if n.Status == api.NodeStatusDown || n.NodePool != spec.nodePool() {
			continue
		}
		ready := n.Status == api.NodeStatusReady && n.SchedulingEligibility == api.NodeSchedulingEligible && !n.Drain
		hosts = append(hosts, HostDemand{Node: n.Name, Ready: ready, GPUs: held[n.ID]})
	}
	slices.SortStableFunc(hosts, func(a, b HostDemand) int { return cmp.Compare(a.Node, b.Node) })
	return hosts
}

// wanted reports whether an allocation runs, or is about to, and shall.
func wanted(a *api.AllocationListStub) bool {
	return a.DesiredStatus == api.AllocDesiredStatusRun &&
		(a.ClientStatus == api.AllocClientStatusRunning || a.ClientStatus == api.AllocClientStatusPending)
}

// blocked lists the blocked evaluations of all namespaces, the newest of each
// job: while Nomad replaces one by another, a job has two.
func (c *Client) blocked(ctx context.Context) ([]*api.Evaluation, error) {
	q := api.QueryOptions{
		Namespace: api.AllNamespacesNamespace,
		Params:    map[string]string{"status": api.EvalStatusBlocked},
	}
	evals, err := pages(ctx, c, "list blocked evaluations", q, c.api.Evaluations().List)
	if err != nil {
		return nil, err
	}
	return newest(evals), nil
}

// jobID names a job in all namespaces.
type jobID struct{ namespace, id string }

func newest(evals []*api.Evaluation) []*api.Evaluation {
	byJob := make(map[jobID]*api.Evaluation, len(evals))
	for _, e := range evals {
		// The server has filtered by status; a system job's evaluation is
		// for one node and asks for no new one.
		if e.Status != api.EvalStatusBlocked || e.Type == api.JobTypeSystem || e.Type == api.JobTypeSysbatch {
			continue
		}
		id := jobID{e.Namespace, e.JobID}
		if old := byJob[id]; old == nil || e.CreateIndex > old.CreateIndex {
			byJob[id] = e
		}
	}
	return slices.SortedFunc(maps.Values(byJob), func(a, b *api.Evaluation) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.JobID, b.JobID))
	})
}

// wait is a job with a blocked evaluation.
type wait struct {
	eval *api.Evaluation
	job  jobAsk
	// queued is the number of allocations of each group that the job's
	// summary says to be queued; nil if it was not needed or is not there.
	queued map[string]int
}

// atOnce bounds the requests that are under way at one time.
const atOnce = 8

// waits reads the jobs of blocked evaluations. A job that is gone by now is
// left out.
func (c *Client) waits(ctx context.Context, evals []*api.Evaluation) ([]wait, error) {
	waits := make([]*wait, len(evals))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, e := range evals {
		group.Go(func() (err error) {
			waits[i], err = c.wait(gctx, e)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	c.asks.keep(evals)
	var there []wait
	for _, w := range waits {
		if w != nil {
			there = append(there, *w)
		}
	}
	return there, nil
}

func (c *Client) wait(ctx context.Context, e *api.Evaluation) (*wait, error) {
	job, ok, err := c.jobAsk(ctx, e)
	if err != nil || !ok {
		return nil, err
	}
	w := &wait{eval: e, job: job}
	if job.gpus && !single(e) {
		w.queued, err = c.summary(ctx, e)
	}
	return w, err
}

// jobAsk is what a job asks for, and where it may run.
type jobAsk struct {
	index       uint64 // JobModifyIndex
	nodePool    string
	datacenters []string
	groups      []ask
	gpus        bool // some group asks for some device
}

// asks remembers jobs from one reading to the next, since thousands of
// dispatched jobs may wait, and what a job asks for changes only with its
// JobModifyIndex. The zero value is ready.
type asks struct {
	mu   sync.Mutex
	jobs map[jobID]jobAsk
}

func (a *asks) get(e *api.Evaluation) (jobAsk, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	j, ok := a.jobs[jobID{e.Namespace, e.JobID}]
	return j, ok && j.index == e.JobModifyIndex
}

func (a *asks) put(e *api.Evaluation, j jobAsk) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.jobs == nil {
		a.jobs = make(map[jobID]jobAsk)
	}
	a.jobs[jobID{e.Namespace, e.JobID}] = j
}

// keep forgets all jobs but those of the evaluations.
func (a *asks) keep(evals []*api.Evaluation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	wait := make(map[jobID]bool, len(evals))
	for _, e := range evals {
		wait[jobID{e.Namespace, e.JobID}] = true
	}
	maps.DeleteFunc(a.jobs, func(id jobID, _ jobAsk) bool { return !wait[id] })
}

// jobAsk reads the job of an evaluation; false if there is none.
func (c *Client) jobAsk(ctx context.Context, e *api.Evaluation) (jobAsk, bool, error) {
	if j, ok := c.asks.get(e); ok {
		return j, true, nil
	}
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	job, _, err := c.api.Jobs().Info(e.JobID, (&api.QueryOptions{Namespace: e.Namespace}).WithContext(reqCtx))
	if err != nil {
		return jobAsk{}, false, c.unlessGone(ctx, "read job "+e.JobID, err)
	}
	j := jobAskOf(job)
	c.asks.put(e, j)
	return j, true, nil
}

func jobAskOf(job *api.Job) jobAsk {
	j := jobAsk{nodePool: api.NodePoolDefault, datacenters: job.Datacenters, groups: asksOf(job)}
	if job.NodePool != nil && *job.NodePool != "" {
		j.nodePool = *job.NodePool
	}
	if job.JobModifyIndex != nil {
		j.index = *job.JobModifyIndex
	}
	j.gpus = slices.ContainsFunc(j.groups, func(a ask) bool { return len(a.devices) > 0 })
	return j
}

// summary reads how many allocations of each group of a job are queued.
func (c *Client) summary(ctx context.Context, e *api.Evaluation) (map[string]int, error) {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	sum, _, err := c.api.Jobs().Summary(e.JobID, (&api.QueryOptions{Namespace: e.Namespace}).WithContext(reqCtx))
	if err != nil {
		return nil, c.unlessGone(ctx, "read the summary of job "+e.JobID, err)
	}
	queued := make(map[string]int, len(sum.Summary))
	for group, s := range sum.Summary {
		queued[group] = s.Queued
	}
	return queued, nil
}

// unlessGone is the error of a request, or nil where it says that the job was
// removed meanwhile.
func (c *Client) unlessGone(ctx context.Context, what string, err error) error {
	if err = c.failed(ctx, what, err); errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// demandOf decides what counts.
func demandOf(spec PoolSpec, o offer, allocated int, waits []wait) Demand {
	d := Demand{Allocated: allocated}
	for _, w := range waits {
		if !w.job.admits(spec) {
			continue
		}
		queued := w.instances()
		for _, a := range w.job.groups {
			n := queued[a.group]
			gpus, misfit, ignored := o.fits(a)
			if n == 0 || gpus == 0 {
				continue
			}
			jd := JobDemand{
				Namespace: w.eval.Namespace,
				Job:       w.eval.JobID,
				Group:     a.group,
				Instances: n,
				GPUs:      gpus,
				Why:       whyBlocked(w.eval.FailedTGAllocs[a.group]),
				Since:     time.Unix(0, w.eval.CreateTime),
				Ignored:   ignored,
				Model:     o.model(a),
			}
			switch {
			case misfit != "":
				jd.Why = misfit
			case w.eval.QuotaLimitReached != "":
				jd.Quota = true
				jd.Why = fmt.Sprintf("quota %q is used up, which hosts do not change", w.eval.QuotaLimitReached)
			case len(w.eval.MissingNonNodeResources) > 0:
				jd.Why = "waits for what no host brings: " + strings.Join(w.eval.MissingNonNodeResources, ", ")
			default:
				jd.Counted = true
				d.Queued += n * gpus
			}
			d.Jobs = append(d.Jobs, jd)
		}
	}
	slices.SortFunc(d.Jobs, func(a, b JobDemand) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Job, b.Job), cmp.Compare(a.Group, b.Group))
	})
	return d
}

// admits reports whether the job may run on the pool's nodes.
func (j jobAsk) admits(spec PoolSpec) bool {
	if j.nodePool != spec.nodePool() && j.nodePool != api.NodePoolAll {
		return false
	}
	if spec.Datacenter == "" {
		return true
	}
	return slices.ContainsFunc(j.datacenters, func(pattern string) bool {
		ok, err := path.Match(pattern, spec.Datacenter)
		return ok && err == nil
	})
}

// single reports whether an evaluation leaves no doubt of what it waits for:
// one allocation of one group, as a dispatched job does as a rule.
func single(e *api.Evaluation) bool {
	if len(e.FailedTGAllocs) != 1 {
		return false
	}
	for _, m := range e.FailedTGAllocs {
		return m != nil && m.CoalescedFailures == 0
	}
	return false
}

// instances is how many allocations of each group wait.
//
// Two places say so, and neither is right alone. The evaluation's
// FailedTGAllocs holds 1 + CoalescedFailures for each group that failed when
// it was made; it stays as it was when some of them are placed later and the
// evaluation is blocked again. The job's summary follows each placement, but
// knows nothing of why, and is known to drift. So a group waits if the
// evaluation says so, for as many as the smaller of both numbers. If nothing
// would be left of an evaluation that is blocked all the same, the summary is
// wrong, and the evaluation is believed.
//
// An evaluation without FailedTGAllocs was blocked because its plans were
// rejected too often: there, the summary is all there is.
func (w wait) instances() map[string]int {
	if len(w.eval.FailedTGAllocs) == 0 {
		return w.queued
	}
	said := make(map[string]int)
	both := make(map[string]int)
	left := 0
	for group, m := range w.eval.FailedTGAllocs {
		said[group] = 1
		if m != nil {
			said[group] += max(m.CoalescedFailures, 0)
		}
		both[group] = said[group]
		if q, ok := w.queued[group]; ok {
			both[group] = max(min(said[group], q), 0)
		}
		left += both[group]
	}
	if left == 0 {
		return said
	}
	return both
}

// whyBlocked is what the scheduler said of a group, in one line.
func whyBlocked(m *api.AllocationMetric) string {
	if m == nil {
		return "the scheduler gave no reason"
	}
	var parts []string
	count := func(counts map[string]int, format string) {
		for _, what := range slices.Sorted(maps.Keys(counts)) {
			parts = append(parts, fmt.Sprintf(format, what, counts[what]))
		}
	}
	count(m.DimensionExhausted, "%s exhausted on %d nodes")
	count(m.ConstraintFiltered, "%s on %d nodes")
	if len(m.QuotaExhausted) > 0 {
		parts = append(parts, "quota: "+strings.Join(m.QuotaExhausted, ", "))
	}
	if len(parts) == 0 && m.NodesEvaluated == 0 {
		return "no node is up"
	}
	const most = 6
	if len(parts) > most {
		parts = append(parts[:most], "and more")
	}
	return strings.Join(parts, "; ")
}
