package fleet

import (
	"fmt"
	"math"
)

// Bounds on the instances of one host. A snapshot beyond them is refused.
const (
	MaxInstances = 256 // model servers in one snapshot
	MaxWarmUps   = 256 // kinds of model whose warm-up was measured
)

// Instances are the model servers that Nomad's allocations run on a host. A
// snapshot has none of it where the agent does not look for them.
type Instances struct {
	// Known is set when List is what Nomad said lately. Otherwise it may lack
	// instances, and have some that are gone.
	Known bool   `json:"known"`
	Why   string `json:"why,omitempty"` // why it is not known
	// List has each instance once, sorted by ID.
	List []Instance `json:"list,omitempty"`
	// WarmUps is how long warm-ups took on this host, as measured.
	WarmUps []WarmUp `json:"warm_ups,omitempty"`
}

// InstanceState is how far an instance is from answering requests. What each
// state is proven by is in docs/reference/model-servers.md.
type InstanceState string

const (
	// Cold is an allocation whose task does not run: it is about to be
	// started, fetches its artifacts, or was ended and is to be started again.
	// The instance answers nothing, and its load is not known. It ends when
	// the task runs, in Warming, or when Nomad stops the allocation.
	Cold InstanceState = "cold"
	// Warming is a task that runs and does not yet answer: it loads its
	// model, compiles, or is being sent the warm-up request. It ends in
	// Warm when the server was ready in two looks in a row and has answered the
	// warm-up request, if one is configured, in Asleep when it says that it
	// sleeps, in Cold when the task ends, or in Unhealthy when it took
	// longer than is allowed.
	Warming InstanceState = "warming"
	// Asleep is a server that gave up its GPU's memory and can be woken
	// faster than a new one starts. It gets no requests. It ends when the
	// server was awake and ready in two looks in a row, in Warm.
	Asleep InstanceState = "asleep"
	// Warm is an instance that would answer now and has nothing to do. It
	// gets requests. It ends with the first request that it works on, in
	// Serving, or for one of the reasons for which Serving ends.
	Warm InstanceState = "warm"
	// Serving is an instance that works on requests and has room for more. It
	// ends when there were none for some seconds, in Warm, when requests
	// wait, in Saturated, after three bad looks in a row or at once when a GPU
	// of it is lost, in Unhealthy, when it is to end, in Draining, when it
	// sleeps, in Asleep, or when its task ends, in Cold.
	Serving InstanceState = "serving"
	// Saturated is an instance that works on all that it can: for some
	// seconds requests have waited, or its KV cache has been nearly full. It
	// still gets requests, because all others may be as full. It ends when
	// neither has been so for some seconds, or as Serving does.
	Saturated InstanceState = "saturated"
	// Draining is an instance that is to end or to pause: Nomad stops its
	// allocation, the host is about to go, or an operator said so. It gets no
	// new requests and finishes those that it has. It ends with the
	// allocation, or when an operator takes it back.
	Draining InstanceState = "draining"
	// Unhealthy is an instance that ran and cannot be relied on: its server
	// failed three looks in a row, one of its GPUs is lost, or it never became
	// ready. It gets no requests. It ends when the cause has been gone for a
	// time that doubles each time it falls back, or when its task is started
	// again, in Warming.
	Unhealthy InstanceState = "unhealthy"
)

// InstanceStates are all states of an instance, in the order of its life.
var InstanceStates = []InstanceState{Cold, Warming, Asleep, Warm, Serving, Saturated, Draining, Unhealthy}

// Ready says whether an instance in this state gets requests: it is capacity.
func (s InstanceState) Ready() bool { return s == Warm || s == Serving || s == Saturated }

// Starting says whether an instance in this state is on its way to be ready by
// itself.
func (s InstanceState) Starting() bool { return s == Cold || s == Warming }

// Instance is one model server in one Nomad allocation.
type Instance struct {
	// ID is the instance's ID on this host, and that of its service in Consul.
	ID string `json:"id"`

	Namespace string `json:"namespace"`
	Job       string `json:"job"`
	Group     string `json:"group"`
	Task      string `json:"task"`
	Alloc     string `json:"alloc_id"`
	// GPUs are the UUIDs of the devices that Nomad gave to the allocation, and
	// GPUName the model of the first of them, where the driver tells.
	GPUs    []string `json:"gpus,omitempty"`
	GPUName string   `json:"gpu_name,omitempty"`

	Engine  string `json:"engine,omitempty"`  // name of its profile: vllm, sglang, ...; absent until it is known
	Model   string `json:"model,omitempty"`   // the first that the server names; absent until it does
	Address string `json:"address,omitempty"` // host:port for requests; absent until Nomad gave it a port
	// Service is the Consul service under which it is found while it is ready.
	Service string `json:"service,omitempty"`

	State InstanceState `json:"state"`
	For   float64       `json:"for_s"`         // seconds in this state
	Why   string        `json:"why,omitempty"` // what proves the state, for people
	// Changes counts changes of the state since the agent first saw it.
	Changes int `json:"changes"`
	// Expected is how many more seconds the warm-up is expected to take: the
	// median of those measured less the time so far, not below zero. Present
	// only while it warms and there is one to compare with.
	Expected *float64 `json:"expected_s,omitempty"`
	// WarmUp is how long it took from the start of its task to be ready, in
	// seconds. Absent if the agent was not there to see.
	WarmUp *float64 `json:"warm_up_s,omitempty"`

	// Load is what the server says of its work. A signal that it does not
	// offer, or has not told yet, is absent; see Signals.
	Load map[Signal]Value `json:"load,omitempty"`
	// Probe is why the last look at the server failed; empty if it did not.
	Probe string `json:"probe_error,omitempty"`
}

// Fresh is the value of a signal if it is there and was read lately.
func (i Instance) Fresh(s Signal) (float64, bool) { return i.Load[s].Fresh() }

// WarmUp is how long instances of one kind take to become ready.
type WarmUp struct {
	Model string `json:"model"`
	// GPU is the name of the GPU's model; empty where the driver does not tell.
	GPU string `json:"gpu,omitempty"`
	// From is the state in which they began: cold, for a start of the task,
	// or asleep.
	From   InstanceState `json:"from"`
	Count  int           `json:"count"` // of the last warm-ups, 20 at most
	Median float64       `json:"p50_s"`
	P95    float64       `json:"p95_s"` // the longest, if there are fewer than 20
}

// Signal names one thing that a model server says of its work.
type Signal string

// The signals. Quantiles and rates are over the last minute.
const (
	Waiting     Signal = "waiting_requests"
	Running     Signal = "running_requests"
	Slots       Signal = "slots"
	KVUsed      Signal = "kv_used_ratio"
	Preemptions Signal = "preemptions_per_second"
	Finished    Signal = "requests_per_second"
	TTFTMedian  Signal = "ttft_p50_seconds"
	TTFTP95     Signal = "ttft_p95_seconds"
	ITLMedian   Signal = "itl_p50_seconds"
	ITLP95      Signal = "itl_p95_seconds"
	QueueP95    Signal = "queue_p95_seconds"
	LatencyP95  Signal = "latency_p95_seconds"
)

// Signals says what each signal is, in the order of the reference pages.
var Signals = []struct {
	Signal Signal
	Max    float64 // beyond it a value is refused; none is below 0
	Doc    string
}{
	{Waiting, 1e9, "Requests that wait to be worked on."},
	{Running, 1e9, "Requests that are worked on."},
	{Slots, 1e9, "Requests that can be worked on at a time."},
	{KVUsed, 1, "Share of the KV cache that is in use."},
	{Preemptions, 1e9, "Requests a second that were put back for want of KV cache: a sign of overload."},
	{Finished, 1e9, "Requests a second that ended."},
	{TTFTMedian, 1e6, "Time to the first token, median."},
	{TTFTP95, 1e6, "Time to the first token, 95th percentile."},
	{ITLMedian, 1e6, "Time from one token to the next, median."},
	{ITLP95, 1e6, "Time from one token to the next, 95th percentile."},
	{QueueP95, 1e6, "Time that requests waited, 95th percentile."},
	{LatencyP95, 1e6, "Time from a request to the end of its answer, 95th percentile."},
}

// check refuses instances that no agent of this schema writes.
func (i *Instances) check() error {
	if i == nil {
		return nil
	}
	if len(i.List) > MaxInstances || len(i.WarmUps) > MaxWarmUps {
		return fmt.Errorf("%d instances and %d warm-ups, more than %d and %d", len(i.List), len(i.WarmUps), MaxInstances, MaxWarmUps)
	}
	ids := map[string]bool{}
	for n, inst := range i.List {
		if err := inst.check(); err != nil {
			return fmt.Errorf("list[%d]: %w", n, err)
		}
		if ids[inst.ID] {
			return fmt.Errorf("list[%d]: ID %.128q is there twice", n, inst.ID)
		}
		ids[inst.ID] = true
	}
	for n, w := range i.WarmUps {
		if len(w.Model) > maxText || len(w.GPU) > maxText || w.Count < 1 || !seconds(w.Median) || !seconds(w.P95) || w.P95 < w.Median {
			return fmt.Errorf("warm_ups[%d]: %d of p50 %g s and p95 %g s", n, w.Count, w.Median, w.P95)
		}
	}
	return nil
}

func (i Instance) check() error {
	for _, text := range append([]string{
		i.ID, i.Namespace, i.Job, i.Group, i.Task, i.Alloc, i.GPUName, i.Engine, i.Model, i.Address, i.Service, i.Why, i.Probe,
	}, i.GPUs...) {
		if len(text) > maxText {
			return fmt.Errorf("a text of %d bytes, more than %d", len(text), maxText)
		}
	}
	known := false
	for _, s := range InstanceStates {
		known = known || i.State == s
	}
	switch {
	case !known:
		return fmt.Errorf("state %.20q is none that this reader knows", i.State)
	case i.ID == "" || i.Job == "" || i.Alloc == "":
		return fmt.Errorf("ID %.128q of job %.128q: want ID, job and allocation", i.ID, i.Job)
	case len(i.GPUs) > MaxGPUs:
		return fmt.Errorf("%d GPUs, more than %d", len(i.GPUs), MaxGPUs)
	case !seconds(i.For), i.Expected != nil && !seconds(*i.Expected), i.WarmUp != nil && !seconds(*i.WarmUp), i.Changes < 0:
		return fmt.Errorf("a time or a count below zero")
	}
	for _, s := range Signals {
		if v, there := i.Load[s.Signal]; there {
			if err := v.check(0, s.Max); err != nil {
				return fmt.Errorf("load.%s: %w", s.Signal, err)
			}
		}
	}
	return nil
}

func seconds(s float64) bool { return s >= 0 && s <= math.MaxInt32 }
