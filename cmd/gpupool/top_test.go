package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/top"
)

// agentOf registers an agent in Consul that answers with a snapshot, to those
// who have the token.
func agentOf(t *testing.T, c *api.Client, s fleet.Snapshot, token, status string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(s)
	}))
	t.Cleanup(server.Close)
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	number, _ := strconv.Atoi(port)
	id := fleet.Service + "-" + s.Node
	err = c.Agent().ServiceRegister(&api.AgentServiceRegistration{
		ID: id, Name: fleet.Service, Address: host, Port: number, Meta: map[string]string{"node": s.Node},
		Check: &api.AgentServiceCheck{TTL: "1m", Status: status},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTopPrintsOnce(t *testing.T) {
	agent := consultest.Start(t)
	t.Setenv("CONSUL_HTTP_ADDR", agent.Addr)
	t.Setenv("AGENT_TOKEN", "knock")
	busy := 0.5
	snapshot := fleet.Snapshot{Schema: fleet.Schema, Node: "gpu-1", Driver: fleet.Driver{State: fleet.DriverOK}, GPUs: []fleet.GPU{{
		Name: "NVIDIA H100", State: fleet.StateOK, Busy: fleet.Value{Quality: fleet.QualityOK, Value: &busy},
	}}}
	agentOf(t, agent.Client(), snapshot, "knock", api.HealthPassing)
	snapshot.Node = "gpu-2"
	agentOf(t, agent.Client(), snapshot, "knock", api.HealthCritical)
	put(t, agent, "pools/h100/want", consul.Want{Count: 3, At: time.Now()})

	out, err := gpupool(t, "top", "--agent-token", "env:AGENT_TOKEN")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "top", out, "1 host, 1 GPU", "1 agent not heard", "h100  3", "H100", " 50%", "Consul calls its agent failing")

	out, err = gpupool(t, "top", "--once")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "without the token", out, "0 hosts", "refused the bearer token")

	queues := filepath.Join(t.TempDir(), "queues.hcl")
	if err := os.WriteFile(queues, []byte("queue \"tasks\" {\n  source \"redis\" {\n    address = \"127.0.0.1:1\"\n    list_name = \"tasks\"\n  }\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err = gpupool(t, "top", "--queues", queues); err != nil {
		t.Fatal(err)
	}
	contains(t, "with queues", out, "QUEUE", "tasks", "unreachable")
}

func TestTopSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--every", "1ms"}, "--every 1ms: at least 100ms"},
		{[]string{"--agent-token", "knock"}, "--agent-token: a credential is written in clear"},
		{[]string{"--queues", "/no/such"}, "/no/such"},
		{[]string{"--consul-address", "127.0.0.1:1"}, "127.0.0.1:1"},
	} {
		if out, err := gpupool(t, append([]string{"top"}, c.args...)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q\n%s", c.args, err, c.want, out)
		}
	}
}

// What does not fit the window is counted, not scrolled away.
func TestScreenIsFilledAndNoMore(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "screen"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // a test's
	v := top.View{Notes: make([]string, 100)}
	if err := (screen{f}).draw(v); err != nil { // no terminal: 80 by 24
		t.Fatal(err)
	}
	text, err := os.ReadFile(f.Name())
	if err != nil || strings.Count(string(text), "\n") != 23 || !strings.Contains(string(text), "lines more") {
		t.Errorf("%d lines, %v:\n%q", strings.Count(string(text), "\n"), err, text)
	}
}
