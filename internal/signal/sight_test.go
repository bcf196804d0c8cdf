package signal

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/queue"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func ok(v float64) fleet.Value { return fleet.Value{Quality: fleet.QualityOK, Value: &v, Age: 0.5} }

func ptr[T any](v T) *T { return &v }

// gpu is a GPU of which everything is known, busy as given.
func gpu(i int, busy float64) fleet.GPU {
	read := fleet.Read{Quality: fleet.QualityOK, Age: 1}
	return fleet.GPU{
		Index: i, UUID: fmt.Sprintf("GPU-%d", i), Name: "NVIDIA H100 80GB HBM3", State: fleet.StateOK,
		Health: fleet.Health{Verdict: fleet.HealthOK},
		Busy:   ok(busy), BusyOver: []fleet.Window{{Seconds: 60, Mean: 0.33, Coverage: 1}, {Seconds: 10, Mean: busy, Coverage: 1}},
		Activity:   fleet.Activity{Read: read, SM: &busy, SMOccupancy: &busy, Tensor: &busy, DRAM: &busy, Graphics: &busy},
		MemoryUsed: ok(20e9), MemoryReserved: ok(1e9), MemoryTotal: ok(80e9),
		Power: ok(350), PowerLimit: ok(700), Energy: ok(1e6), Temperature: ok(50), MemoryTemperature: ok(60),
		Clocks:      fleet.Clocks{Read: read, SM: ptr(1.9e9)},
		Throttle:    fleet.Throttle{Read: read, Reasons: []string{"sw_power_cap"}},
		XIDs:        fleet.XIDs{Quality: fleet.QualityOK, List: []fleet.XID{{Code: 13, Class: fleet.XIDApplication, Count: 5}, {Code: 79, Class: fleet.XIDCycle, Count: 2, Open: true}}},
		ECC:         fleet.ECC{Read: read, Corrected: ptr(int64(3)), Uncorrected: ptr(int64(1))},
		Rows:        fleet.Rows{Read: read, Pending: true},
		Recovery:    fleet.Recovery{Read: read, Action: "reset"},
		Fabric:      fleet.Fabric{Read: read, State: "completed"},
		NVLink:      fleet.NVLink{Read: read, Links: 18, Active: 17, Errors: ptr(int64(4))},
		PCIeReplays: ok(6),
		MIG:         fleet.MIG{Read: read},
		Processes:   fleet.Processes{Quality: fleet.QualityOK, Total: 2, Outside: 1},
	}
}

// instance is a ready model server of which everything is known.
func instance(id string, running, waiting float64) fleet.Instance {
	i := fleet.Instance{
		ID: id, Namespace: "default", Job: "chat", Group: "web", Alloc: "alloc-" + id, State: fleet.Serving,
		Model: "qwen", Engine: "vllm", WarmUp: ptr(90.0), Load: map[fleet.Signal]fleet.Value{},
	}
	for _, s := range fleet.Signals {
		i.Load[s.Signal] = ok(0.25)
	}
	i.Load[fleet.Running], i.Load[fleet.Waiting], i.Load[fleet.Slots] = ok(running), ok(waiting), ok(8)
	return i
}

func snapshot(node string, gpus []fleet.GPU, instances ...fleet.Instance) fleet.Reading {
	s := fleet.Snapshot{Node: node, Driver: fleet.Driver{State: fleet.DriverOK}, GPUs: gpus, Outside: fleet.Outside{Known: true, GPUs: 1, Processes: 2}}
	if instances != nil {
		s.Instances = &fleet.Instances{Known: true, List: instances}
	}
	return fleet.Reading{Snapshot: s, At: now}
}

// sound is a sight in which all is known: two hosts with two GPUs each, of which
// one is idle, a job with two instances, and a queue.
func sound() *Sight {
	other := instance("3", 100, 100)
	other.Job = "other"
	still := gpu(1, 0)
	still.Processes = fleet.Processes{Quality: fleet.QualityOK}
	return &Sight{
		Coverage: 0.9, Apart: time.Minute,
		Pools: map[string]Pool{"h100": {At: now, GPUsPerHost: 2, Demand: nomad.Demand{
			Allocated: 3, Queued: 2,
			Hosts: []nomad.HostDemand{{Node: "a", Ready: true, GPUs: 2}, {Node: "b"}},
			Jobs: []nomad.JobDemand{
				{Instances: 2, GPUs: 1, Counted: true, Model: "H100"},
				{Instances: 1, GPUs: 1, Counted: true},
				{Instances: 4, GPUs: 2, Quota: true},
				{Instances: 9, GPUs: 9},
			},
		}}, "a100": {At: now}},
		Fleet: NewFleet(now, map[string]fleet.Reading{
			"a": snapshot("a", []fleet.GPU{gpu(0, 0.8), gpu(1, 0.4)}, instance("1", 6, 0)),
			"b": snapshot("b", []fleet.GPU{gpu(2, 0.4), still}, instance("2", 8, 10)),
			"c": snapshot("c", []fleet.GPU{gpu(9, 1)}, other), // of no pool, and of another job
		}),
		Jobs: map[JobID]Job{{"default", "chat"}: {At: now, Groups: map[string]nomad.GroupScale{
			"web": {Wanted: 5, Placed: 3, Running: 2}, "proxy": {Wanted: 1, Placed: 1},
		}}},
		Queues: map[string]Queue{"tasks": {At: now, Depth: queue.Depth{
			Reading: queue.Reading{Waiting: 40, Running: ptr(2.0), Oldest: ptr(90 * time.Second)}, Need: 8.4, Active: true,
		}}, "emails": {At: now, Depth: queue.Depth{Reading: queue.Reading{Waiting: 1}, Need: 1}}},
	}
}

func (s *Sight) edit(node string, change func(r *fleet.Reading)) *Sight {
	readings := s.Fleet.readings
	r := readings[node]
	change(&r)
	readings[node] = r
	s.Fleet = NewFleet(s.Fleet.At, readings)
	return s
}

func ask(t *testing.T, s *Sight, text string) Reading {
	t.Helper()
	q, err := Parse(text, known)
	if err != nil {
		t.Fatal(err)
	}
	return q.Value(s)
}

// What the signals are worth where all is known.
func TestValues(t *testing.T) {
	for text, want := range map[string]float64{
		`demand_gpus{pool="h100"}`:                                              5,
		`demand_hosts{pool="h100"}`:                                             2.5,
		`allocated_gpus{pool="h100"}`:                                           3,
		`queued_gpus{pool="h100"}`:                                              3,
		`queued_gpus{pool="h100",model="H100"}`:                                 2,
		`queued_gpus{pool="h100",model=""}`:                                     1,
		`queued_gpus{pool="h100",model=~"H.*|"}`:                                3,
		`quota_gpus{pool="h100"}`:                                               8,
		`queued_groups{pool="h100"}`:                                            2,
		`hosts_up{pool="h100"}`:                                                 2,
		`hosts_ready{pool="h100"}`:                                              1,
		`hosts_occupied{pool="h100"}`:                                           1,
		`agents_answering{pool="h100"}`:                                         2,
		`agent_coverage_ratio{pool="h100"}`:                                     1,
		`host_gpus{pool="h100"}`:                                                4,
		`host_usable_gpus{pool="h100",node="a"}`:                                2,
		`host_outside_gpus{pool="h100"}`:                                        2,
		`host_outside_processes{pool="h100"}`:                                   4,
		`host_driver_up{pool="h100"}`:                                           2,
		`host_idle{pool="h100"}`:                                                0,
		`gpu_busy_ratio{pool="h100"}`:                                           0.4,
		`max(gpu_busy_ratio{pool="h100"})`:                                      0.8,
		`min(gpu_busy_ratio{pool="h100"})`:                                      0,
		`count(gpu_busy_ratio{pool="h100"})`:                                    4,
		`sum(gpu_busy_ratio{pool="h100"})`:                                      1.6,
		`quantile(0.5, gpu_busy_ratio{pool="h100"})`:                            0.4,
		`quantile(1, gpu_busy_ratio{pool="h100"})`:                              0.8,
		`quantile(0.25, gpu_busy_ratio{pool="h100"})`:                           0.3,
		`gpu_busy_ratio{pool="h100",gpu="GPU-0"}`:                               0.8,
		`gpu_sm_ratio{pool="h100"}`:                                             0.4,
		`gpu_idle{pool="h100"}`:                                                 1,
		`gpu_memory_used_ratio{pool="h100"}`:                                    0.25,
		`gpu_memory_total_bytes{pool="h100"}`:                                   320e9,
		`gpu_power_watts{pool="h100"}`:                                          1400,
		`gpu_power_ratio{pool="h100"}`:                                          0.5,
		`gpu_throttled{pool="h100"}`:                                            0,
		`gpu_usable{pool="h100"}`:                                               4,
		`gpu_xid_errors{pool="h100"}`:                                           8,
		`gpu_open_xid_errors{pool="h100"}`:                                      4,
		`gpu_nvlinks_down{pool="h100"}`:                                         4,
		`gpu_processes{pool="h100"}`:                                            6,
		`gpu_power_watts{pool="h100",model="L4"}`:                               0,
		`instances_wanted{job="chat"}`:                                          6,
		`instances_wanted{job="chat",group="web"}`:                              5,
		`instances_running{job="chat"}`:                                         2,
		`instances_queued{job="chat"}`:                                          2,
		`instances{job="chat"}`:                                                 2,
		`instances{job="chat",state="warm"}`:                                    0,
		`instances_ready{job="chat"}`:                                           2,
		`instances_starting{job="chat"}`:                                        0,
		`instances_needed{job="chat"}`:                                          3,
		`instance_demand{job="chat"}`:                                           24,
		`instance_load{job="chat"}`:                                             0.75 + 2.25,
		`avg(instance_load{job="chat"})`:                                        1.5,
		`instance_waiting_requests{job="chat"}`:                                 10,
		`instance_running_requests{job="chat"}`:                                 14,
		`instance_kv_used_ratio{job="chat"}`:                                    0.25,
		`instance_ttft_p95_seconds{job="chat"}`:                                 0.25,
		`instance_warm_up_seconds{job="chat"}`:                                  90,
		`queue_depth{source="tasks"}`:                                           40,
		`queue_running{source="tasks"}`:                                         2,
		`queue_work{source="tasks"}`:                                            42,
		`queue_demand{source="tasks"}`:                                          8.4,
		`queue_demand{source="emails"}`:                                         0, // not active
		`queue_active{source="tasks"}`:                                          1,
		`queue_oldest_seconds{source="tasks"}`:                                  90,
		`queue_depth{source="tasks"} > 39`:                                      40,
		`queue_depth{source="tasks"} > 40`:                                      0,
		`sum(instance_demand{job="chat"}, queue_depth{source="tasks"})`:         64,
		`max(demand_gpus{pool="h100"}, queue_demand{source="tasks"})`:           8.4,
		`sum(max(gpu_temperature_celsius{pool="h100"}), hosts_up{pool="h100"})`: 52,
	} {
		r := ask(t, sound(), text)
		if r.Err != nil || math.Abs(r.Value-want) > 1e-9*(1+want) || !r.At.Equal(now) {
			t.Errorf("%s is %v as of %s, %v; want %v", text, r.Value, r.At, r.Err, want)
		}
	}
}

// Every signal has a value where all is known, and none where nothing is.
func TestEverySignal(t *testing.T) {
	for _, s := range Signals {
		labels := map[string]string{labelPool: `pool="h100"`, labelJob: `job="chat"`, labelSource: `source="tasks"`}
		text := fmt.Sprintf("%s{%s}", s.Name, labels[kinds[s.Kind].key])
		if r := ask(t, sound(), text); r.Err != nil {
			t.Errorf("%s: %v", text, r.Err)
		}
		if s.Uncovered {
			continue
		}
		dark := sound()
		dark.Fleet = NewFleet(now, map[string]fleet.Reading{"a": {Err: errors.New("no answer")}})
		for id := range dark.Pools {
			dark.Pools[id] = Pool{At: now, Err: errors.New("no answer"), Demand: dark.Pools[id].Demand}
		}
		dark.Jobs[JobID{"default", "chat"}] = Job{Err: errors.New("no answer")}
		dark.Queues["tasks"] = Queue{Err: errors.New("no answer")}
		if r := ask(t, dark, text); r.Err == nil || !strings.Contains(r.Err.Error(), s.Name) {
			t.Errorf("%s is %v in the dark, %v", text, r.Value, r.Err)
		}
		// Hosts and servers that tell nothing are not idle: the value is
		// unknown, or counts what needs no telling.
		dumb := sound()
		for _, node := range []string{"a", "b"} {
			dumb.edit(node, func(r *fleet.Reading) {
				for i := range r.Snapshot.GPUs {
					r.Snapshot.GPUs[i] = fleet.GPU{State: fleet.StateUnresponsive}
				}
				r.Snapshot.Outside = fleet.Outside{}
				for i := range r.Snapshot.Instances.List {
					r.Snapshot.Instances.List[i].Load = nil
					r.Snapshot.Instances.List[i].WarmUp = nil
				}
			})
		}
		r := ask(t, dumb, text)
		measure := s.Kind == GPUKind && !s.counts || s.Name == "host_idle" || s.Kind == InstanceKind && strings.HasPrefix(s.Name, "instance_")
		if measure && r.Err == nil {
			t.Errorf("%s is %v where nobody tells", text, r.Value)
		}
	}
}

// Below the stated coverage nothing is known, and what is seen is a bound.
func TestCoverage(t *testing.T) {
	silent := func(r *fleet.Reading) {
		*r = fleet.Reading{Err: errors.New("agent of node b at 10.0.0.2:9109: no route")}
	}
	hung := func(r *fleet.Reading) { r.Snapshot.GPUs[1].State = fleet.StateUnresponsive }
	still := func(r *fleet.Reading, s fleet.State) {
		r.Snapshot.GPUs[0] = r.Snapshot.GPUs[1]
		r.Snapshot.GPUs[0].State = s
	}
	stillHung := func(r *fleet.Reading) { still(r, fleet.StateUnresponsive) }
	stillLost := func(r *fleet.Reading) { still(r, fleet.StateLost) }
	starting := func(r *fleet.Reading) { r.Snapshot.Driver.State, r.Snapshot.GPUs = fleet.DriverStarting, nil }
	lost := func(r *fleet.Reading) { r.Snapshot.GPUs[1].State = fleet.StateLost }
	divided := func(r *fleet.Reading) {
		r.Snapshot.GPUs[1].Busy, r.Snapshot.GPUs[1].BusyOver = fleet.Value{Quality: fleet.QualityUnsupported}, nil
	}
	old := func(r *fleet.Reading) { r.Snapshot.GPUs[1].Busy.Age = 1e6 }
	unread := func(r *fleet.Reading) {
		r.Snapshot.GPUs[1].Busy, r.Snapshot.GPUs[1].BusyOver = fleet.Value{Quality: fleet.QualityFailed}, nil
	}
	untold := func(r *fleet.Reading) {
		g := &r.Snapshot.GPUs[1]
		g.Busy, g.BusyOver = ok(0), []fleet.Window{{Seconds: 1, Mean: 1, Coverage: 0.4}}
		g.Processes = fleet.Processes{Quality: fleet.QualityFailed}
	}
	parts := func(r *fleet.Reading) {
		read, ratio := fleet.Read{Quality: fleet.QualityOK}, func(x float64) fleet.Activity {
			return fleet.Activity{Read: fleet.Read{Quality: fleet.QualityOK}, SM: &x}
		}
		g := &r.Snapshot.GPUs[1]
		g.Activity = fleet.Activity{Read: fleet.Read{Quality: fleet.QualityUnsupported}}
		g.MIG = fleet.MIG{Read: read, Enabled: true, Devices: []fleet.MIGDevice{
			{GPUInstance: 1, Activity: ratio(0.9)}, {GPUInstance: 1, ComputeInstance: 1, Activity: ratio(0.9)}, {GPUInstance: 2, Activity: ratio(0.1)},
		}}
	}
	cold := func(r *fleet.Reading) { r.Snapshot.Instances.List[0].State = fleet.Cold }
	slotless := func(r *fleet.Reading) { delete(r.Snapshot.Instances.List[0].Load, fleet.Slots) }
	idle := func(r *fleet.Reading) { r.Snapshot.Instances.List = nil }
	unprobed := func(r *fleet.Reading) {
		delete(r.Snapshot.Instances.List[0].Load, fleet.Waiting)
		delete(r.Snapshot.Instances.List[0].Load, fleet.Running)
	}
	draining := func(r *fleet.Reading) { r.Snapshot.Instances.List[0].State = fleet.Draining }
	for _, tt := range []struct {
		what    string
		change  func(r *fleet.Reading) // of host b
		text    string
		want    float64
		atLeast bool
		err     string
	}{
		{"a silent host may be the busy one", silent, `gpu_busy_ratio{pool="h100"}`, 0, false, "50%, below the 90% that are asked for: 1 of 2 agents gave no answer: b; agent of node b at 10.0.0.2"},
		{"a sum is at least what was seen", silent, `sum(gpu_busy_ratio{pool="h100"})`, 1.2, true, "50%"},
		{"so is a maximum", silent, `max(gpu_busy_ratio{pool="h100"})`, 0.8, true, "50%"},
		{"a minimum is not", silent, `min(gpu_busy_ratio{pool="h100"})`, 0, false, "50%"},
		{"idle GPUs are not known", silent, `gpu_idle{pool="h100"}`, 0, true, "50%"},
		{"the host that answers is known", silent, `gpu_busy_ratio{pool="h100",node="a"}`, 0.6, false, ""},
		{"the coverage itself is known", silent, `agent_coverage_ratio{pool="h100"}`, 0.5, false, ""},
		{"and how many answer", silent, `agents_answering{pool="h100"}`, 1, false, ""},
		{"a GPU that hangs may be busy", hung, `gpu_busy_ratio{pool="h100"}`, 0, false, "75%, below the 90% that are asked for: not known of 1 of 4"},
		{"but it can be counted", hung, `gpu_unresponsive{pool="h100"}`, 1, false, ""},
		{"a GPU that is lost does nothing", lost, `gpu_busy_ratio{pool="h100"}`, 1.6 / 3, false, ""},
		{"a lost GPU can be counted", lost, `gpu_lost{pool="h100"}`, 1, false, ""},
		{"a divided GPU has no busy ratio", divided, `gpu_busy_ratio{pool="h100"}`, 1.6 / 3, false, ""},
		{"where none has one it is unknown", divided, `gpu_busy_ratio{pool="h100",gpu="GPU-1",node="b"}`, 0, false, "none of the 1 there are offers it"},
		{"also as a sum", divided, `sum(gpu_busy_ratio{pool="h100",gpu="GPU-1",node="b"})`, 0, false, "none of the 1 there are offers it"},
		{"a value that lies about its age", old, `gpu_busy_ratio{pool="h100"}`, 0, false, "not known of 1 of 4"},
		{"a value that could not be read", unread, `gpu_busy_ratio{pool="h100"}`, 0, false, "not known of 1 of 4"},
		{"no GPU of that model", lost, `avg(gpu_busy_ratio{pool="h100",model="L4"})`, 0, false, "nothing that could have a value"},
		{"a host with a GPU that hangs", hung, `host_idle{pool="h100",node="b"}`, 0, false, ""}, // the other is busy
		{"a host that is not looked into yet", starting, `gpu_idle{pool="h100"}`, 0, true, "not known of 1 of 3"},
		{"such a host is not idle", starting, `host_idle{pool="h100"}`, 0, true, "not known of 1 of 2"},
		{"a host that is still but for one that hangs", stillHung, `host_idle{pool="h100",node="b"}`, 0, true, "not known of 1 of 1"},
		{"a host that is still but for one that is lost", stillLost, `host_idle{pool="h100",node="b"}`, 1, false, ""},
		{"an instance that no agent sees", idle, `instance_demand{job="chat"}`, 6, true, "of the 2 instances that Nomad says to be running, agents see 1"},
		{"an average of them", idle, `avg(instance_load{job="chat"})`, 0, false, "50%"},
		{"what they need", idle, `instances_needed{job="chat"}`, 0.75, true, "50%"},
		{"a server that does not tell", unprobed, `instance_demand{job="chat"}`, 6, true, "not known of 1 of 2"},
		{"a server that does not tell its requests", unprobed, `instance_load{job="chat"}`, 0.75 + 0.25, false, ""},
		{"a GPU that is still and of whose processes nothing is known", untold, `gpu_idle{pool="h100"}`, 0, true, "not known of 1 of 4"},
		{"a window of which most is not there", untold, `gpu_busy_ratio{pool="h100",gpu="GPU-1",node="b"}`, 0, false, ""},
		{"the parts of a divided GPU, each once", parts, `gpu_sm_ratio{pool="h100",gpu="GPU-1",node="b"}`, 0.5, false, ""},
		{"an instance whose task does not run is none that runs", cold, `instance_demand{job="chat"}`, 6, true, "agents see 1"},
		{"a server that tells of no slots and lets others wait", slotless, `instance_load{job="chat"}`, 0.75 + 18.0/8, false, ""},
		{"one that drains finishes its own", draining, `instance_demand{job="chat"}`, 6, false, ""},
		{"and can be counted", draining, `instances{job="chat",state="draining"}`, 1, false, ""},
	} {
		r := ask(t, sound().edit("b", tt.change), tt.text)
		switch {
		case tt.err == "" && (r.Err != nil || math.Abs(r.Value-tt.want) > 1e-9):
			t.Errorf("%s: %s is %v, %v; want %v", tt.what, tt.text, r.Value, r.Err, tt.want)
		case tt.err != "" && (r.Err == nil || !strings.Contains(r.Err.Error(), tt.err)):
			t.Errorf("%s: %s: %v, want %q", tt.what, tt.text, r.Err, tt.err)
		case r.AtLeast != tt.atLeast || tt.atLeast && math.Abs(r.Value-tt.want) > 1e-9:
			t.Errorf("%s: %s is at least %v, %v; want %v", tt.what, tt.text, r.Value, r.AtLeast, tt.want)
		}
	}
}

// What is known where something other than an agent fails.
func TestUnknown(t *testing.T) {
	away := errors.New("nomad is away")
	for _, tt := range []struct {
		what    string
		change  func(s *Sight)
		text    string
		atLeast bool
		value   float64
		err     string
	}{
		{"Nomad is away", func(s *Sight) { p := s.Pools["h100"]; p.Err = away; s.Pools["h100"] = p }, `demand_gpus{pool="h100"}`, false, 0, "nomad is away"},
		{"Nomad has just gone away", func(s *Sight) { p := s.Pools["h100"]; p.Err = away; s.Pools["h100"] = p }, `gpu_busy_ratio{pool="h100"}`, false, 0.4, ""},
		{"Nomad has been away", func(s *Sight) { p := s.Pools["h100"]; p.Err, p.At = away, now.Add(-time.Hour); s.Pools["h100"] = p }, `gpu_busy_ratio{pool="h100"}`, false, 0, "not been known for 1h0m0s: nomad is away"},
		{"Nomad was never there", func(s *Sight) { s.Pools["h100"] = Pool{Err: away} }, `gpu_busy_ratio{pool="h100"}`, false, 0, "which hosts are up is not known: nomad is away"},
		{"Consul is away", func(s *Sight) { s.Fleet = &Fleet{At: now, Err: errors.New("consul is away")} }, `gpu_idle{pool="h100"}`, false, 0, "consul is away"},
		{"no agents were asked yet", func(s *Sight) { s.Fleet = nil }, `gpu_idle{pool="h100"}`, false, 0, "not been read yet"},
		{"no agent answers at all", func(s *Sight) { clear(s.Fleet.readings) }, `max(gpu_busy_ratio{pool="h100"})`, false, 0, "0%, below"},
		{"two nodes of one name", func(s *Sight) {
			p := s.Pools["h100"]
			p.Demand.Hosts = append([]nomad.HostDemand{{Node: "a"}}, p.Demand.Hosts...)
			s.Pools["h100"] = p
		}, `host_gpus{pool="h100"}`, false, 4, ""},
		{"an agent that Consul does not know", func(s *Sight) { delete(s.Fleet.readings, "b") }, `gpu_idle{pool="h100"}`, true, 0, "no agent of node b is in Consul"},
		{"a pool that is off has no average", func(*Sight) {}, `gpu_busy_ratio{pool="a100"}`, false, 0, "nothing that could have a value"},
		{"a pool that is off draws nothing", func(*Sight) {}, `gpu_power_watts{pool="a100"}`, false, 0, ""},
		{"no such job", func(s *Sight) { s.Jobs[JobID{"default", "chatt"}] = Job{Err: nomad.ErrNotFound} }, `instances_wanted{job="chatt"}`, false, 0, `no job "chatt" in namespace "default"; did you mean "chat"?`},
		{"no such group", func(*Sight) {}, `instances_wanted{job="chat",group="wbe"}`, false, 0, "no such task group: it has proxy, web"},
		{"no such group of instances", func(*Sight) {}, `instance_load{job="chat",group="wbe"}`, false, 0, "no such task group: it has proxy, web"},
		{"agents and Nomad lie apart", func(s *Sight) {
			j := s.Jobs[JobID{"default", "chat"}]
			j.At = now.Add(-time.Hour)
			s.Jobs[JobID{"default", "chat"}] = j
		}, `instance_load{job="chat"}`, false, 0, "1h0m0s apart"},
		{"one source of a queue failed", func(s *Sight) { q := s.Queues["tasks"]; q.Err = errors.New("redis is away"); s.Queues["tasks"] = q }, `queue_depth{source="tasks"}`, true, 40, "redis is away"},
		{"a part of a sum", func(s *Sight) { q := s.Queues["tasks"]; q.Err = errors.New("redis is away"); s.Queues["tasks"] = q }, `sum(queue_depth{source="tasks"}, demand_gpus{pool="h100"})`, true, 45, "redis is away"},
		{"a part of a sum that is not known at all", func(s *Sight) { s.Pools["h100"] = Pool{Err: away} }, `sum(queue_depth{source="tasks"}, demand_gpus{pool="h100"})`, true, 40, "nomad is away"},
		{"no part of a sum", func(s *Sight) { s.Pools["h100"] = Pool{Err: away} }, `sum(allocated_gpus{pool="h100"}, demand_gpus{pool="h100"})`, false, 0, "nomad is away"},
		{"a queue that tells of no running work", func(*Sight) {}, `queue_running{source="emails"}`, false, 0, "no source of the queue tells"},
		{"a job without an instance", func(s *Sight) {
			s.Jobs[JobID{"default", "chat"}] = Job{At: now, Groups: map[string]nomad.GroupScale{"web": {}}}
			s.edit("a", func(r *fleet.Reading) { r.Snapshot.Instances.List = nil })
			s.edit("b", func(r *fleet.Reading) { r.Snapshot.Instances.List = nil })
		}, `instance_demand{job="chat"}`, false, 0, ""},
		{"instances that tell of no slots", func(s *Sight) {
			for _, node := range []string{"a", "b"} {
				s.edit(node, func(r *fleet.Reading) { delete(r.Snapshot.Instances.List[0].Load, fleet.Slots) })
			}
		}, `instances_needed{job="chat"}`, false, 0, "use instance_load"},
	} {
		s := sound()
		tt.change(s)
		q, err := Parse(tt.text, known)
		if err != nil {
			t.Fatal(err)
		}
		r := q.Value(s)
		switch {
		case tt.err == "" && (r.Err != nil || math.Abs(r.Value-tt.value) > 1e-9):
			t.Errorf("%s: %s is %v, %v; want %v", tt.what, tt.text, r.Value, r.Err, tt.value)
		case tt.err != "" && (r.Err == nil || !strings.Contains(r.Err.Error(), tt.err)):
			t.Errorf("%s: %s is %v: %v, want %q", tt.what, tt.text, r.Value, r.Err, tt.err)
		case r.AtLeast != tt.atLeast || r.Value != tt.value && tt.atLeast:
			t.Errorf("%s: %s is at least %v, %v; want %v", tt.what, tt.text, r.Value, r.AtLeast, tt.value)
		}
	}
}

// A value is as old as the oldest of what it rests on.
func TestAge(t *testing.T) {
	s := sound()
	q := s.Queues["tasks"]
	q.At = now.Add(-20 * time.Second)
	s.Queues["tasks"] = q
	j := s.Jobs[JobID{"default", "chat"}]
	j.At = now.Add(-10 * time.Second)
	s.Jobs[JobID{"default", "chat"}] = j
	for text, want := range map[string]time.Duration{
		`demand_gpus{pool="h100"}`: 0, `instance_load{job="chat"}`: 10 * time.Second,
		`sum(demand_gpus{pool="h100"}, queue_depth{source="tasks"})`: 20 * time.Second,
	} {
		if r := ask(t, s, text); r.Err != nil || now.Sub(r.At) != want {
			t.Errorf("%s is %s old, %v; want %s", text, now.Sub(r.At), r.Err, want)
		}
	}
}

// Whichever hosts fall silent, the answer is an error, or rests on the stated
// coverage, and a bound is one.
func TestSilenceIsNeverIdleness(t *testing.T) {
	var texts []string
	for _, s := range Signals {
		if (s.Kind == GPUKind || s.Kind == HostKind) && !s.Uncovered {
			for _, how := range []string{Sum, Avg, Max} {
				texts = append(texts, fmt.Sprintf(`%s(%s{pool="h100"})`, how, s.Name))
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := &Sight{Coverage: 0.9, Apart: time.Minute}
		readings := make(map[string]fleet.Reading)
		d := nomad.Demand{}
		n := rapid.IntRange(1, 12).Draw(t, "hosts")
		for i := range n {
			node := fmt.Sprintf("n%02d", i)
			d.Hosts = append(d.Hosts, nomad.HostDemand{Node: node})
			readings[node] = snapshot(node, []fleet.GPU{gpu(i, rapid.Float64Range(0, 1).Draw(t, "busy"))})
		}
		s.Pools = map[string]Pool{"h100": {At: now, Demand: d}}
		s.Fleet = NewFleet(now, readings)
		q, err := Parse(rapid.SampledFrom(texts).Draw(t, "query"), known)
		if err != nil {
			t.Fatal(err)
		}
		all := q.Value(s)
		if all.Err != nil {
			t.Fatalf("%s with all hosts: %v", q, all.Err)
		}
		silent := 0
		for node := range readings {
			if rapid.Bool().Draw(t, "silent") {
				silent++
				readings[node] = fleet.Reading{Err: errors.New("no answer")}
			}
		}
		s.Fleet = NewFleet(now, readings)
		r := q.Value(s)
		if covered := float64(n-silent) / float64(n); (r.Err == nil) != (covered >= 0.9) {
			t.Fatalf("%s with %d of %d hosts is %v, %v", q, n-silent, n, r.Value, r.Err)
		}
		if r.AtLeast && r.Value > all.Value {
			t.Fatalf("%s is at least %v of %v", q, r.Value, all.Value)
		}
	})
}
