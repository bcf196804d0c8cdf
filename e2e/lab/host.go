package lab

import (
	"bytes"
	"context"
	"crypto/md5"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/agent/nvmltest"
)

// Host is a GPU host and its BMC.
type Host struct {
	Name        string // also that of its Nomad node and of its Consul node
	IP          string // of the host, while it is on: Nomad at port 4646, Consul at 8500
	BMC         string // IP of the BMC, which listens on UDP port 623
	User        string // of the BMC, with administrator's rights
	PasswordEnv string // environment variable of [Lab.Env] with the password
	GPUState    string // file that drives its GPUs; see package nvmltest
	Redfish     *Redfish

	number int
	lab    *Lab
	dir    string
	bmc    *Daemon
}

const (
	bmcPort    = 623  // the standard one for RMCP
	serialPort = 9002 // TCP, between a BMC and its host
	bmcUser    = "gpupool"
)

func (l *Lab) newHost(number int) *Host {
	name := fmt.Sprintf("gpu-%d", number)
	dir := filepath.Join(l.config.Dir, name)
	return &Host{
		Name:        name,
		IP:          address(l.id, 10+number),
		BMC:         address(l.id, 100+number),
		User:        bmcUser,
		PasswordEnv: PasswordEnv,
		GPUState:    filepath.Join(dir, "gpus"),
		number:      number,
		lab:         l,
		dir:         dir,
	}
}

// furnish writes the host's files: its GPUs', its BMC's, its own.
func (h *Host) furnish() error {
	if err := os.MkdirAll(filepath.Join(h.dir, "bmc"), 0o755); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	l := h.lab
	gpus := nvmltest.State{"count": strconv.Itoa(l.config.GPUsPerHost)}
	for i := range l.config.GPUsPerHost {
		gpus[nvmltest.GPU(i, "uuid")] = fmt.Sprintf("GPU-%08x-0000-4000-8000-%012x", h.number, i)
	}
	if err := gpus.WriteFile(h.GPUState); err != nil {
		return err
	}
	return h.configure(l.config.BootDelay)
}

// SetBootDelay sets how long the host's next boots take from power-on to the
// start of the operating system. An hour makes a host that does not boot.
func (h *Host) SetBootDelay(d time.Duration) error { return h.configure(d) }

// configure writes the configuration files of the host and its BMC.
func (h *Host) configure(bootDelay time.Duration) error {
	l := h.lab
	env := map[string]string{
		// Tasks find the fake library as they would find NVIDIA's.
		"LD_LIBRARY_PATH":  l.config.Dir,
		nvmltest.FileEnv:   h.GPUState,
		"CONSUL_HTTP_ADDR": h.IP + ":8500",
		"NOMAD_ADDR":       "http://" + h.IP + ":4646",
	}
	for _, pair := range l.env {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	for name, value := range l.config.Env {
		env[name] = value
	}
	fields := map[string]any{
		"Name": h.Name, "Addr": h.IP, "Control": l.ControlIP(), "Pool": l.config.Pool,
		"Dir": h.dir, "Logs": filepath.Join(l.config.Dir, "logs"), "Tools": l.tools, "PluginDir": filepath.Dir(l.tools.DeviceFake),
		"Device": l.device(strconv.Itoa(h.number)),
		"Meta":   l.config.Meta, "Env": env, "GPUState": h.GPUState, "BootDelay": bootDelay,
		"BMCAddr": h.BMC, "BMCPort": bmcPort, "SerialPort": serialPort, "User": h.User, "Password": l.password,
		"GUID": fmt.Sprintf("%x", md5.Sum([]byte(h.Name))),
	}
	for _, name := range []string{"lan.conf", "bmc.emu", "host.hcl", "consul-client.hcl", "nomad-client.hcl"} {
		if err := render(name, filepath.Join(h.dir, name), fields); err != nil {
			return err
		}
	}
	return nil
}

// PowerState reads the chassis power over IPMI, with ipmitool.
func (h *Host) PowerState(ctx context.Context) (on bool, err error) {
	said, err := h.ipmitool(ctx, "status")
	if err != nil {
		return false, err
	}
	switch said {
	case "Chassis Power is on":
		return true, nil
	case "Chassis Power is off":
		return false, nil
	}
	return false, fmt.Errorf("power of %s: ipmitool said %q", h.Name, said)
}

// PowerOn powers the host on over IPMI.
func (h *Host) PowerOn(ctx context.Context) error { return h.power(ctx, "on") }

// SoftOff asks the host's operating system over IPMI to shut down.
func (h *Host) SoftOff(ctx context.Context) error { return h.power(ctx, "soft") }

// HardOff cuts the host's power over IPMI.
func (h *Host) HardOff(ctx context.Context) error { return h.power(ctx, "off") }

func (h *Host) power(ctx context.Context, command string) error {
	_, err := h.ipmitool(ctx, command)
	return err
}

// ipmitool runs one chassis power command. It gives up after some seconds.
func (h *Host) ipmitool(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ipmitool", "-I", "lanplus", "-H", h.BMC, "-p", strconv.Itoa(bmcPort), "-U", h.User, "-E", "-C", "3", "-N", "1", "-R", "3",
		"chassis", "power", command)
	cmd.Env = []string{"IPMI_PASSWORD=" + h.lab.password}
	out, err := cmd.CombinedOutput()
	said := strings.TrimSpace(string(out))
	if err != nil {
		return "", fmt.Errorf("power %s of %s: %w: %s", command, h.Name, err, said)
	}
	return said, nil
}

// BMCProcess is the process that is the host's BMC.
func (h *Host) BMCProcess() *Daemon { return h.bmc }

// PowerLoss pulls the host's plug: everything on it is gone at once, and its
// BMC, which has a supply of its own, reads off. It is an error if the host
// is off.
func (h *Host) PowerLoss() error {
	chassis := children(h.bmc.PID())
	if len(chassis) != 1 {
		return fmt.Errorf("power loss of %s: its BMC has %d processes, want the chassis: is it off?", h.Name, len(chassis))
	}
	first := children(chassis[0])
	if len(first) != 1 {
		return fmt.Errorf("power loss of %s: its chassis has %d processes, want init", h.Name, len(first))
	}
	if err := syscall.Kill(first[0], syscall.SIGKILL); err != nil {
		return fmt.Errorf("power loss of %s: %w", h.Name, err)
	}
	return nil
}

// children lists the processes whose parent is pid.
func children(pid int) []int {
	var found []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it is gone
		}
		// pid (name) state ppid ...; the name may have anything in it.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) && fields[0] != "Z" {
			if child, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				found = append(found, child)
			}
		}
	}
	return found
}

// Node is what Nomad says of the host, nil if it has never seen it.
func (h *Host) Node(ctx context.Context) (*nomad.NodeListStub, error) {
	nodes, _, err := h.lab.nomad.Nodes().List((&nomad.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("Nomad node of %s: %w", h.Name, err)
	}
	for _, n := range nodes {
		if n.Name == h.Name {
			return n, nil
		}
	}
	return nil, nil
}

// UntilNode waits for Nomad to give the host's node a status: ready or down.
func (h *Host) UntilNode(ctx context.Context, status string) error {
	return Until(ctx, "the node of "+h.Name+" is "+status, func(ctx context.Context) (bool, error) {
		n, err := h.Node(ctx)
		return n != nil && n.Status == status, err
	})
}

// UntilPower waits for the BMC to say that the chassis is on or off.
func (h *Host) UntilPower(ctx context.Context, on bool) error {
	state := map[bool]string{true: "on", false: "off"}[on]
	return Until(ctx, "the chassis of "+h.Name+" is "+state, func(ctx context.Context) (bool, error) {
		now, err := h.PowerState(ctx)
		return err == nil && now == on, nil
	})
}
