package instance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"pgregory.net/rapid"

	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/fleet"
)

// alloc is an allocation of one task, which runs on one GPU with one port.
func alloc(change func(a *api.Allocation, t *api.Task)) *api.Allocation {
	id, group := "chat", "serve"
	task := &api.Task{Name: "serve", Config: map[string]any{"image": "vllm/vllm-openai:v0.11.0"}, Meta: map[string]string{}}
	a := &api.Allocation{
		ID: "8f2e", Namespace: "default", JobID: id, TaskGroup: group,
		Job:           &api.Job{ID: &id, Meta: map[string]string{}, TaskGroups: []*api.TaskGroup{{Name: &group, Tasks: []*api.Task{task}, Meta: map[string]string{}}}},
		DesiredStatus: api.AllocDesiredStatusRun, ClientStatus: api.AllocClientStatusRunning,
		TaskStates: map[string]*api.TaskState{"serve": {State: "running", StartedAt: epoch}},
		AllocatedResources: &api.AllocatedResources{
			Tasks: map[string]*api.AllocatedTaskResources{"serve": {Devices: []*api.AllocatedDeviceResource{
				{Vendor: "nvidia", Type: "gpu", Name: "H100", DeviceIDs: []string{"GPU-2", "GPU-1"}},
			}}},
			Shared: api.AllocatedSharedResources{Ports: []api.PortMapping{{Label: "http", Value: 23456, HostIP: "10.0.0.7"}}},
		},
	}
	if change != nil {
		change(a, task)
	}
	return a
}

// brief is a candidate in a few words.
func brief(c candidate) string {
	words := []string{orElse(c.profile.Name, "?"), orElse(c.address, "-")}
	if c.metrics != c.address {
		words = append(words, "metrics "+c.metrics)
	}
	if c.task != TaskRunning {
		words = append(words, "cold: "+c.why)
	}
	if c.stop != "" {
		words = append(words, "stop: "+c.stop)
	}
	if c.problem != "" {
		words = append(words, "problem: "+c.problem)
	}
	return strings.Join(words, " ")
}

func TestFind(t *testing.T) {
	gpuless := func(a *api.Allocation) { a.AllocatedResources.Tasks["serve"].Devices = nil }
	ports := func(a *api.Allocation, labels ...string) {
		a.AllocatedResources.Shared.Ports = nil
		for i, l := range labels {
			a.AllocatedResources.Shared.Ports = append(a.AllocatedResources.Shared.Ports, api.PortMapping{Label: l, Value: 1000 + i, HostIP: "10.0.0.7"})
		}
	}
	for _, tt := range []struct {
		name   string
		change func(a *api.Allocation, t *api.Task)
		want   string // empty if it is no candidate
	}{
		{"by its image", nil, "vllm 10.0.0.7:23456"},
		{"by its command", func(_ *api.Allocation, t *api.Task) {
			t.Config = map[string]any{"command": "/bin/sh", "args": []any{"-c", "exec python -m sglang.launch_server"}}
		}, "sglang 10.0.0.7:23456"},
		{"by metadata, whatever it looks like", func(a *api.Allocation, _ *api.Task) { a.Job.Meta["gpupool.engine"] = "triton" }, "triton 10.0.0.7:23456"},
		{"the task's metadata wins", func(a *api.Allocation, t *api.Task) {
			a.Job.Meta["gpupool.engine"], a.Job.TaskGroups[0].Meta["gpupool.engine"], t.Meta["gpupool.engine"] = "triton", "tgi", "nim"
		}, "nim 10.0.0.7:23456"},
		{"to be found out", func(_ *api.Allocation, t *api.Task) { t.Config = map[string]any{"command": "serve.sh"} }, "? 10.0.0.7:23456"},
		{"neither known nor a port to find out at", func(a *api.Allocation, t *api.Task) {
			t.Config = nil
			ports(a)
		}, ""},
		{"turned off", func(_ *api.Allocation, t *api.Task) { t.Meta["gpupool.engine"] = "off" }, ""},
		{"no GPU", func(a *api.Allocation, _ *api.Task) { gpuless(a) }, ""},
		{"no GPU, but named", func(a *api.Allocation, t *api.Task) { gpuless(a); t.Meta["gpupool.engine"] = "llamacpp" }, "llamacpp 10.0.0.7:23456"},
		{"another device than a GPU", func(a *api.Allocation, _ *api.Task) { a.AllocatedResources.Tasks["serve"].Devices[0].Type = "fpga" }, ""},
		{"a likely port", func(a *api.Allocation, _ *api.Task) { ports(a, "grpc", "api", "metrics") }, "vllm 10.0.0.7:1001"},
		{"no likely port", func(a *api.Allocation, _ *api.Task) { ports(a, "a", "b") }, `vllm - problem: which of the group's ports is for requests is not known; say so in the metadata, gpupool.port = one of "a", "b"`},
		{"a port that is named", func(a *api.Allocation, t *api.Task) { ports(a, "http", "b"); t.Meta["gpupool.port"] = "b" }, "vllm 10.0.0.7:1001"},
		{"a port that is not there", func(a *api.Allocation, t *api.Task) { t.Meta["gpupool.port"] = "b" }, `vllm - problem: the group has no port "b", but "http"`},
		{"a port for metrics", func(a *api.Allocation, t *api.Task) { ports(a, "http", "metrics"); t.Meta["gpupool.engine"] = "triton" }, "triton 10.0.0.7:1000 metrics 10.0.0.7:1001"},
		{"a port for metrics that is named", func(a *api.Allocation, t *api.Task) { ports(a, "http", "m"); t.Meta["gpupool.metrics_port"] = "m" }, "vllm 10.0.0.7:1000 metrics 10.0.0.7:1001"},
		{"an address that is none", func(a *api.Allocation, _ *api.Task) { a.AllocatedResources.Shared.Ports[0].HostIP = "evil.example" }, `vllm - problem: the group has no port of this host; give it a network with one`},
		{"mistakes in the metadata", func(_ *api.Allocation, t *api.Task) {
			t.Meta["gpupool.engine"], t.Meta["gpupool.slot"], t.Meta["gpupool.metric_waiting"] = "vlm", "8", "rate(x)"
		}, `vllm 10.0.0.7:23456 problem: 3 mistakes:   job "chat", task "serve": engine: "vlm" is none of auto, off, dynamo, sglang,`},
		{"pending", func(a *api.Allocation, _ *api.Task) {
			a.ClientStatus = api.AllocClientStatusPending
			a.TaskStates["serve"] = &api.TaskState{State: "pending", Events: []*api.TaskEvent{{DisplayMessage: "Downloading\nArtifacts"}}}
		}, "vllm 10.0.0.7:23456 cold: its task is pending: Downloading Artifacts"},
		{"no state yet", func(a *api.Allocation, _ *api.Task) { a.TaskStates = nil }, "vllm 10.0.0.7:23456 cold: its task is pending"},
		{"ended, to be started again", func(a *api.Allocation, _ *api.Task) { a.TaskStates["serve"] = &api.TaskState{State: "dead"} }, "vllm 10.0.0.7:23456 cold: its task has ended"},
		{"to be stopped", func(a *api.Allocation, _ *api.Task) {
			a.DesiredStatus, a.DesiredDescription = "stop", "alloc not needed due to job update"
		},
			"vllm 10.0.0.7:23456 stop: alloc not needed due to job update"},
		{"evicted", func(a *api.Allocation, _ *api.Task) { a.DesiredStatus = "evict" }, "vllm 10.0.0.7:23456 stop: Nomad evicts the allocation"},
		{"over", func(a *api.Allocation, _ *api.Task) { a.ClientStatus = "complete" }, ""},
		{"failed", func(a *api.Allocation, _ *api.Task) { a.ClientStatus = "failed" }, ""},
		{"stopped before it began", func(a *api.Allocation, _ *api.Task) { a.ClientStatus, a.DesiredStatus = "pending", "stop" }, ""},
		{"without its job", func(a *api.Allocation, _ *api.Task) { a.Job = nil }, ""},
		{"of a group that its job does not have", func(a *api.Allocation, _ *api.Task) { a.TaskGroup = "x" }, ""},
		{"without resources", func(a *api.Allocation, _ *api.Task) { a.AllocatedResources = nil }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list := find([]*api.Allocation{nil, alloc(tt.change)})
			got := ""
			if len(list) > 0 {
				got = brief(list[0])
			}
			if got != tt.want && (tt.want == "" || !strings.HasPrefix(got, tt.want) || !strings.Contains(tt.want, "mistakes")) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestFindWhoItIs(t *testing.T) {
	c := find([]*api.Allocation{alloc(nil)})[0]
	if p := c.place; c.id != "gpupool-instance-8f2e-serve" || p.Job != "chat" || p.Group != "serve" || p.Task != "serve" || p.Alloc != "8f2e" ||
		!slices.Equal(p.GPUs, []string{"GPU-1", "GPU-2"}) || !c.started.Equal(epoch) {
		t.Errorf("it is %+v", c)
	}
	// What a job says ends up in logs, labels and Consul.
	hostile := find([]*api.Allocation{alloc(func(a *api.Allocation, t *api.Task) {
		id := "a\nlevel=ERROR msg=\"fire\"" + strings.Repeat("x", 1000)
		a.Job.ID = &id
		t.Name = "serve\x1b[31m"
		a.TaskStates["serve\x1b[31m"] = a.TaskStates["serve"]
		a.AllocatedResources.Tasks["serve\x1b[31m"] = a.AllocatedResources.Tasks["serve"]
	})})[0]
	for _, text := range []string{hostile.id, hostile.place.Job, hostile.place.Task} {
		if strings.ContainsAny(text, "\n\x1b") || len(text) > 300 {
			t.Errorf("%q", text)
		}
	}
}

func TestFindIsBounded(t *testing.T) {
	var many []*api.Allocation
	for i := range 2 * fleet.MaxInstances {
		many = append(many, alloc(func(a *api.Allocation, _ *api.Task) {
			a.ID = fmt.Sprint(i)
			a.AllocatedResources.Shared.Ports[0].Value = 1000 + i
		}))
	}
	if n := len(find(many)); n != fleet.MaxInstances {
		t.Errorf("%d candidates, want %d", n, fleet.MaxInstances)
	}
	// Two tasks that would claim one port.
	both := alloc(func(a *api.Allocation, t *api.Task) {
		second := *t
		second.Name = "other"
		a.Job.TaskGroups[0].Tasks = append(a.Job.TaskGroups[0].Tasks, &second)
		a.AllocatedResources.Tasks["other"] = a.AllocatedResources.Tasks["serve"]
	})
	if list := find([]*api.Allocation{both}); len(list) != 1 {
		t.Errorf("%d instances at one port", len(list))
	}
}

func TestServiceNames(t *testing.T) {
	for _, tt := range []struct{ pattern, job, namespace, want string }{
		{"{job}-warm", "chat", "default", "chat-warm"},
		{"{job}-warm", "chat", "", "chat-warm"},
		{"{job}-warm", "chat", "team-a", "chat-team-a-warm"},
		{"warm-{job}", "Chat_7B/v2", "default", "warm-chat-7b-v2"},
		{"{job}-warm", "../consul", "default", "consul-warm"},
		{"{job}-warm", "…", "default", "job-warm"},
	} {
		if got := ServiceName(tt.pattern, tt.job, tt.namespace); got != tt.want {
			t.Errorf("%s of %q in %q is %q, want %q", tt.pattern, tt.job, tt.namespace, got, tt.want)
		}
	}
	for _, pattern := range []string{"", "{job}", "warm", "{job}{job}-x", "{job}.warm", "{job}-WARM", "{job}-" + strings.Repeat("x", 40)} {
		if CheckPattern(pattern) == nil {
			t.Errorf("pattern %q is taken", pattern)
		}
	}
	if err := CheckPattern("{job}-warm"); err != nil {
		t.Error(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		name := ServiceName("{job}-warm", rapid.String().Draw(t, "job"), rapid.String().Draw(t, "namespace"))
		if len(name) > 63 || !strings.HasSuffix(name, "-warm") || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || name[0] == '-' {
			t.Fatalf("%q is no name of a service of model servers", name)
		}
	})
}

func TestLearned(t *testing.T) {
	l := learned{}
	key := warmUpKey{"m", "H100", fleet.Cold}
	if _, known := l.median(key); known {
		t.Error("nothing was measured, and it is known")
	}
	l.add(warmUpKey{"", "H100", fleet.Cold}, time.Second) // of an unknown model
	for i := range 50 {
		l.add(key, time.Duration(i+1)*time.Second)
	}
	if got := l.list(); len(got) != 1 || got[0].Count != 20 || got[0].Median != 40 || got[0].P95 != 49 || got[0].GPU != "H100" {
		t.Errorf("learned %+v, want the last twenty, 31 s to 50 s", got)
	}
	for i := range 2 * fleet.MaxWarmUps {
		l.add(warmUpKey{fmt.Sprint(i), "", fleet.Cold}, time.Second)
	}
	if len(l) != fleet.MaxWarmUps {
		t.Errorf("%d kinds are remembered", len(l))
	}
}

// TestMetaTakesThePlaceOfTheProfile: what a job says of its metrics and paths is
// what its server is asked for.
func TestMetaTakesThePlaceOfTheProfile(t *testing.T) {
	c := find([]*api.Allocation{alloc(func(a *api.Allocation, t *api.Task) {
		for key, value := range map[string]string{
			"engine": "json", "metrics_path": "/stats", "health_path": "/up", "slots": "8", "service": "talk",
			"metric_waiting": "len(/queue)", "metric_running": "/busy", "warming_limit": "2m",
		} {
			t.Meta["gpupool."+key] = value
		}
	})})[0]
	p, s := c.profile, c.settings
	if c.problem != "" || p.JSON != "/stats" || p.Health != "/up" || s.slots != 8 || s.service != "talk" || s.warmingLimit != 2*time.Minute ||
		p.From["waiting"][0].String() != "len(/queue)" || p.From["running"][0].Name != "/busy" {
		t.Errorf("settings are %+v, profile %+v, problem %q", s, p, c.problem)
	}
	if original, _ := engine.Find("json"); original.From != nil || original.JSON != "/status" {
		t.Error("a job changed the table")
	}
	c = find([]*api.Allocation{alloc(func(_ *api.Allocation, t *api.Task) { t.Meta["gpupool.metric_kv_used"] = "max(cache) * 0.01" })})[0]
	if original, _ := engine.Find("vllm"); c.profile.From["kv_used"][0].Scale != 0.01 || len(original.From["kv_used"]) < 2 || c.profile.From["waiting"][0].Name != "vllm:num_requests_waiting" {
		t.Errorf("profile is %+v", c.profile.From)
	}
}
