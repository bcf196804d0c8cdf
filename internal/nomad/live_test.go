package nomad

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/nomad/nomadtest"
	"github.com/gpupool/gpupool/internal/pool"
)

// These tests run against a real Nomad server with real clients.

var gpuPool = PoolSpec{Name: "h100", NodePool: "gpu", Device: "nvidia/gpu"}

// A host's node, from before it ever joined to a power cut.
func TestNodeThroughItsLife(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	look := func(name string) pool.Node {
		t.Helper()
		nodes, err := c.Nodes(t.Context(), gpuPool, []string{"gpu.1", "gpu-1"})
		if err != nil {
			t.Fatal(err)
		}
		if len(nodes) != 2 {
			t.Fatalf("asked for two names, got %v", nodes)
		}
		return nodes[name]
	}
	if n := look("gpu.1"); n.Status != pool.NodeAbsent {
		t.Errorf("before it joined: got %s", n.Status)
	}

	client := server.Client("gpu.1", "")
	n := look("gpu.1")
	if n.Status != pool.NodeReady || !n.Eligible || n.Draining || n.Mark != pool.MarkNone || len(n.Work) != 0 || n.ID == "" {
		t.Errorf("joined: got %+v", n)
	}
	if other := look("gpu-1"); other.Status != pool.NodeAbsent {
		t.Errorf("a name that differs where the pattern has a dot: got %+v", other)
	}

	submit(t, server, job("serve", "service", group1("web", 2, 100)))
	submit(t, server, job("train", "batch", group1("step", 1, 100)))
	submit(t, server, job("everywhere", "system", group1("agent", 1, 10)))
	eventually(t, "the work is seen", func() bool { return len(look("gpu.1").Work) == 3 })
	kinds := map[string]int{}
	for _, a := range look("gpu.1").Work {
		kinds[a.Job+" "+a.Type]++
		if age := time.Since(a.Since); age < 0 || age > time.Hour {
			t.Errorf("%s was placed at %s", a.Job, a.Since)
		}
		if node, err := c.NodeOf(t.Context(), a.ID); err != nil || node != "gpu.1" {
			t.Errorf("the allocation is on %q: %v", node, err)
		}
	}
	if _, err := c.NodeOf(t.Context(), "00000000-0000-0000-0000-000000000000"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such allocation: %v", err)
	}
	if kinds["serve service"] != 2 || kinds["train batch"] != 1 {
		t.Errorf("got work %v", kinds)
	}

	client.Kill()
	eventually(t, "its heartbeat is missed", func() bool { return look("gpu.1").Status == pool.NodeDown })
	id := n.ID
	client.Run()
	if n = look("gpu.1"); n.Status != pool.NodeReady || n.ID != id {
		t.Errorf("after a power cut: got %+v, want the same node ready", n)
	}
}

// The whole way out of service and back in, as the pool's loop goes it, with
// a power cycle in the middle.
func TestDrainedOffAndOnAgain(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	client := server.Client("gpu-1", "")
	look := func() pool.Node { t.Helper(); return one(t, c, "gpu-1") }
	id := look().ID

	must(t, c.Cordon(t.Context(), id))
	must(t, c.Cordon(t.Context(), id)) // safe to repeat
	if n := look(); n.Eligible || n.Draining || n.Mark != pool.MarkNone {
		t.Errorf("cordoned: got %+v", n)
	}
	must(t, c.Enable(t.Context(), id, "h100"))
	if n := look(); !n.Eligible || n.Mark != pool.MarkNone {
		t.Errorf("enabled after a mere cordon: got %+v", n)
	}

	must(t, c.Cordon(t.Context(), id))
	must(t, c.Drain(t.Context(), id, DrainSpec{Pool: "h100", Why: "surplus", Deadline: time.Hour}))
	eventually(t, "the empty node is drained", func() bool { return !look().Draining })
	if n := look(); n.Eligible || n.Mark != pool.MarkOurs {
		t.Errorf("drained: got %+v", n)
	}
	must(t, c.Drain(t.Context(), id, DrainSpec{Pool: "h100", Why: "again"})) // safe to repeat
	eventually(t, "it is drained again", func() bool { return !look().Draining })

	client.Kill()
	eventually(t, "its heartbeat is missed", func() bool { return look().Status == pool.NodeDown })
	if n := look(); n.Mark != pool.MarkOurs || n.Eligible {
		t.Errorf("powered off: got %+v", n)
	}
	client.Run()
	if n := look(); n.ID != id || n.Mark != pool.MarkOurs || n.Eligible {
		t.Errorf("powered on again: got %+v, want the same node, ineligible, with our mark", n)
	}

	for range 2 { // safe to repeat
		must(t, c.Enable(t.Context(), id, "h100"))
		if n := look(); !n.Eligible || n.Draining || n.Mark != pool.MarkReleased {
			t.Errorf("enabled: got %+v", n)
		}
	}

	// From here on an operator's hand can be told from ours.
	_, err := server.API().Nodes().ToggleEligibility(id, false, nil)
	must(t, err)
	if n := look(); n.Eligible || n.Mark != pool.MarkReleased {
		t.Errorf("cordoned by an operator: got %+v", n)
	}
}

// Between the two steps of Enable, the node must be as good as not enabled.
func TestCrashInTheMiddleOfEnable(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	server.Client("gpu-1", "")
	id := one(t, c, "gpu-1").ID
	must(t, c.Drain(t.Context(), id, DrainSpec{Pool: "h100"}))
	eventually(t, "it is drained", func() bool { return !one(t, c, "gpu-1").Draining })

	node, err := c.node(t.Context(), id)
	must(t, err)
	must(t, c.stamp(t.Context(), node, map[string]string{metaState: stateReleased, metaPool: "h100"}))
	eventually(t, "the marking drain is over", func() bool { return !one(t, c, "gpu-1").Draining })
	if n := one(t, c, "gpu-1"); n.Eligible || n.Mark != pool.MarkReleased {
		t.Errorf("got %+v", n)
	}
	must(t, c.Enable(t.Context(), id, "h100"))
	if n := one(t, c, "gpu-1"); !n.Eligible || n.Mark != pool.MarkReleased {
		t.Errorf("repeated: got %+v", n)
	}
}

// Demand that comes back takes the draining host: its work stays where it is.
func TestEnableEndsADrain(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	server.Client("gpu-1", "")
	submit(t, server, job("serve", "service", group1("web", 1, 100)))
	eventually(t, "the job runs", func() bool { return len(one(t, c, "gpu-1").Work) == 1 })
	before := one(t, c, "gpu-1")

	// The drain cannot end, because there is nowhere else to go.
	must(t, c.Drain(t.Context(), before.ID, DrainSpec{Pool: "h100"}))
	if n := one(t, c, "gpu-1"); !n.Draining || n.Eligible || n.Mark != pool.MarkOurs {
		t.Errorf("draining: got %+v", n)
	}
	must(t, c.Enable(t.Context(), before.ID, "h100"))
	n := one(t, c, "gpu-1")
	if n.Draining || !n.Eligible || n.Mark != pool.MarkReleased || len(n.Work) != 1 || n.Work[0].ID != before.Work[0].ID {
		t.Errorf("enabled: got %+v, want the allocation %s still there", n, before.Work[0].ID)
	}
}

// An operator's drain is left alone; and so is work on a node that an operator
// made eligible again.
func TestForeignHands(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	server.Client("gpu-1", "")
	submit(t, server, job("serve", "service", group1("web", 1, 100)))
	eventually(t, "the job runs", func() bool { return len(one(t, c, "gpu-1").Work) == 1 })
	id := one(t, c, "gpu-1").ID
	nodes := server.API().Nodes()

	_, err := nodes.UpdateDrain(id, &api.DrainSpec{Deadline: time.Hour}, false, nil)
	must(t, err)
	if n := one(t, c, "gpu-1"); n.Mark != pool.MarkForeign || !n.Draining {
		t.Errorf("drained by an operator: got %+v", n)
	}
	if err := c.Drain(t.Context(), id, DrainSpec{Pool: "h100"}); !errors.Is(err, ErrForeign) {
		t.Errorf("Drain: got %v, want ErrForeign", err)
	}
	if err := c.Enable(t.Context(), id, "h100"); !errors.Is(err, ErrForeign) {
		t.Errorf("Enable: got %v, want ErrForeign", err)
	}
	if n := one(t, c, "gpu-1"); n.Mark != pool.MarkForeign || !n.Draining || n.Eligible {
		t.Errorf("after both were refused: got %+v", n)
	}
	if err := c.Cordon(t.Context(), "b2b7a5a7-0000-4000-8000-000000000000"); !errors.Is(err, ErrNotFound) {
		t.Errorf("cordon a node that is not there: got %v, want ErrNotFound", err)
	}
}

// A client with drain_on_shutdown drains its own node when it is told to stop,
// and hides our mark with that.
func TestSelfDrain(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	client := server.Client("gpu-1", `drain_on_shutdown {
		deadline           = "10s"
		ignore_system_jobs = true
	}`)
	id := one(t, c, "gpu-1").ID
	must(t, c.Drain(t.Context(), id, DrainSpec{Pool: "h100"}))
	eventually(t, "it is drained", func() bool { return !one(t, c, "gpu-1").Draining })
	client.Stop()
	client.Run()
	if n := one(t, c, "gpu-1"); n.ID != id || n.Eligible || n.Mark != pool.MarkNone {
		t.Errorf("after a shutdown in order: got %+v, want the same node, ineligible, with nobody's mark", n)
	}
	must(t, c.Enable(t.Context(), id, "h100"))
	if n := one(t, c, "gpu-1"); !n.Eligible {
		t.Errorf("enabled: got %+v", n)
	}
}

// Two nodes of one name.
func TestInstalledAnew(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	first := server.Client("gpu-1", "")
	old := one(t, c, "gpu-1").ID
	second := server.Client("gpu-1", "")
	if n := one(t, c, "gpu-1"); n.Status != pool.NodeUnknown || n.ID != "" {
		t.Errorf("two machines of one name: got %+v, want it unknown", n)
	}
	if n, err := second.Node(); err != nil || n.ID == old {
		t.Fatalf("the second machine has node %s (%v): this tests nothing", n.ID, err)
	}
	first.Kill()
	eventually(t, "the newer one is taken", func() bool {
		n := one(t, c, "gpu-1")
		return n.Status == pool.NodeReady && n.ID != old
	})
	second.Kill()
	first.Run()
	eventually(t, "the older one is taken, which alone is alive", func() bool { return one(t, c, "gpu-1").ID == old })
}

// Lists are read whole, page by page, and names in several requests.
func TestManyNamesAndPages(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	c.perPage = 1
	var names []string
	for i := range 2*namesPerFilter + 7 {
		names = append(names, fmt.Sprintf("gpu-%d", i))
	}
	for _, i := range []int{0, namesPerFilter, 2 * namesPerFilter} {
		server.Client(names[i], "")
	}
	submit(t, server, job("serve", "service", group1("web", 4, 300)))
	eventually(t, "all runs", func() bool { return running(server, "serve") == 4 })
	nodes, err := c.Nodes(t.Context(), gpuPool, names)
	must(t, err)
	ready, work := 0, 0
	for _, n := range nodes {
		if n.Status == pool.NodeReady {
			ready++
		}
		work += len(n.Work)
	}
	if len(nodes) != len(names) || ready != 3 || work != 4 {
		t.Errorf("of %d names and 3 nodes with 4 allocations: got %d names, %d ready nodes, %d allocations", len(names), len(nodes), ready, work)
	}
	for i := range 3 {
		submit(t, server, job(fmt.Sprintf("train-%d", i), "batch", gpus("step", 1, 2)))
	}
	eventually(t, "all blocked jobs are read", func() bool { return demand(t, c, gpuPool).Queued == 6 })
}

// Demand with not one node up: what a pool at zero lives from.
func TestDemandFromZero(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	if d := demand(t, c, gpuPool); d.Allocated != 0 || d.Queued != 0 || len(d.Jobs) != 0 {
		t.Errorf("an idle cluster: got %+v", d)
	}
	_, err := server.API().Namespaces().Register(&api.Namespace{Name: "ml"}, nil)
	must(t, err)

	serve := job("serve", "service", gpus("web", 3, 2), gpus("embed", 2, 1), group1("proxy", 2, 10))
	submit(t, server, serve)
	ml := job("train", "batch", gpus("step", 1, 4))
	ns := "ml"
	ml.Namespace = &ns
	submit(t, server, ml)
	elsewhere := job("elsewhere", "batch", gpus("step", 1, 1))
	elsewhere.NodePool = nil
	submit(t, server, elsewhere)
	submit(t, server, job("agent", "system", gpus("agent", 1, 1)))

	eventually(t, "the demand is there", func() bool { return demand(t, c, gpuPool).Queued == 3*2+2*1+4 })
	d := demand(t, c, gpuPool)
	var said []string
	for _, j := range d.Jobs {
		said = append(said, fmt.Sprintf("%s/%s/%s %dx%d %t", j.Namespace, j.Job, j.Group, j.Instances, j.GPUs, j.Counted))
		if j.Why == "" || time.Since(j.Since) > time.Hour || time.Since(j.Since) < 0 {
			t.Errorf("%s/%s: why %q since %s", j.Job, j.Group, j.Why, j.Since)
		}
	}
	if want := []string{"default/serve/embed 2x1 true", "default/serve/web 3x2 true", "ml/train/step 1x4 true"}; !slices.Equal(said, want) {
		t.Errorf("got %q, want %q", said, want)
	}

	asks, err := c.Asks(t.Context(), gpuPool, []Kind{{Name: "small", Device: "nvidia/gpu", GPUsPerHost: 1}, {Name: "large", Device: "nvidia/gpu", GPUsPerHost: 8}})
	must(t, err)
	if want := []pool.Ask{{GPUs: 1, Count: 2}, {Classes: []string{"large"}, GPUs: 2, Count: 3}, {Classes: []string{"large"}, GPUs: 4, Count: 1}}; !reflect.DeepEqual(asks, want) {
		t.Errorf("got %+v, want %+v", asks, want)
	}

	// The job changes: what it asked for before must not be remembered.
	submit(t, server, job("serve", "service", gpus("web", 1, 5)))
	eventually(t, "the changed job is counted", func() bool { return demand(t, c, gpuPool).Queued == 5+4 })
	// A wider allocation than a host of the pool is no demand.
	narrow := gpuPool
	narrow.GPUsPerHost = 4
	if d := demand(t, c, narrow); d.Queued != 4 || len(d.Jobs) != 2 || d.Jobs[0].Counted {
		t.Errorf("hosts of 4 GPUs: got %+v", d)
	}
	_, _, err = server.API().Jobs().Deregister("serve", false, nil)
	must(t, err)
	eventually(t, "the stopped job is counted no more", func() bool { return demand(t, c, gpuPool).Queued == 4 })
}

// GPUs that are there, held, waited for, broken and mended.
func TestGPUs(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	spec := gpuPool
	spec.Nodes = []string{"gpu-1"}
	client := server.GPUClient("gpu-1", "count 2")
	eventually(t, "both GPUs are fingerprinted", func() bool { return one(t, c, "gpu-1").GPUs == 2 })

	submit(t, server, job("serve", "service", gpus("web", 3, 1), gpus("embed", 1, 1), group1("proxy", 1, 10)))
	eventually(t, "two of four are placed", func() bool {
		d := demand(t, c, spec)
		return d.Allocated == 2 && d.Queued == 2 && len(d.Hosts) == 1 && d.Hosts[0] == HostDemand{Node: "gpu-1", Ready: true, GPUs: 2}
	})
	n := one(t, c, "gpu-1")
	if len(n.Work) != 3 || n.GPUsBusy() != 2 {
		t.Errorf("got work %+v, want the two that hold a GPU and one that holds none", n.Work)
	}
	for _, j := range demand(t, c, spec).Jobs {
		if !strings.Contains(j.Why, "devices") {
			t.Errorf("%s waits because of %q", j.Group, j.Why)
		}
	}

	// Every host of the pool is known, so what none of them has is no demand.
	model := gpus("other", 1, 1)
	model.Tasks[0].Resources.Devices[0].Name = "nvidia/gpu/NVIDIA A100-SXM4-80GB"
	submit(t, server, job("train", "batch", gpus("wide", 1, 4), model))
	eventually(t, "the second job is blocked", func() bool { return len(demand(t, c, spec).Jobs) >= 3 })
	for _, j := range demand(t, c, spec).Jobs {
		if j.Job == "train" && j.Counted {
			t.Errorf("counted: %+v", j)
		}
	}
	if d := demand(t, c, spec); d.Queued != 2 {
		t.Errorf("got %+v, want 2 GPUs queued", d)
	}

	_, _, err := server.API().Jobs().Deregister("serve", false, nil)
	must(t, err)
	eventually(t, "all GPUs are free", func() bool {
		return demand(t, c, spec).Allocated == 0 && len(one(t, c, "gpu-1").Work) == 0
	})
	client.SetGPUs("count 2\ngpu1.lost 1")
	eventually(t, "one GPU is lost", func() bool { return one(t, c, "gpu-1").GPUs == 1 })
	client.SetGPUs("count 2")
	eventually(t, "it is there again", func() bool { return one(t, c, "gpu-1").GPUs == 2 })
}

// Each dispatched job is a job of its own.
func TestDemandOfDispatchedJobs(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	parent := job("infer", "batch", gpus("run", 1, 2))
	parent.ParameterizedJob = &api.ParameterizedJobConfig{}
	_, _, err := server.API().Jobs().Register(parent, nil)
	must(t, err)
	for range 5 {
		_, _, err := server.API().Jobs().Dispatch("infer", nil, nil, "", nil)
		must(t, err)
	}
	eventually(t, "all are counted, and the parent is not", func() bool { return demand(t, c, gpuPool).Queued == 10 })
	if d := demand(t, c, gpuPool); len(d.Jobs) != 5 || !strings.HasPrefix(d.Jobs[0].Job, "infer/dispatch-") {
		t.Errorf("got %+v", d.Jobs)
	}
}

// What Nomad's two counts say when some allocations are placed after the
// evaluation was blocked: the evaluation keeps its old number, the summary
// follows. Memory stands in for GPUs, as both are placed alike.
func TestQueuedAfterSomeWerePlaced(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	queued := func() map[string]int {
		t.Helper()
		evals, err := c.blocked(t.Context())
		must(t, err)
		if len(evals) != 1 {
			return nil
		}
		sum, err := c.summary(t.Context(), evals[0])
		must(t, err)
		return wait{eval: evals[0], queued: sum}.instances()
	}
	submit(t, server, job("two", "service", group1("a", 3, 400), group1("b", 2, 5000)))
	eventually(t, "nothing can be placed", func() bool { q := queued(); return q["a"] == 3 && q["b"] == 2 })
	server.Client("gpu-1", "")
	eventually(t, "two of a are placed", func() bool { q := queued(); return q["a"] == 1 && q["b"] == 2 })
	server.Client("gpu-2", "")
	eventually(t, "all of a are placed", func() bool { q := queued(); return q["a"] == 0 && q["b"] == 2 })

	evals, err := c.blocked(t.Context())
	must(t, err)
	if m := evals[0].FailedTGAllocs["a"]; m == nil || m.CoalescedFailures != 2 {
		t.Errorf("the evaluation now says %+v of group a: if Nomad keeps it up to date, the summary is needed no more", m)
	}
}

func TestNomadDownThenUp(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c, err := New(Config{API: &api.Config{Address: server.Addr}, Timeout: time.Second})
	must(t, err)
	server.Kill()
	_, err = c.Demand(t.Context(), gpuPool)
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), server.Addr) {
		t.Errorf("Demand: got %v, want ErrUnreachable and the address", err)
	}
	if _, err = c.Nodes(t.Context(), gpuPool, []string{"gpu-1"}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("Nodes: got %v, want ErrUnreachable", err)
	}
	if err = c.Cordon(t.Context(), "n"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("Cordon: got %v, want ErrUnreachable", err)
	}
	server.Run()
	if _, err = c.Demand(t.Context(), gpuPool); err != nil {
		t.Errorf("after Nomad came back: %v", err)
	}
}

// The policy that the documentation gives is enough, and a token without it
// is denied.
func TestACLPolicyOfTheDocumentation(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/reference/nomad.md")
	must(t, err)
	_, rest, _ := strings.Cut(string(page), "```hcl\n")
	rules, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("docs/reference/nomad.md has no policy")
	}
	server := nomadtest.Start(t, `acl { enabled = true }`)
	server.Client("gpu-1", "")
	submit(t, server, job("train", "batch", gpus("step", 1, 1)))
	acl := server.API()
	_, err = acl.ACLPolicies().Upsert(&api.ACLPolicy{Name: "gpupool", Rules: rules}, nil)
	must(t, err)
	_, err = acl.ACLPolicies().Upsert(&api.ACLPolicy{Name: "little", Rules: `namespace "default" { policy = "read" }`}, nil)
	must(t, err)
	with := func(policy string) *Client {
		t.Helper()
		token, _, err := acl.ACLTokens().Create(&api.ACLToken{Type: "client", Policies: []string{policy}}, nil)
		must(t, err)
		c, err := New(Config{API: &api.Config{Address: server.Addr, SecretID: token.SecretID}})
		must(t, err)
		return c
	}

	c := with("gpupool")
	eventually(t, "the demand is seen", func() bool { return demand(t, c, gpuPool).Queued == 1 })
	_, err = c.Groups(t.Context(), "default", "train")
	must(t, err)
	id := one(t, c, "gpu-1").ID
	must(t, c.Cordon(t.Context(), id))
	must(t, c.Drain(t.Context(), id, DrainSpec{Pool: "h100"}))
	eventually(t, "it is drained", func() bool { return !one(t, c, "gpu-1").Draining })
	must(t, c.Enable(t.Context(), id, "h100"))
	if n := one(t, c, "gpu-1"); !n.Eligible || n.Mark != pool.MarkReleased {
		t.Errorf("enabled: got %+v", n)
	}

	c = with("little")
	if _, err := c.Nodes(t.Context(), gpuPool, []string{"gpu-1"}); !errors.Is(err, ErrDenied) {
		t.Errorf("Nodes: got %v, want ErrDenied", err)
	}
	if err := c.Cordon(t.Context(), id); !errors.Is(err, ErrDenied) {
		t.Errorf("Cordon: got %v, want ErrDenied", err)
	}
}

// Helpers.

func connect(t *testing.T, addr string) *Client {
	t.Helper()
	c, err := New(Config{API: &api.Config{Address: addr}})
	must(t, err)
	return c
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func one(t *testing.T, c *Client, name string) pool.Node {
	t.Helper()
	nodes, err := c.Nodes(t.Context(), gpuPool, []string{name})
	must(t, err)
	return nodes[name]
}

func demand(t *testing.T, c *Client, spec PoolSpec) Demand {
	t.Helper()
	d, err := c.Demand(t.Context(), spec)
	must(t, err)
	return d
}

func submit(t *testing.T, server *nomadtest.Server, j *api.Job) {
	t.Helper()
	_, _, err := server.API().Jobs().Register(j, nil)
	must(t, err)
}

func running(server *nomadtest.Server, jobID string) int {
	sum, _, err := server.API().Jobs().Summary(jobID, nil)
	if err != nil {
		return 0
	}
	n := 0
	for _, s := range sum.Summary {
		n += s.Running
	}
	return n
}

func job(id, kind string, groups ...*api.TaskGroup) *api.Job {
	nodePool := "gpu"
	return &api.Job{ID: &id, Name: &id, Type: &kind, NodePool: &nodePool, Datacenters: []string{"*"}, TaskGroups: groups}
}

// group1 is a group of one task, which asks for memory and sleeps.
func group1(name string, count, memoryMB int) *api.TaskGroup {
	cpu := 10
	g := api.NewTaskGroup(name, count)
	g.AddTask(&api.Task{
		Name:      "sleep",
		Driver:    "raw_exec",
		Config:    map[string]any{"command": "/bin/sleep", "args": []string{"600"}},
		Resources: &api.Resources{CPU: &cpu, MemoryMB: &memoryMB},
	})
	return g
}

// gpus is a group of one task, which asks for GPUs.
func gpus(name string, count int, gpus uint64) *api.TaskGroup {
	g := group1(name, count, 10)
	g.Tasks[0].Resources.Devices = []*api.RequestedDevice{want("nvidia/gpu", gpus)}
	return g
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 60 s: %s", what)
		}
	}
}
