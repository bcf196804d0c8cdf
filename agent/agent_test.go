package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/agent/nvmltest"
	"github.com/gpupool/gpupool/agent/register"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/mtls"
	"github.com/gpupool/gpupool/internal/mtls/mtlstest"
)

// mainEnv makes the test binary the agent.
const mainEnv = "GPUPOOL_TEST_IS_THE_AGENT"

// isRoot is whether the agent under test can know what runs outside Nomad.
var isRoot = os.Geteuid() == 0

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
	}
	status := m.Run()
	if libraryDir != "" {
		_ = os.RemoveAll(libraryDir) // or the system does
	}
	os.Exit(status)
}

// library is the fake library, built once for all tests.
var library = sync.OnceValues(func() (path string, err error) {
	if libraryDir, err = os.MkdirTemp("", "agent-test-"); err != nil {
		return "", err
	}
	return nvmltest.BuildTo(libraryDir)
})

var libraryDir string

// host is a host with the fake library, and the agent that runs on it as a
// process of its own.
type host struct {
	testing.TB
	node    string
	library string
	state   nvmltest.State
	file    string // of the state
	trace   string // of the calls to the library
	args    []string

	cmd  *exec.Cmd
	log  *output
	addr string // of the agent
}

// on makes a host in a given state, where no agent runs yet.
func on(t testing.TB, s nvmltest.State) *host {
	t.Helper()
	dir := t.TempDir()
	fake, err := library()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{
		TB:      t,
		node:    "gpu-01",
		library: fake,
		state:   maps.Clone(s),
		file:    filepath.Join(dir, "state"),
		trace:   filepath.Join(dir, "trace"),
		args:    []string{"-period", "100ms", "-consul", "off"},
	}
	h.set(nil)
	return h
}

// set changes keys of the host's state; an empty value takes one away.
func (h *host) set(changes nvmltest.State) {
	h.Helper()
	for key, value := range changes {
		h.state[key] = value
		if value == "" {
			delete(h.state, key)
		}
	}
	if err := h.state.WriteFile(h.file); err != nil {
		h.Fatal(err)
	}
}

// start runs the agent until the test ends.
func (h *host) start() {
	h.Helper()
	h.run()
	serving := regexp.MustCompile(`the agent runs.* listen=(\S+)`)
	h.eventually("the agent listens", func() bool {
		if m := serving.FindStringSubmatch(h.log.String()); m != nil {
			h.addr = m[1]
		}
		return h.addr != ""
	})
}

// run starts the process.
func (h *host) run() {
	h.Helper()
	h.addr, h.log = "", &output{}
	h.cmd = exec.Command(os.Args[0], append([]string{"-listen", "127.0.0.1:0", "-node", h.node, "-nvml", h.library}, h.args...)...)
	h.cmd.Env = append(os.Environ(), mainEnv+"=1", nvmltest.FileEnv+"="+h.file, nvmltest.TraceEnv+"="+h.trace)
	h.cmd.Stderr = h.log
	h.cmd.Stdout = h.log
	if err := h.cmd.Start(); err != nil {
		h.Fatal(err)
	}
	cmd := h.cmd
	h.Cleanup(func() {
		_ = cmd.Process.Kill() // most have ended
		_ = cmd.Wait()
		if h.Failed() {
			h.Logf("the agent said:\n%s", h.log)
		}
	})
}

// end sends a signal and returns the exit status.
func (h *host) end(s syscall.Signal) int {
	h.Helper()
	if err := h.cmd.Process.Signal(s); err != nil {
		h.Fatal(err)
	}
	return h.wait()
}

// wait returns the exit status, -1 for a signal.
func (h *host) wait() int {
	h.Helper()
	var exit *exec.ExitError
	if err := h.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		h.Fatal(err)
	}
	return h.cmd.ProcessState.ExitCode()
}

func (h *host) eventually(what string, ok func() bool) {
	h.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.Fatalf("it never came to it that %s", what)
		}
	}
}

// snapshot asks the agent as its readers do.
func (h *host) snapshot() fleet.Snapshot {
	h.Helper()
	r := fleet.Gather(h.Context(), fleet.Config{Timeout: 10 * time.Second}, map[string]string{h.node: h.addr})[h.node]
	if r.Err != nil {
		h.Fatal(r.Err)
	}
	return r.Snapshot
}

// sees waits until the agent sees something, and returns the snapshot.
func (h *host) sees(what string, ok func(fleet.Snapshot) bool) (s fleet.Snapshot) {
	h.Helper()
	h.eventually("the agent sees "+what, func() bool {
		s = h.snapshot()
		return ok(s)
	})
	return s
}

// in says whether the GPUs are in these states.
func in(states ...fleet.State) func(fleet.Snapshot) bool {
	return func(s fleet.Snapshot) bool {
		for i, g := range s.GPUs {
			if i >= len(states) || g.State != states[i] {
				return false
			}
		}
		return len(s.GPUs) == len(states)
	}
}

func (h *host) metrics() string {
	h.Helper()
	resp, err := http.Get("http://" + h.addr + "/metrics")
	if err != nil {
		h.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		h.Fatalf("metrics: %s %v", resp.Status, err)
	}
	return string(text)
}

func TestAgent(t *testing.T) {
	t.Parallel()
	h := on(t, nvmltest.State{"count": "2", "gpu0.util": "87", "gpu0.mem_used_mib": "70000"})
	h.start()
	s := h.sees("two GPUs", in(fleet.StateOK, fleet.StateOK))
	if v, ok := s.GPUs[0].Busy.Fresh(); !ok || v != 0.87 {
		t.Errorf("busy is %+v", s.GPUs[0].Busy)
	}
	if s.Agent.Version != version || s.Driver.Version != "570.86.15" || s.Outside.Known != isRoot {
		t.Errorf("snapshot is %+v", s)
	}
	if text := h.metrics(); !strings.Contains(text, `gpupool_gpu_memory_used_bytes{gpu="GPU-fa4e0000-0000-4000-8000-000000000000"} 7.340032e+10`) {
		t.Errorf("metrics are\n%s", text)
	}
	if code := h.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d after SIGTERM, want 0", code)
	}
	trace, err := os.ReadFile(h.trace)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(trace), "nvmlShutdown\n") || strings.Count(string(trace), "nvmlInit_v2") != 1 {
		t.Error("the driver was not initialised once and shut down last")
	}
}

func TestAsSeenBy(t *testing.T) {
	sure := fleet.Snapshot{Outside: fleet.Outside{Known: true, GPUs: 1, Processes: 2}}
	if got := asSeenBy(true, sure).Outside; got != sure.Outside {
		t.Errorf("root: %+v", got)
	}
	if got := asSeenBy(false, sure).Outside; got.Known || got.Why == "" || got.GPUs != 1 || got.Processes != 2 {
		t.Errorf("another user: %+v, want what was seen, and that it may not be all", got)
	}
}

func TestAgentWithoutDriver(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		change  func(h *host)
		code    int
		why     string
		outside bool // known
	}{
		{"no library", func(h *host) { h.library = "/nonexistent/libnvidia-ml.so.1" }, 12, "No such file", false},
		{"not loaded", func(h *host) { h.set(nvmltest.State{"init_err": "9"}) }, 9, "lsmod", true},
		{"versions differ", func(h *host) { h.set(nvmltest.State{"init_err": "18"}) }, 18, "reboot", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := on(t, nvmltest.State{"count": "1"})
			tt.change(h)
			h.start()
			s := h.sees("no GPU", func(s fleet.Snapshot) bool { return s.Driver.State == fleet.DriverNone })
			if s.Driver.Code != tt.code || !strings.Contains(s.Driver.Why, tt.why) || s.Outside.Known != (tt.outside && isRoot) {
				t.Errorf("driver is %+v, outside %+v", s.Driver, s.Outside)
			}
			if text := h.metrics(); !strings.Contains(text, "gpupool_driver_up 0\n") {
				t.Errorf("metrics are\n%s", text)
			}
			if code := h.end(syscall.SIGTERM); code != 0 {
				t.Errorf("exit status %d after SIGTERM, want 0", code)
			}
		})
	}
}

func TestAgentWithAnOlderDriver(t *testing.T) {
	t.Parallel()
	h := on(t, nvmltest.State{"count": "1"})
	h.library = nvmltest.Lacking(t)(append(nvmltest.OldDriver, "nvmlDeviceGetPowerUsage")...)
	h.start()
	g := h.sees("a GPU", in(fleet.StateOK)).GPUs[0]
	if g.Power.Quality != fleet.QualityUnsupported || g.MemoryReserved.Quality != fleet.QualityUnsupported {
		t.Errorf("power is %+v, reserved memory %+v, want both unsupported", g.Power, g.MemoryReserved)
	}
	if _, ok := g.MemoryUsed.Fresh(); !ok {
		t.Errorf("memory is %+v", g.MemoryUsed)
	}
}

// TestAgentOverMutualTLS: a reader with a certificate gets the snapshot, and
// nobody else gets anything; certificates are replaced without a restart.
func TestAgentOverMutualTLS(t *testing.T) {
	t.Parallel()
	ca, other := mtlstest.NewCA(t, "ours"), mtlstest.NewCA(t, "another")
	dir := t.TempDir()
	certs := ca.Issue(t, dir, fleet.Service)
	reader, stranger := ca.Issue(t, t.TempDir(), "reader"), other.Issue(t, t.TempDir(), "stranger")
	stranger.CA = certs.CA
	h := on(t, nvmltest.State{"count": "1"})
	h.args = append(h.args, "-tls-cert", certs.Cert, "-tls-key", certs.Key, "-tls-client-ca", certs.CA)
	h.start()
	ask := func(files *mtls.Files) error {
		cfg := fleet.Config{Timeout: 10 * time.Second}
		if files != nil {
			tls, err := fleet.NewTLS(*files, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			cfg.TLS = tls
		}
		return fleet.Gather(t.Context(), cfg, map[string]string{h.node: h.addr})[h.node].Err
	}
	if err := ask(&reader); err != nil {
		t.Error(err)
	}
	for name, files := range map[string]*mtls.Files{"without TLS": nil, "without a certificate": {CA: certs.CA}, "with a certificate of another CA": &stranger} {
		if ask(files) == nil {
			t.Errorf("a reader %s got the snapshot", name)
		}
	}
	ca.Issue(t, dir, "somebody else") // over the agent's own
	h.eventually("the agent shows its new certificate", func() bool {
		err := ask(&reader)
		return err != nil && strings.Contains(err.Error(), "somebody else")
	})
	ca.Issue(t, dir, fleet.Service)
	h.eventually("the agent shows its new certificate", func() bool { return ask(&reader) == nil })
}

// TestAgentAndXIDs goes the whole way of an error, from the driver's event to
// the verdict and the metrics.
func TestAgentAndXIDs(t *testing.T) {
	t.Parallel()
	h := on(t, nvmltest.State{"count": "2", "gpu0.energy_mj": "1000"})
	h.args = append(h.args, "-dcgm-aliases")
	h.start()
	h.sees("two GPUs", func(s fleet.Snapshot) bool {
		return in(fleet.StateOK, fleet.StateOK)(s) && s.GPUs[1].XIDs.Quality == fleet.QualityOK
	})
	h.set(nvmltest.State{"event": "1 1 8 79"})
	s := h.sees("the XID", func(s fleet.Snapshot) bool { return len(s.GPUs[1].XIDs.List) == 1 })
	if g := s.GPUs[1]; g.Health.Verdict != fleet.HealthFailed || g.Health.Action != fleet.ActionCycle || s.GPUs[0].Health.Verdict != fleet.HealthOK {
		t.Errorf("health is %+v and %+v", s.GPUs[0].Health, g.Health)
	}
	text := h.metrics()
	for _, want := range []string{
		`gpupool_gpu_xid_errors_total{gpu="GPU-fa4e0001-0000-4000-8000-000000000000",xid="79",class="cycle"} 1`,
		`gpupool_gpu_health{gpu="GPU-fa4e0001-0000-4000-8000-000000000000",verdict="failed"} 1`,
		`DCGM_FI_DEV_XID_ERRORS{gpu="1",UUID="GPU-fa4e0001-0000-4000-8000-000000000000",pci_bus_id="00000000:02:00.0",device="nvidia1",modelName="NVIDIA H100 80GB HBM3",` +
			`Hostname="gpu-01",hostname="gpu-01",DCGM_FI_DRIVER_VERSION="570.86.15",GPU_I_PROFILE="",GPU_I_ID=""} 79`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

// TestAgentAndHangingEvents: waiting for events that hangs costs the events, and
// nothing else but the driver's orderly end.
func TestAgentAndHangingEvents(t *testing.T) {
	t.Parallel()
	h := on(t, nvmltest.State{"count": "1", "events_hang_ms": "3600000"})
	h.start()
	h.sees("its GPU", in(fleet.StateOK))
	h.set(nvmltest.State{"gpu0.util": "44"})
	h.sees("what it does", func(s fleet.Snapshot) bool { v, ok := s.GPUs[0].Busy.Fresh(); return ok && v == 0.44 })
	if code := h.end(syscall.SIGTERM); code != 0 || !strings.Contains(h.log.String(), "hangs") {
		t.Errorf("exit status %d after SIGTERM: %s", code, h.log)
	}
}

func TestAgentAndADividedGPU(t *testing.T) {
	t.Parallel()
	h := on(t, nvmltest.State{"count": "1", "gpu0.mig": "1", "gpu0.mig.0": "MIG-00000000-0000-4000-8000-00000000000a 7 0 1g.10gb 9856 4000",
		"gpu0.gi7.sm": "61"})
	h.start()
	s := h.sees("a MIG device that works", func(s fleet.Snapshot) bool {
		return len(s.GPUs) == 1 && len(s.GPUs[0].MIG.Devices) == 1 && s.GPUs[0].MIG.Devices[0].Activity.Fresh()
	})
	d := s.GPUs[0].MIG.Devices[0]
	if v, ok := d.MemoryUsed.Fresh(); !ok || v != 4000<<20 || *d.Activity.SM != 0.61 || d.Profile != "1g.10gb" {
		t.Errorf("the MIG device is %+v", d)
	}
}

func TestAgentAndALostGPU(t *testing.T) {
	t.Parallel()
	h := on(t, nvmltest.State{"count": "8"})
	h.start()
	h.sees("eight GPUs", func(s fleet.Snapshot) bool { return s.Usable() == 8 })
	h.set(nvmltest.State{"gpu3.lost": "1", "gpu7.util": "50"})
	s := h.sees("seven GPUs", func(s fleet.Snapshot) bool { return s.Usable() == 7 && *s.GPUs[7].Busy.Value == 0.5 })
	if g := s.GPUs[3]; g.State != fleet.StateLost || g.UUID == "" {
		t.Errorf("the lost GPU is %+v", g)
	}
	h.set(nvmltest.State{"gpu3.lost": ""})
	h.sees("eight GPUs again", func(s fleet.Snapshot) bool { return s.Usable() == 8 })
}

// TestAgentAndWorkOutsideNomad: real processes, of which one is as Nomad
// starts them.
func TestAgentAndWorkOutsideNomad(t *testing.T) {
	t.Parallel()
	const alloc = "7a5b3c1d-0e2f-4a6b-8c9d-0123456789ab"
	sleeper := func(env ...string) int {
		cmd := exec.Command("sleep", "600")
		cmd.Env = env
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return cmd.Process.Pid
	}
	inside, outside := sleeper("NOMAD_ALLOC_ID="+alloc, "NOMAD_TASK_NAME=train"), sleeper()
	h := on(t, nvmltest.State{"count": "3"})
	h.set(nvmltest.State{"gpu0.procs": fmt.Sprintf("%d:100", inside), "gpu1.procs": fmt.Sprintf("%d:100 %d:100", inside, outside)})
	h.start()
	s := h.sees("the processes", func(s fleet.Snapshot) bool {
		return in(fleet.StateOK, fleet.StateOK, fleet.StateOK)(s) && s.Outside.Known
	})
	if s.Outside.GPUs != 1 || s.Outside.Processes != 1 {
		t.Errorf("outside is %+v, want one process on one GPU", s.Outside)
	}
	if p := s.GPUs[0].Processes.List[0]; p.Alloc != alloc || p.Task != "train" || p.PID != inside {
		t.Errorf("the allocation's process is %+v", p)
	}
	if p := s.GPUs[1].Processes.List[0]; p.Alloc != "" || p.Comm != "sleep" || p.PID != outside {
		t.Errorf("the process of no allocation is %+v", p)
	}
	h.set(nvmltest.State{"gpu2.procs": "999999999:1"})
	s = h.sees("a process that is not there", func(s fleet.Snapshot) bool { return s.Outside.GPUs == 2 })
	if p := s.GPUs[2].Processes.List[0]; p.Why == "" {
		t.Errorf("the process that is not there is %+v, want a reason why its owner is not known", p)
	}
}

// calls is how many calls were made to the library for a GPU.
func (h *host) calls(gpu string) int {
	h.Helper()
	trace, err := os.ReadFile(h.trace)
	if err != nil {
		h.Fatal(err)
	}
	return strings.Count(string(trace), " "+gpu+"\n")
}

func threads(t testing.TB, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestAgentAndAHangingCall: while calls for one GPU hang, HTTP and heart-beats
// go on, nothing piles up, and the agent can be ended.
func TestAgentAndAHangingCall(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	h := on(t, nvmltest.State{"count": "2"})
	h.args = []string{"-period", "500ms", "-consul", consul.Addr, "-ttl", "10s"}
	h.start()
	h.sees("two GPUs", in(fleet.StateOK, fleet.StateOK))
	h.eventually("the agent is passing", func() bool { return status(t, consul.Client(), h.node) == api.HealthPassing })
	before := threads(t, h.cmd.Process.Pid)

	h.set(nvmltest.State{"gpu0.hang_ms": "3600000", "gpu1.util": "33"})
	h.sees("one GPU hang and the other go on", in(fleet.StateUnresponsive, fleet.StateOK))
	calls := h.calls("gpu0")
	for until := time.Now().Add(12 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if got := status(t, consul.Client(), h.node); got != api.HealthPassing {
			t.Fatalf("the agent is %s while one GPU hangs", got)
		}
		h.eventually("the other GPU is sampled", func() bool {
			v, ok := h.snapshot().GPUs[1].Busy.Fresh()
			return ok && v == 0.33
		})
	}
	if n := threads(t, h.cmd.Process.Pid); n > before+4 {
		t.Errorf("%d threads while one call hangs, %d before", n, before)
	}
	if n := h.calls("gpu0"); n != calls {
		t.Errorf("%d more calls were made for the GPU that hangs", n-calls)
	}

	if code := h.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d after SIGTERM, want 0", code)
	}
	if !strings.Contains(h.log.String(), "hangs") {
		t.Error("the agent does not say that it left a hanging call behind")
	}
	if got := status(t, consul.Client(), h.node); got != "" {
		t.Errorf("the agent is still registered, %s", got)
	}
}

// status is the status of a node's agent in Consul's catalog, "" if there is
// none.
func status(t *testing.T, consul *api.Client, node string) string {
	t.Helper()
	c, _ := check(t, consul, node)
	return c
}

func check(t *testing.T, consul *api.Client, node string) (status string, index uint64) {
	t.Helper()
	checks, _, err := consul.Health().Checks(fleet.Service, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range checks {
		if c.CheckID == register.CheckID(node) {
			return c.Status, c.ModifyIndex
		}
	}
	return "", 0
}

func TestAgentInConsul(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	client := consul.Client()
	h := on(t, nvmltest.State{"count": "1"})
	h.args = []string{"-period", "500ms", "-consul", consul.Addr, "-ttl", "10s"}
	h.start()
	h.eventually("the agent is passing", func() bool { return status(t, client, h.node) == api.HealthPassing })
	_, index := check(t, client, h.node)

	// A restart, as of a job that failed: nobody may notice.
	h.args = append(h.args, "-listen", h.addr) // its address is fixed in real life
	h.end(syscall.SIGKILL)
	h.start()
	h.sees("its GPU", in(fleet.StateOK))
	for until := time.Now().Add(12 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if got, now := check(t, client, h.node); got != api.HealthPassing || now != index {
			t.Fatalf("after the restart the check is %s at index %d, was passing at %d", got, now, index)
		}
	}

	// Death: Consul notices when the TTL is over.
	h.end(syscall.SIGKILL)
	h.eventually("the dead agent is critical", func() bool { return status(t, client, h.node) == api.HealthCritical })

	// An end in order: it is gone when the process is.
	h.start()
	h.eventually("the agent is passing", func() bool { return status(t, client, h.node) == api.HealthPassing })
	if code := h.end(syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d after SIGTERM, want 0", code)
	}
	if got := status(t, client, h.node); got != "" {
		t.Errorf("the agent is still registered, %s", got)
	}
}

func TestAgentWithoutConsul(t *testing.T) {
	t.Parallel()
	h := on(t, nvmltest.State{"count": "1"})
	h.args = []string{"-period", "100ms", "-consul", "127.0.0.1:1"}
	h.start()
	h.sees("its GPU", in(fleet.StateOK))
	h.eventually("the failures are counted", func() bool {
		m := regexp.MustCompile(`(?m)^gpupool_agent_consul_errors_total (\d+)$`).FindStringSubmatch(h.metrics())
		n, err := strconv.Atoi(m[1])
		return err == nil && n >= 2
	})
	if n := strings.Count(h.log.String(), "Consul does not know of this agent"); n != 1 {
		t.Errorf("said %d times that Consul is down, want once", n)
	}
}

// TestAgentAfterADriverUpgrade: only a new process can load the new library.
func TestAgentAfterADriverUpgrade(t *testing.T) {
	t.Parallel()
	h := on(t, nvmltest.State{"count": "1"})
	h.library = nvmltest.Build(t)
	h.start()
	h.sees("its GPU", in(fleet.StateOK))
	if err := os.Rename(nvmltest.Build(t), h.library); err != nil {
		t.Fatal(err)
	}
	h.set(nvmltest.State{"gpu0.err": "1", "init_err": "18"})
	if code := h.wait(); code != 1 || !strings.Contains(h.log.String(), "replaced since the agent started") {
		t.Errorf("exit status %d, want 1 and the reason", code)
	}
}

func TestAgentRefuses(t *testing.T) {
	t.Parallel()
	t.Run("an address that is taken", func(t *testing.T) {
		first := on(t, nvmltest.State{"count": "1"})
		first.start()
		second := on(t, nvmltest.State{"count": "1"})
		second.args = append(second.args, "-listen", first.addr)
		second.run()
		if code := second.wait(); code != 1 || !strings.Contains(second.log.String(), "another agent on this host?") {
			t.Errorf("exit status %d: %s", code, second.log)
		}
	})
	t.Run("a wrong configuration", func(t *testing.T) {
		h := on(t, nvmltest.State{})
		h.args = []string{"-ttl", "1s", "-period", "1h"}
		h.run()
		if code := h.wait(); code != 2 || !strings.Contains(h.log.String(), "-ttl 1s") || !strings.Contains(h.log.String(), "-period 1h") {
			t.Errorf("exit status %d: %s", code, h.log)
		}
	})
}

// output is what a process said, and can be read while it says more.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
