package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/nomad/nomadtest"
)

// rack is some chassis behind the command driver. Its program logs each run,
// so that a test can say what was done to the hosts, and that nothing was.
type rack struct {
	t   testing.TB
	dir string
}

func newRack(t testing.TB) *rack {
	t.Helper()
	r := &rack{t, t.TempDir()}
	r.write("power", `#!/bin/sh
cd "${0%/*}" || exit 69
echo "$1 $2" >> log
case $1 in
state) cat "chassis-$2" 2>/dev/null || echo off ;;
on) echo on > "chassis-$2" ;;
*) echo off > "chassis-$2" ;;
esac
`)
	return r
}

func (r *rack) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rack) write(name, content string) string {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(content), 0o755); err != nil {
		r.t.Fatal(err)
	}
	return r.path(name)
}

// poolHCL is a pool of two hosts. Its lines are counted in TestBadInput.
const poolHCL = `pool "NAME" {
  node_pool     = "NAME"
  gpus_per_host = 2
  agent         = "none"
  poll          = "200ms"
  power "command" {
    state    = ["DIR/power", "state", "{host}"]
    on       = ["DIR/power", "on", "{host}"]
    off_soft = ["DIR/power", "off_soft", "{host}"]
  }
  host "NAME-1" {
    power { host = "NAME-1" }
  }
  host "NAME-2" {
    power { host = "NAME-2" }
  }
}
`

// pools writes pools.hcl with two hosts in each of the pools, after some
// replacements, and returns its path.
func (r *rack) pools(names []string, oldnew ...string) string {
	r.t.Helper()
	var text strings.Builder
	for _, name := range names {
		text.WriteString(strings.NewReplacer("NAME", name, "DIR", r.dir).Replace(poolHCL))
	}
	return r.write("pools.hcl", strings.NewReplacer(oldnew...).Replace(text.String()))
}

// runs is every run of the program so far.
func (r *rack) runs() []string {
	log, err := os.ReadFile(r.path("log"))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(log), "\n"), "\n")
}

// did is every run that was more than a look, such as "on h100-1".
func (r *rack) did() string {
	var acts []string
	for _, run := range r.runs() {
		if run != "" && !strings.HasPrefix(run, "state ") {
			acts = append(acts, run)
		}
	}
	return strings.Join(acts, ", ")
}

// servers are the real Consul and Nomad that a plugin works with.
type servers struct {
	consul *consultest.Agent
	nomad  *nomadtest.Server
}

func startServers(t *testing.T) servers {
	t.Helper()
	return servers{consultest.Start(t), nomadtest.Start(t, "")}
}

func (s servers) config(pools string) map[string]string {
	return map[string]string{
		"pools": pools, "consul_address": s.consul.Addr, "nomad_address": s.nomad.Addr,
		"lease_ttl": consul.MinTTL.String(), "listen": "off",
	}
}

// records is a pool's records as they are in Consul.
func (s servers) records(t *testing.T, pool string) *consul.Pool {
	t.Helper()
	c, err := consul.New(consul.Config{Address: s.consul.Addr})
	if err != nil {
		t.Fatal(err)
	}
	return c.Pool(pool)
}

func (s servers) want(t *testing.T, pool string) consul.Want {
	t.Helper()
	w, err := s.records(t, pool).Want(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// testPlugin is a plugin and what it logs.
type testPlugin struct {
	*plugin
	t   testing.TB
	log *logBuffer
}

func start(t testing.TB, config map[string]string) *testPlugin {
	t.Helper()
	log := new(logBuffer)
	p := &testPlugin{newPlugin(hclog.New(&hclog.LoggerOptions{Output: log})), t, log}
	t.Cleanup(func() {
		p.halt()
		if t.Failed() {
			t.Logf("the plugin logged:\n%s", log)
		}
	})
	if err := p.SetConfig(config); err != nil {
		t.Fatal(err)
	}
	return p
}

// halt stops the plugin in order.
func (p *testPlugin) halt() { p.stop(p.t.Context()) }

func (p *testPlugin) status(pool string) *sdk.TargetStatus {
	p.t.Helper()
	s, err := p.Status(policy(pool))
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *testPlugin) untilReady(pool string) *sdk.TargetStatus {
	p.t.Helper()
	until(p.t, pool+" is ready", func() string {
		if s := p.status(pool); !s.Ready {
			return s.Meta["gpupool.note"]
		}
		return ""
	})
	return p.status(pool)
}

// untilHave waits until so many hosts are in service or on their way.
func (p *testPlugin) untilHave(pool, n string) {
	p.t.Helper()
	until(p.t, n+" hosts of "+pool+" are in service or on their way", func() string {
		if got := p.status(pool).Meta; got["gpupool.have"] != n {
			return fmt.Sprint(got)
		}
		return ""
	})
}

// untilNote waits until the pool is not ready for a reason with such parts.
func (p *testPlugin) untilNote(pool string, parts ...string) {
	p.t.Helper()
	until(p.t, pool+" is not ready, and says why", func() string {
		s := p.status(pool)
		if s.Ready {
			return "it is ready"
		}
		return lacks(s.Meta["gpupool.note"], parts...)
	})
}

func (p *testPlugin) scale(pool string, n int64) {
	p.t.Helper()
	if err := p.Scale(sdk.ScalingAction{Count: n, Reason: fmt.Sprintf("the test wants %d", n)}, policy(pool)); err != nil {
		p.t.Fatal(err)
	}
}

// policy is the target block of a policy, with what the autoscaler adds.
func policy(pool string) map[string]string {
	return map[string]string{"pool": pool, "_nomad_autoscaler_grpc_timeout": "7.5s"}
}

// until waits for a condition, which says what it still lacks.
func until(t testing.TB, what string, lacking func() string) {
	t.Helper()
	for deadline := time.Now().Add(45 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		missing := lacking()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen that %s: %s", what, missing)
		}
	}
}

// untilDid waits until exactly that was done to the hosts.
func (r *rack) untilDid(want string) {
	r.t.Helper()
	until(r.t, "it did "+want, func() string {
		if got := r.did(); got != want {
			return "it did " + got
		}
		return ""
	})
}

// lacks says which of the parts are not in a text.
func lacks(text string, parts ...string) string {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return fmt.Sprintf("%q is not in: %s", part, text)
		}
	}
	return ""
}

func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
	} else if missing := lacks(err.Error(), parts...); missing != "" {
		t.Error(missing)
	}
}

// runnersAlive is the number of goroutines that tick a pool.
func runnersAlive() int {
	buf := make([]byte, 4<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "live.(*Runner).Run(")
}

// logBuffer takes what several goroutines log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
