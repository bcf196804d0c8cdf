// Package lab is a GPU data centre on one machine, for the end-to-end tests and
// the demo: a Consul and a Nomad server, and hosts that are really off until
// their BMC is told over IPMI or Redfish to power them on, and then run a real
// Consul client, a real Nomad client and fake GPUs.
//
// All of it listens on a part of 127.0.0.0/8 that is the lab's own, on the
// standard ports, so labs can run side by side. All of it runs in one PID
// namespace, so that nothing is left when the lab is closed, and neither when
// the process that started it is killed. That takes root.
package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/agent/nvmltest"
)

// Config says what to build.
type Config struct {
	// Dir is an existing folder for the lab's configuration files, state and
	// logs. Its path may have letters, digits and ._/- only: it becomes part
	// of command lines.
	Dir string
	// Hosts is how many GPU hosts there are: gpu-1, gpu-2 and so on. 1 to 64.
	Hosts int
	// GPUsPerHost is how many GPUs each host has at first; 0 means 2.
	GPUsPerHost int
	// Pool is the Nomad node pool of the hosts; empty means gpu.
	Pool string
	// BootDelay is how long a host takes from power-on to the start of its
	// operating system, on top of what that takes.
	BootDelay time.Duration
	// Meta is added to the metadata of the hosts' Nomad nodes.
	Meta map[string]string
	// Env is added to the environment of the hosts' Nomad clients, and so to
	// that of raw_exec tasks.
	Env map[string]string
	// Progress, if set, is told in a few words what is being done.
	Progress func(string)
}

func (c Config) validate() (Config, error) {
	var errs []error
	if c.GPUsPerHost == 0 {
		c.GPUsPerHost = 2
	}
	if c.Pool == "" {
		c.Pool = "gpu"
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	if c.Hosts < 1 || c.Hosts > 64 {
		errs = append(errs, fmt.Errorf("lab: %d hosts, not 1 to 64", c.Hosts))
	}
	if c.GPUsPerHost < 1 || c.GPUsPerHost > 64 {
		errs = append(errs, fmt.Errorf("lab: %d GPUs per host, not 1 to 64", c.GPUsPerHost))
	}
	if c.BootDelay < 0 {
		errs = append(errs, fmt.Errorf("lab: boot delay %v is negative", c.BootDelay))
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		errs = append(errs, fmt.Errorf("lab: folder: %w", err))
	} else if info, err := os.Stat(dir); err != nil {
		errs = append(errs, fmt.Errorf("lab: folder: %w", err))
	} else if !info.IsDir() || !regexp.MustCompile(`^[A-Za-z0-9._/-]+$`).MatchString(dir) {
		errs = append(errs, fmt.Errorf("lab: %q is not a folder of letters, digits and ._/- only", dir))
	}
	c.Dir = dir
	return c, errors.Join(errs...)
}

// Lab is a running lab. Its methods and those of its hosts may be called from
// several goroutines.
type Lab struct {
	config   Config
	id       string // four hexadecimal digits, part of every address
	claim    net.Listener
	tools    Tools
	password string
	env      []string // of everything that runs in the lab
	hosts    []*Host
	nomad    *nomad.Client
	consul   *consul.Client

	mu      sync.Mutex
	room    *room     // nil before it is opened and after it was closed
	daemons []*Daemon // in the order of their start
}

// PasswordEnv is the environment variable in which [Lab.Env] has the password
// of every BMC.
const PasswordEnv = "GPUPOOL_BMC_PASSWORD"

// markEnv is in the environment of all that runs in a lab, with the lab's id.
const markEnv = "GPUPOOL_LAB"

// Start builds a lab and returns when its servers lead and its BMCs answer. All
// hosts are off. Call Close in any case where it returned a lab. The context
// is for the start alone.
func Start(ctx context.Context, config Config) (*Lab, error) {
	config, err := config.validate()
	if err != nil {
		return nil, err
	}
	if err := permitted(); err != nil {
		return nil, err
	}
	l := &Lab{config: config, password: rand.Text()[:16]}
	if err := l.start(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context) error {
	var err error
	if l.tools, err = findTools(ctx, l.config.Dir, l.config.Progress); err != nil {
		return err
	}
	if l.id, l.claim, err = claimAddresses(); err != nil {
		return err
	}
	for _, dir := range []string{"logs", "home", "tmp"} {
		if err := os.MkdirAll(filepath.Join(l.config.Dir, dir), 0o755); err != nil {
			return fmt.Errorf("lab: %w", err)
		}
	}
	l.env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + filepath.Join(l.config.Dir, "home"),
		"TMPDIR=" + filepath.Join(l.config.Dir, "tmp"),
		"LANG=C.UTF-8",
		markEnv + "=" + l.id,
	}
	if l.room, err = openRoom(l.tools.Host, l.config.Dir); err != nil {
		return err
	}
	if err := l.startServers(ctx); err != nil {
		return err
	}
	return l.startBMCs(ctx)
}

// startServers starts Consul and the Nomad server.
func (l *Lab) startServers(ctx context.Context) error {
	l.config.Progress("starting Consul and the Nomad server on " + l.ControlIP())
	dir := filepath.Join(l.config.Dir, "control")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	fields := map[string]any{"Control": l.ControlIP(), "Dir": dir}
	for _, name := range []string{"consul-server.hcl", "nomad-server.hcl"} {
		if err := render(name, filepath.Join(dir, name), fields); err != nil {
			return err
		}
	}
	if _, err := l.run("consul", l.env, l.tools.Consul, "agent", "-dev", "-config-file", filepath.Join(dir, "consul-server.hcl")); err != nil {
		return err
	}
	if _, err := l.run("nomad", l.env, l.tools.Nomad, "agent", "-config", filepath.Join(dir, "nomad-server.hcl")); err != nil {
		return err
	}
	var err error
	if l.consul, err = consul.NewClient(&consul.Config{Address: l.ControlIP() + ":8500"}); err != nil {
		return fmt.Errorf("lab: Consul client: %w", err)
	}
	if l.nomad, err = nomad.NewClient(&nomad.Config{Address: "http://" + l.ControlIP() + ":4646"}); err != nil {
		return fmt.Errorf("lab: Nomad client: %w", err)
	}
	if err := Until(ctx, "Consul has a leader", func(ctx context.Context) (bool, error) {
		leader, err := l.consul.Status().LeaderWithQueryOptions((&consul.QueryOptions{}).WithContext(ctx))
		return err == nil && leader != "", nil
	}); err != nil {
		return err
	}
	if err := Until(ctx, "Nomad has a leader", func(context.Context) (bool, error) {
		leader, err := l.nomad.Status().Leader()
		return err == nil && leader != "", nil
	}); err != nil {
		return err
	}
	// Nomad makes a pool when its first node joins. A job that waits for the
	// first host to be powered on has to have one before.
	return Until(ctx, "Nomad takes the node pool", func(ctx context.Context) (bool, error) {
		_, err := l.nomad.NodePools().Register(&nomad.NodePool{Name: l.config.Pool}, (&nomad.WriteOptions{}).WithContext(ctx))
		return err == nil, nil
	})
}

// startBMCs makes the hosts and starts their BMCs.
func (l *Lab) startBMCs(ctx context.Context) error {
	l.config.Progress(fmt.Sprintf("starting %d BMCs", l.config.Hosts))
	if _, err := nvmltest.BuildTo(l.config.Dir); err != nil {
		return err
	}
	for i := range l.config.Hosts {
		h := l.newHost(i + 1)
		l.hosts = append(l.hosts, h)
		if err := h.furnish(); err != nil {
			return err
		}
		var err error
		if h.bmc, err = l.run(h.Name+"-bmc", l.env, "ipmi_sim",
			"-c", filepath.Join(h.dir, "lan.conf"), "-f", filepath.Join(h.dir, "bmc.emu"), "-s", filepath.Join(h.dir, "bmc"), "-n"); err != nil {
			return err
		}
	}
	for _, h := range l.hosts {
		if err := Until(ctx, "the BMC of "+h.Name+" answers", func(ctx context.Context) (bool, error) {
			on, err := h.PowerState(ctx)
			return err == nil && !on, nil
		}); err != nil {
			return err
		}
		if err := h.serveRedfish(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close stops everything, in the order in which a data centre would not mind:
// the autoscaler and its plugins in peace, everything else at once. It answers
// an error if anything of the lab is left. It can be called twice.
func (l *Lab) Close() error {
	if d := l.autoscaler(); d != nil {
		d.stop(10 * time.Second)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, h := range l.hosts {
		if h.Redfish != nil {
			errs = append(errs, h.Redfish.server.Close())
		}
	}
	if l.room != nil {
		errs = append(errs, l.room.close())
		l.room = nil
		for _, d := range l.daemons {
			<-d.Done()
		}
		errs = append(errs, l.left())
	}
	if l.claim != nil {
		errs = append(errs, l.claim.Close())
		l.claim = nil
	}
	return errors.Join(errs...)
}

// left looks for what should not be there any more.
func (l *Lab) left() error {
	var errs []error
	mark := l.Mark()
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		env, err := os.ReadFile(path)
		if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), mark) {
			continue // gone meanwhile, or not of this lab
		}
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		errs = append(errs, fmt.Errorf("lab: process %s is left: %q", filepath.Base(filepath.Dir(path)), strings.ReplaceAll(string(cmdline), "\x00", " ")))
	}
	if devices, _ := filepath.Glob("/sys/class/net/" + l.device("*")); len(devices) > 0 {
		errs = append(errs, fmt.Errorf("lab: network interfaces are left: %v", devices))
	}
	return errors.Join(errs...)
}

// Hosts are the lab's GPU hosts, in the order of their names' numbers.
func (l *Lab) Hosts() []*Host { return l.hosts }

// Tools are the programs that the lab is made of.
func (l *Lab) Tools() Tools { return l.tools }

// Mark is in the environment of everything that runs in the lab, tasks of
// Nomad included: NAME=VALUE.
func (l *Lab) Mark() string { return markEnv + "=" + l.id }

// Password is the password of every BMC.
func (l *Lab) Password() string { return l.password }

// Nomad is a client of the Nomad server.
func (l *Lab) Nomad() *nomad.Client { return l.nomad }

// Consul is a client of the Consul server.
func (l *Lab) Consul() *consul.Client { return l.consul }

// NomadAddr is the URL of the Nomad server's API and user interface.
func (l *Lab) NomadAddr() string { return "http://" + l.ControlIP() + ":4646" }

// ConsulAddr is the address, host:port, of the Consul server's API and user
// interface.
func (l *Lab) ConsulAddr() string { return l.ControlIP() + ":8500" }

// ControlIP is the address of the machine that has the servers; what else runs
// there can listen on any port of it but theirs.
func (l *Lab) ControlIP() string { return address(l.id, 1) }

// Env is the environment of a program that works with the lab from the control
// machine: where Nomad and Consul are, and the password of the BMCs. It is
// complete and does not include the caller's environment.
func (l *Lab) Env() []string {
	return append(slices.Clone(l.env),
		"NOMAD_ADDR="+l.NomadAddr(),
		"CONSUL_HTTP_ADDR="+l.ConsulAddr(),
		PasswordEnv+"="+l.password)
}

// Until asks again and again until ok, an error or the end of the context. Its
// error says what was waited for.
func Until(ctx context.Context, what string, ok func(context.Context) (bool, error)) error {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Minute)
		defer cancel()
	}
	began := time.Now()
	for {
		done, err := ok(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("until %s: %w", what, err)
		case done:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("until %s: %w after %v", what, context.Cause(ctx), time.Since(began).Round(time.Millisecond))
		case <-time.After(20 * time.Millisecond):
		}
	}
}
