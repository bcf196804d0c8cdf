package nomad

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/mtls/mtlstest"
	"github.com/gpupool/gpupool/internal/nomad/nomadtest"
)

// What tasks ask for, of the jobs that may run in the pool, and of no other.
func TestKillTimeouts(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, "")
	c := connect(t, server.Addr)
	asking := func(id, kind string, d time.Duration) *api.Job {
		j := job(id, kind, group1("g", 1, 10))
		j.TaskGroups[0].Tasks[0].KillTimeout = &d
		return j
	}
	_, err := server.API().Namespaces().Register(&api.Namespace{Name: "ml"}, nil)
	must(t, err)

	two := asking("serve", "service", 2*time.Minute)
	two.TaskGroups[0].Tasks = append(two.TaskGroups[0].Tasks, group1("", 1, 10).Tasks[0])
	two.TaskGroups[0].Tasks[1].Name = "log" // which says nothing
	submit(t, server, two)
	ml, ns := asking("workers", "service", 10*time.Minute), "ml"
	ml.Namespace = &ns
	ml.TaskGroups[0].Count = new(int) // as a policy may have left it
	submit(t, server, ml)
	everyPool, all := asking("everywhere", "system", time.Minute), api.NodePoolAll
	everyPool.NodePool = &all
	submit(t, server, everyPool)
	parent := asking("infer", "batch", time.Hour)
	parent.ParameterizedJob = &api.ParameterizedJobConfig{}
	submit(t, server, parent)
	for range 3 {
		_, _, err := server.API().Jobs().Dispatch("infer", nil, nil, "", nil)
		must(t, err)
	}

	elsewhere := asking("elsewhere", "service", 9*time.Minute)
	elsewhere.NodePool = nil
	submit(t, server, elsewhere)
	far := asking("far", "service", 9*time.Minute)
	far.Datacenters = []string{"moon"}
	submit(t, server, far)
	submit(t, server, asking("stopped", "service", 9*time.Minute))
	_, _, err = server.API().Jobs().Deregister("stopped", false, nil)
	must(t, err)
	over := asking("over", "batch", time.Hour)
	over.TaskGroups[0].Count = new(int)
	submit(t, server, over)

	spec := gpuPool
	spec.Datacenter = "dc1"
	asked := func() []string {
		t.Helper()
		timeouts, err := c.KillTimeouts(t.Context(), spec)
		must(t, err)
		var said []string
		for _, k := range timeouts {
			said = append(said, fmt.Sprintf("%s/%s/%s/%s %s", k.Namespace, k.Job, k.Group, k.Task, k.Timeout))
		}
		return said
	}
	want := []string{
		"default/everywhere/g/sleep 1m0s", "default/infer/g/sleep 1h0m0s",
		"default/serve/g/log 5s", "default/serve/g/sleep 2m0s", "ml/workers/g/sleep 10m0s",
	}
	eventually(t, "Nomad knows that the batch job is over", func() bool { return !slices.Contains(asked(), "default/over/g/sleep 1h0m0s") })
	if got := asked(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What clients say that they cut it to, with the ACL policy of the
// documentation; and that they do.
func TestMaxKillTimeout(t *testing.T) {
	t.Parallel()
	server := nomadtest.Start(t, `acl { enabled = true }`)
	silent := server.Client("gpu-1", "")
	server.Client("gpu-2", `max_kill_timeout = "10m"`)
	short := server.Client("gpu-3", `max_kill_timeout = "1s"`)
	acl := server.API()
	with := func(rules string) *Client {
		t.Helper()
		name := fmt.Sprintf("p%d", time.Now().UnixNano())
		_, err := acl.ACLPolicies().Upsert(&api.ACLPolicy{Name: name, Rules: rules}, nil)
		must(t, err)
		token, _, err := acl.ACLTokens().Create(&api.ACLToken{Type: "client", Policies: []string{name}}, nil)
		must(t, err)
		c, err := New(Config{API: &api.Config{Address: server.Addr, SecretID: token.SecretID}})
		must(t, err)
		return c
	}
	page, err := os.ReadFile("../../docs/reference/nomad.md")
	must(t, err)
	_, rest, _ := strings.Cut(string(page), "```hcl\n")
	plugins, rest, _ := strings.Cut(rest, "```")
	_, rest, _ = strings.Cut(rest, "```hcl\n")
	besides, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("docs/reference/nomad.md has no second policy")
	}

	c := with(plugins + besides)
	for name, want := range map[string]time.Duration{"gpu-1": DefaultMaxKillTimeout, "gpu-2": 10 * time.Minute, "gpu-3": time.Second} {
		if got, err := c.MaxKillTimeout(t.Context(), one(t, c, name).ID); err != nil || got != want {
			t.Errorf("%s: got %s (%v), want %s", name, got, err, want)
		}
	}
	id := one(t, c, "gpu-1").ID
	if _, err := with(plugins).MaxKillTimeout(t.Context(), id); !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), strings.TrimPrefix(silent.Addr(), "http://")) {
		t.Errorf("without agent:read: got %v, want ErrDenied and the client's address", err)
	}
	silent.Kill()
	if _, err := c.MaxKillTimeout(t.Context(), id); !errors.Is(err, ErrUnreachable) {
		t.Errorf("a client that is away: got %v, want ErrUnreachable", err)
	}

	// One that would take a minute to end, and asks for it.
	file := filepath.Join(t.TempDir(), "told")
	minute := time.Minute
	j := job("slow", "batch", group1("g", 1, 10))
	j.TaskGroups[0].Constraints = []*api.Constraint{{LTarget: "${node.unique.name}", Operand: "=", RTarget: short.Name}}
	task := j.TaskGroups[0].Tasks[0]
	task.KillTimeout = &minute
	task.Config = map[string]any{"command": "/bin/sh", "args": []string{"-c", fmt.Sprintf("trap 'echo INT >%[1]s' INT; trap 'echo TERM >%[1]s' TERM; while :; do sleep 0.1; done", file)}}
	submit(t, server, j)
	eventually(t, "the task runs", func() bool { return running(server, "slow") == 1 })
	_, _, err = acl.Jobs().Deregister("slow", false, nil)
	must(t, err)
	var said time.Duration
	eventually(t, "it is killed", func() bool {
		allocs, _, err := acl.Jobs().Allocations("slow", true, nil)
		must(t, err)
		alloc, _, err := acl.Allocations().Info(allocs[0].ID, nil)
		must(t, err)
		for _, e := range alloc.TaskStates["sleep"].Events {
			if e.Type == api.TaskKilling {
				said = e.KillTimeout
			}
		}
		return alloc.ClientStatus == api.AllocClientStatusComplete || alloc.ClientStatus == api.AllocClientStatusFailed
	})
	signal, _ := os.ReadFile(file)
	if said != time.Second || string(signal) != "INT\n" {
		t.Errorf("it was given %s and %q, want 1s, and SIGINT where kill_signal is not said", said, signal)
	}
}

// Clients that serve TLS show a client's certificate, whoever the servers'
// address is checked to be.
func TestMaxKillTimeoutOverTLS(t *testing.T) {
	t.Parallel()
	const id = "5a3f0000-0000-4000-8000-000000000000"
	ca := mtlstest.NewCA(t, "ca")
	start := func(name string, h http.HandlerFunc) (addr string) {
		t.Helper()
		files := ca.Issue(t, t.TempDir(), name)
		cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		must(t, err)
		srv := httptest.NewUnstartedServer(h)
		srv.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are to fail
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
		srv.StartTLS()
		t.Cleanup(srv.Close)
		return srv.Listener.Addr().String()
	}
	self := func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"config": {"Client": {"MaxKillTimeout": "7m"}}, "stats": {"client": {"node_id": %q}}}`, id)
	}
	for name, test := range map[string]struct{ cert, region, want string }{
		"as it should be":             {"client.global.nomad", "", ""},
		"in a region":                 {"client.moon.nomad", "moon", ""},
		"of another region":           {"client.moon.nomad", "", "client.global.nomad"},
		"with a server's certificate": {"server.global.nomad", "", "client.global.nomad"},
	} {
		agent := start(test.cert, self)
		server := start("server.global.nomad", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"ID": %q, "HTTPAddr": %q, "TLSEnabled": true}`, id, agent)
		})
		c, err := New(Config{API: &api.Config{Address: "https://" + server, Region: test.region, TLSConfig: &api.TLSConfig{
			CACert: ca.Issue(t, t.TempDir(), "operator").CA, TLSServerName: "server.global.nomad",
		}}})
		must(t, err)
		d, err := c.MaxKillTimeout(t.Context(), id)
		if test.want == "" && (err != nil || d != 7*time.Minute) {
			t.Errorf("%s: %s, %v", name, d, err)
		}
		if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %s, %v; want %q", name, d, err, test.want)
		}
	}
}

// Agents whose answers cannot be believed.
func TestMaxKillTimeoutOfOthers(t *testing.T) {
	t.Parallel()
	const id = "5a3f0000-0000-4000-8000-000000000000"
	answer, status := "", http.StatusOK
	agent := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://127.0.0.1:1/v1/agent/self")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	})
	addr := strings.TrimPrefix(agent, "http://")
	c := connect(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"ID": %q, "HTTPAddr": %q}`, id, addr)
	}))
	client := func(node, limit string) string {
		return fmt.Sprintf(`{"config": {"Client": {"MaxKillTimeout": %q}}, "stats": {"client": {"node_id": %q}}}`, limit, node)
	}
	for name, test := range map[string]struct {
		answer string
		status int
		want   string
	}{
		"of another node":     {client("other", "10m"), 200, `the agent there is that of node "other", not of ` + id},
		"of a server":         {`{"config": {"Client": null}, "stats": {"nomad": {"leader": "true"}}}`, 200, "the agent there is no client"},
		"of nobody":           {`{}`, 200, "the agent there is no client"},
		"no duration":         {client(id, "ten minutes"), 200, `its max_kill_timeout "ten minutes" is no duration`},
		"below nothing":       {client(id, "-1s"), 200, "is no duration"},
		"another type":        {`{"config": {"Client": {"MaxKillTimeout": 600}}}`, 200, "cannot unmarshal number"},
		"no JSON":             {"<html>", 200, "invalid character"},
		"points elsewhere":    {"", 307, "307"},
		"has an error of its": {"boom", 500, "boom"},
	} {
		answer, status = test.answer, test.status
		if d, err := c.MaxKillTimeout(t.Context(), id); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), addr) {
			t.Errorf("%s: got %s, %v; want %q of %s", name, d, err, test.want, addr)
		}
	}
	answer, status = client(id, ""), 200
	if d, err := c.MaxKillTimeout(t.Context(), id); err != nil || d != DefaultMaxKillTimeout {
		t.Errorf("one that does not say: %s, %v", d, err)
	}
	addr = ""
	if _, err := c.MaxKillTimeout(t.Context(), id); err == nil || !strings.Contains(err.Error(), "advertises no HTTP address") {
		t.Errorf("without an address: %v", err)
	}
}
