// Package nomadtest runs real Nomad servers and clients on loopback, for tests.
package nomadtest

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

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/devbin"
)

// agent is one Nomad process, a server or a client.
type agent struct {
	t     testing.TB
	dir   string
	host  string // its loopback address
	http  int
	jail  bool // in a PID and a mount namespace of its own
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
	log   *bytes.Buffer
}

// loopbacks gives each agent of a test binary an address of its own.
var loopbacks atomic.Uint32

func newAgent(t testing.TB, config func(host string, ports []int, dir string) string) *agent {
	t.Helper()
	pid := os.Getpid()
	host := fmt.Sprintf("127.%d.%d.%d", 128+loopbacks.Add(1)%64, pid>>8&0xff, pid&0xff|1)
	ports := devbin.FreePorts(t, host, 3)
	a := &agent{t: t, dir: t.TempDir(), host: host, http: ports[0]}
	if err := os.WriteFile(a.path("nomad.hcl"), []byte(config(host, ports, a.dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Kill)
	return a
}

func (a *agent) path(name string) string { return filepath.Join(a.dir, name) }

func (a *agent) run() {
	a.t.Helper()
	a.log = new(bytes.Buffer)
	args := []string{devbin.Path(a.t, "nomad"), "agent", "-config", a.path("nomad.hcl")}
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if a.jail {
		// Tasks outlive the client that is killed, and their directories are
		// mounted. A host that loses its power has neither.
		args = append([]string{"/bin/sh", "-c", `mount --make-rprivate / && mount -t proc proc /proc && exec "$@"`, "sh"}, args...)
		attr.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	}
	a.cmd = exec.Command(args[0], args[1:]...)
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	a.cmd.SysProcAttr = attr
	// The AWS fingerprinter ends the agent where this is set.
	for _, env := range os.Environ() {
		if !strings.HasPrefix(env, "AWS_") && !strings.HasPrefix(env, "NOMAD_") {
			a.cmd.Env = append(a.cmd.Env, env)
		}
	}
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	ended := make(chan struct{})
	a.ended = ended
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait()
		close(ended)
	}(a.cmd)
}

// Kill ends the process as a power cut would. It may be called twice.
func (a *agent) Kill() { a.end(syscall.SIGKILL) }

// Stop ends the process in order, as a host that shuts down does.
func (a *agent) Stop() { a.end(syscall.SIGTERM) }

func (a *agent) end(s syscall.Signal) {
	if a.cmd == nil || a.cmd.Process == nil {
		return
	}
	_ = a.cmd.Process.Signal(s)
	<-a.ended
}

// wait polls until ok says that there is no error any more.
func (a *agent) wait(what string, ok func() error) {
	a.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-a.ended:
			a.t.Fatalf("%s: nomad has ended:\n%s", what, a.log)
		default:
		}
		if time.Now().After(deadline) {
			a.Kill()
			a.t.Fatalf("%s: not within 60 s: %v\n%s", what, err, a.log)
		}
	}
}

// Server is a Nomad server with a single voter, and its data on disk.
type Server struct {
	*agent
	Addr  string // URL of its HTTP API
	Token string // a management token, where ACLs are enabled
	rpc   string
}

// Start runs a Nomad server until the test ends. A client that does not
// heart-beat is down after about 4 s. extra is HCL for the agent's
// configuration.
func Start(t testing.TB, extra string) *Server {
	t.Helper()
	s := new(Server)
	s.agent = newAgent(t, func(host string, ports []int, dir string) string {
		s.rpc = net.JoinHostPort(host, fmt.Sprint(ports[1]))
		return base("nomadtest-server", host, ports, dir) + `
			server {
				enabled           = true
				bootstrap_expect  = 1
				min_heartbeat_ttl = "2s"
				max_heartbeats_per_second = 1000
				heartbeat_grace   = "2s"
				raft_multiplier   = 1
			}
			` + extra
	})
	s.Addr = "http://" + net.JoinHostPort(s.host, fmt.Sprint(s.http))
	s.Run()
	return s
}

// Run starts the server after Kill or Stop, and returns when it takes writes.
func (s *Server) Run() {
	s.t.Helper()
	s.run()
	s.wait("start the server", func() error {
		_, err := s.API().NodePools().Register(&api.NodePool{Name: "gpu"}, nil)
		if err != nil && s.Token == "" && strings.Contains(err.Error(), "Permission denied") {
			var token *api.ACLToken
			if token, _, err = s.API().ACLTokens().Bootstrap(nil); err == nil {
				s.Token = token.SecretID
			}
		}
		return err
	})
}

// API is a plain client of the server, to arrange what the code under test
// finds and to look behind its back.
func (s *Server) API() *api.Client {
	s.t.Helper()
	cl, err := api.NewClient(&api.Config{Address: s.Addr, SecretID: s.Token, HttpClient: &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true},
		Timeout:   10 * time.Second,
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	return cl
}

// Client is a Nomad client: what runs on a host.
type Client struct {
	*agent
	Name   string
	server *Server
	gpus   string // file with the state of its GPUs
}

// Client runs a Nomad client in node pool gpu, which has 1000 MB of memory and
// the raw_exec driver, until the test ends. It returns when the node is ready.
// extra is HCL for the client block. Where the server has ACLs, so has the
// client. It takes root.
func (s *Server) Client(name, extra string) *Client {
	s.t.Helper()
	return s.client(name, extra, "")
}

// GPUClient runs a client that has GPUs, which do not exist. The state is what
// drives them, in the words of agent/nvmltest/README.md: "count 2" makes two.
func (s *Server) GPUClient(name, state string) *Client {
	s.t.Helper()
	plugin := devbin.Path(s.t, "gpupool-device-fake")
	file := filepath.Join(s.t.TempDir(), "gpus")
	if err := os.WriteFile(file, []byte(state), 0o600); err != nil {
		s.t.Fatal(err)
	}
	c := s.client(name, "", fmt.Sprintf(`
		plugin_dir = %q
		plugin %q {
			config { file = %q }
		}`, filepath.Dir(plugin), filepath.Base(plugin), file))
	c.gpus = file
	return c
}

// SetGPUs changes the state of a GPUClient's GPUs.
func (c *Client) SetGPUs(state string) {
	c.t.Helper()
	if err := os.WriteFile(c.gpus, []byte(state), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (s *Server) client(name, block, extra string) *Client {
	s.t.Helper()
	if s.Token != "" {
		extra += `
			acl { enabled = true }`
	}
	c := &Client{Name: name, server: s}
	c.agent = newAgent(s.t, func(host string, ports []int, dir string) string {
		return base(name, host, ports, dir) + fmt.Sprintf(`
			leave_on_terminate = true
			client {
				enabled         = true
				servers         = [%q]
				node_pool       = "gpu"
				memory_total_mb = 1000
				gc_interval     = "1h"
				options {
					"fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,cni,nomad"
				}
				%s
			}
			plugin "raw_exec" {
				config { enabled = true }
			}
			%s`, s.rpc, block, extra)
	})
	c.jail = true
	c.Run()
	return c
}

// Run starts the client after Kill or Stop, with the same node ID, and returns
// when its node is ready.
func (c *Client) Run() {
	c.t.Helper()
	c.run()
	c.wait("start client "+c.Name, func() error {
		node, err := c.Node()
		if err == nil && node.Status != api.NodeStatusReady {
			err = fmt.Errorf("node is %s", node.Status)
		}
		return err
	})
}

// Addr is the address of the client's own HTTP API.
func (c *Client) Addr() string { return fmt.Sprintf("http://%s:%d", c.host, c.http) }

// Node is the client's node, as the server knows it.
func (c *Client) Node() (*api.Node, error) {
	id, err := os.ReadFile(c.path("data/client/client-id"))
	if err != nil {
		return nil, err
	}
	node, _, err := c.server.API().Nodes().Info(string(id), nil)
	return node, err
}

// base is the part of the configuration that servers and clients share.
func base(name, host string, ports []int, dir string) string {
	return fmt.Sprintf(`
		name      = %[1]q
		bind_addr = %[2]q
		data_dir  = %[3]q
		log_level = "warn"
		disable_update_check = true
		advertise {
			http = "%[2]s:%[4]d"
			rpc  = "%[2]s:%[5]d"
			serf = "%[2]s:%[6]d"
		}
		ports {
			http = %[4]d
			rpc  = %[5]d
			serf = %[6]d
		}
		consul {
			server_auto_join = false
			client_auto_join = false
			auto_advertise   = false
		}
		`, name, host, filepath.Join(dir, "data"), ports[0], ports[1], ports[2])
}
