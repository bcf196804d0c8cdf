package consul

import (
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
)

// What is no agent is named and left out; the others are there.
func TestSortAgents(t *testing.T) {
	entry := func(id, node string, port int, created uint64, status string) *api.ServiceEntry {
		return &api.ServiceEntry{
			Node:    &api.Node{Node: "consul-" + id, Address: "10.0.0.1"},
			Service: &api.AgentService{ID: id, Port: port, Meta: map[string]string{"node": node}, CreateIndex: created},
			Checks:  api.HealthChecks{{Status: status}},
		}
	}
	anonymous := entry("anonymous", "", 9109, 1, "passing")
	anonymous.Service.Meta = map[string]string{"schema": "9"}
	got, strays := sortAgents([]*api.ServiceEntry{
		entry("a", "gpu-1", 9109, 5, "passing"),
		entry("old", "gpu-1", 9109, 9, "critical"),
		entry("b", "gpu-2", 9109, 5, "critical"),
		entry("new", "gpu-2", 9110, 6, "critical"),
		nil, {}, anonymous,
		entry("no port", "gpu-3", 0, 1, "passing"),
		entry("endless", strings.Repeat("x", 5000), 9109, 1, "passing"),
	})
	if len(got) != 2 || got["gpu-1"].Host != "consul-a" || !got["gpu-1"].Passing || got["gpu-2"].Addr != "10.0.0.1:9110" {
		t.Errorf("agents: %+v", got)
	}
	want := []string{
		"an entry without a service or a node", "an entry without a service or a node",
		`service "anonymous" on Consul node "consul-anonymous" names no Nomad node`, "has port 0", "has 5000 bytes",
	}
	if len(strays) != len(want) {
		t.Fatalf("strays: %q", strays)
	}
	for i, s := range strays {
		if !strings.Contains(s, want[i]) || len(s) > 500 {
			t.Errorf("stray %d: %q, want %q", i, s, want[i])
		}
	}
}
