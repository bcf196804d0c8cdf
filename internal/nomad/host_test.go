package nomad_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/nomad/nomadtest"
)

// TestHostAllocs: the allocations of one node come with their jobs, their ports
// and their tasks' states, and a change of them is told at once.
func TestHostAllocs(t *testing.T) {
	server := nomadtest.Start(t, "")
	server.Client("gpu-01", "")
	cl, err := nomad.New(nomad.Config{API: &api.Config{Address: server.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := cl.NodeID(t.Context(), "nobody"); !errors.Is(err, nomad.ErrNotFound) {
		t.Errorf("a node of another name is %q, %v", id, err)
	}
	id, err := cl.NodeID(t.Context(), "gpu-01")
	if err != nil {
		t.Fatal(err)
	}
	allocs, index, err := cl.HostAllocs(t.Context(), id, 0, time.Minute)
	if err != nil || len(allocs) != 0 || index == 0 {
		t.Fatalf("an empty node has %d allocations at index %d, %v", len(allocs), index, err)
	}

	name, pool := "chat", "gpu"
	job := api.NewServiceJob(name, name, "global", 50)
	job.NodePool = &pool
	job.Meta = map[string]string{"gpupool.engine": "vllm"}
	group := api.NewTaskGroup("serve", 1)
	group.Networks = []*api.NetworkResource{{DynamicPorts: []api.Port{{Label: "http"}}}}
	group.AddTask(api.NewTask("serve", "raw_exec").SetConfig("command", "/bin/sleep").SetConfig("args", []string{"600"}))
	job.AddTaskGroup(group)
	if _, _, err := server.API().Jobs().Register(job, nil); err != nil {
		t.Fatal(err)
	}
	// follow waits until Nomad says so, by its own word that something changed.
	follow := func(what string, ok func(a *api.Allocation) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for {
			if allocs, index, err = cl.HostAllocs(ctx, id, index, time.Minute); err != nil {
				t.Fatalf("until %s: %v", what, err)
			}
			if len(allocs) == 1 && ok(allocs[0]) {
				return
			}
		}
	}
	follow("it runs", func(a *api.Allocation) bool {
		return a.TaskStates["serve"] != nil && a.TaskStates["serve"].State == "running"
	})
	a := allocs[0]
	if a.Job == nil || a.Job.Meta["gpupool.engine"] != "vllm" || a.TaskStates["serve"].StartedAt.IsZero() ||
		len(a.AllocatedResources.Shared.Ports) != 1 || a.AllocatedResources.Shared.Ports[0].HostIP == "" {
		t.Errorf("the allocation lacks what is needed: %+v", a)
	}
	if _, _, err := server.API().Jobs().Deregister(name, false, nil); err != nil {
		t.Fatal(err)
	}
	follow("it is to stop", func(a *api.Allocation) bool { return a.DesiredStatus == api.AllocDesiredStatusStop })

	// Nothing changes: the answer comes when the wait is over.
	follow("it is over", func(a *api.Allocation) bool { return a.ClientStatus == api.AllocClientStatusComplete })
	for range 5 { // whatever is still written about it
		if _, index, err = cl.HostAllocs(t.Context(), id, index, time.Second); err != nil {
			t.Fatal(err)
		}
	}
	_, same, err := cl.HostAllocs(t.Context(), id, index, time.Second)
	if err != nil || same != index {
		t.Errorf("index %d became %d without a change, %v", index, same, err)
	}
}

// TestHostAllocsNeedsWhatTheReferenceSays: the rules in
// docs/reference/model-servers.md are enough, and without them it is said what
// is missing.
func TestHostAllocsNeedsWhatTheReferenceSays(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/model-servers.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?s)echo '(.*?)' \| nomad acl policy apply`).FindSubmatch(page)
	if m == nil {
		t.Fatal("docs/reference/model-servers.md has no policy")
	}
	server := nomadtest.Start(t, `acl { enabled = true }`)
	server.Client("gpu-01", "")
	token := func(name, rules string) string {
		t.Helper()
		if _, err := server.API().ACLPolicies().Upsert(&api.ACLPolicy{Name: name, Rules: rules}, nil); err != nil {
			t.Fatal(err)
		}
		token, _, err := server.API().ACLTokens().Create(&api.ACLToken{Name: name, Type: "client", Policies: []string{name}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return token.SecretID
	}
	job := api.NewServiceJob("chat", "chat", "global", 50)
	pool := "gpu"
	job.NodePool = &pool
	job.AddTaskGroup(api.NewTaskGroup("serve", 1).AddTask(api.NewTask("serve", "raw_exec").SetConfig("command", "/bin/sleep").SetConfig("args", []string{"600"})))
	if _, _, err := server.API().Jobs().Register(job, nil); err != nil {
		t.Fatal(err)
	}
	cl, err := nomad.New(nomad.Config{API: &api.Config{Address: server.Addr, SecretID: "00000000-0000-0000-0000-000000000000"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.NodeID(t.Context(), "gpu-01"); !errors.Is(err, nomad.ErrDenied) {
		t.Errorf("with a token that nobody knows: %v", err)
	}
	cl.SetToken(token("agent", strings.ReplaceAll(string(m[1]), "\n      ", "\n"))) // is renewed
	id, err := cl.NodeID(t.Context(), "gpu-01")
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		allocs, _, err := cl.HostAllocs(t.Context(), id, 0, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if len(allocs) == 1 && allocs[0].Job != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the allocation was not seen")
		}
	}
}
