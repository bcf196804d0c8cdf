package consultest

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/devbin"
)

// Agent is a real Consul server on loopback, with its data on disk, so that it
// can be stopped and started again.
type Agent struct {
	Addr  string // host:port of its HTTP API
	Token string // a management token, where ACLs are enabled

	t     testing.TB
	bin   string
	dir   string
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
	log   *bytes.Buffer
}

// loopbacks gives each agent of a test binary an address of its own.
var loopbacks atomic.Uint32

// Start runs a Consul server until the test ends. Sessions may have a TTL as
// short as 1 s, below Consul's usual floor of 10 s. extra is HCL for the
// agent's configuration.
func Start(t testing.TB, extra ...string) *Agent {
	t.Helper()
	pid := os.Getpid()
	host := fmt.Sprintf("127.%d.%d.%d", 64+loopbacks.Add(1)%64, pid>>8&0xff, pid&0xff|1)
	ports := devbin.FreePorts(t, host, 3)
	a := &Agent{
		Addr: net.JoinHostPort(host, fmt.Sprint(ports[0])),
		t:    t,
		bin:  devbin.Path(t, "consul"),
		dir:  t.TempDir(),
	}
	config := fmt.Sprintf(`
		server             = true
		bootstrap_expect   = 1
		node_name          = "consultest"
		bind_addr          = %[1]q
		client_addr        = %[1]q
		data_dir           = %[2]q
		session_ttl_min    = "1s"
		disable_update_check = true
		log_level          = "warn"
		performance { raft_multiplier = 1 }
		ports {
			http = %[3]d, serf_lan = %[4]d, server = %[5]d
			serf_wan = -1, dns = -1, grpc = -1, grpc_tls = -1
		}
		`, host, filepath.Join(a.dir, "data"), ports[0], ports[1], ports[2]) + strings.Join(extra, "\n")
	if err := os.WriteFile(filepath.Join(a.dir, "consul.hcl"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Stop)
	a.Run()
	return a
}

// Run starts the agent after Stop, and returns when it accepts writes.
func (a *Agent) Run() {
	a.t.Helper()
	a.log = new(bytes.Buffer)
	a.cmd = exec.Command(a.bin, "agent", "-config-file", filepath.Join(a.dir, "consul.hcl"))
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	ended := make(chan struct{})
	a.ended = ended
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait()
		close(ended)
	}(a.cmd)

	for deadline := time.Now().Add(60 * time.Second); ; {
		_, err := a.Client().KV().Put(&api.KVPair{Key: "consultest/ready"}, nil)
		if err == nil {
			return
		}
		if a.Token == "" && strings.Contains(err.Error(), "Permission denied") {
			if token, _, err := a.Client().ACL().Bootstrap(); err == nil {
				a.Token = token.SecretID
			}
		}
		select {
		case <-a.ended:
			a.t.Fatalf("consul ended at once:\n%s", a.log)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			a.Stop()
			a.t.Fatalf("consul took no write within 60 s: %v\n%s", err, a.log)
		}
	}
}

// Stop kills the agent, as a power cut would. It may be called twice.
func (a *Agent) Stop() {
	if a.cmd == nil || a.cmd.Process == nil {
		return
	}
	_ = a.cmd.Process.Kill()
	<-a.ended
}

// Pause stops the agent from answering, without closing its connections, and
// Resume lets it go on.
func (a *Agent) Pause() {
	a.t.Helper()
	a.signal(syscall.SIGSTOP)
	// The signal reaches one thread after the other.
	for !stopped(a.cmd.Process.Pid) {
		time.Sleep(time.Millisecond)
	}
}

// stopped says whether all threads of a process stand still.
func stopped(pid int) bool {
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // the thread ended
		}
		// The state follows the name, which is in parentheses.
		_, after, _ := bytes.Cut(stat, []byte(") "))
		if !bytes.HasPrefix(after, []byte("T")) {
			return false
		}
	}
	return true
}

// Resume undoes Pause.
func (a *Agent) Resume() { a.signal(syscall.SIGCONT) }

func (a *Agent) signal(s syscall.Signal) {
	a.t.Helper()
	if err := a.cmd.Process.Signal(s); err != nil {
		a.t.Fatal(err)
	}
}

// Client is a plain client of the agent, to look behind the back of the code
// under test.
func (a *Agent) Client() *api.Client {
	a.t.Helper()
	cl, err := api.NewClient(&api.Config{Address: a.Addr, Token: a.Token, HttpClient: &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true},
		Timeout:   5 * time.Second,
	}})
	if err != nil {
		a.t.Fatal(err)
	}
	return cl
}
