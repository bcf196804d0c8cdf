package lab

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/agent/nvmltest"
	"github.com/gpupool/gpupool/internal/devbin"
)

// childEnv makes of this test binary a program that starts a lab in the folder
// that it names, and then waits to be killed.
const childEnv = "GPUPOOL_LAB_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := child(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// TestLab is the life of two hosts: what the stories that are told on this
// stage take for granted.
func TestLab(t *testing.T) {
	t.Parallel()
	s := newStage(t, Config{Hosts: 2})
	one, two := s.lab.Hosts()[0], s.lab.Hosts()[1]
	for _, h := range s.lab.Hosts() {
		if n, err := h.Node(s.ctx); n != nil || err != nil {
			t.Fatalf("%s has a node before it was ever on: %v, %v", h.Name, n, err)
		}
	}

	job := s.run("early", "sleep 1000")
	s.step("a job waits for a first host")
	s.ok(one.PowerOn(s.ctx))
	s.ok(one.UntilNode(s.ctx, nomad.NodeStatusReady))
	s.step("gpu-1: power-on to node ready")
	alloc, err := s.lab.UntilAlloc(s.ctx, job, nomad.AllocClientStatusRunning)
	s.ok(err)
	s.step("and the job runs")
	s.hasGPUs(one, 2)
	s.seesItsGPU(alloc, one)
	s.ok(Until(s.ctx, "gpu-1 is in Consul", func(context.Context) (bool, error) { return s.alive(one), nil }))

	state := nvmltest.State{"count": "2", "gpu0.uuid": "A", "gpu1.uuid": "B", "gpu1.lost": "1"}
	s.ok(state.WriteFile(one.GPUState))
	s.ok(Until(s.ctx, "gpu-1 has one healthy GPU", func(context.Context) (bool, error) { return s.healthy(one) == 1, nil }))
	s.step("a GPU is lost")

	s.ok(two.PowerOn(s.ctx))
	s.ok(two.UntilNode(s.ctx, nomad.NodeStatusReady))
	s.step("gpu-2: power-on to node ready")
	second := s.run("second", "trap '' TERM; while :; do sleep 1; done")
	_, err = s.lab.UntilAlloc(s.ctx, second, nomad.AllocClientStatusRunning)
	s.ok(err)
	s.step("its job runs")

	s.ok(two.PowerLoss())
	s.ok(two.UntilPower(s.ctx, false))
	s.step("gpu-2: power loss to chassis off")
	s.ok(one.SoftOff(s.ctx))
	s.ok(one.UntilPower(s.ctx, false))
	s.step("gpu-1: soft-off, with a job, to chassis off")
	if left := s.ofLab("sleep"); len(left) > 0 {
		t.Errorf("both hosts are off and tasks run: %v", left)
	}
	s.ok(Until(s.ctx, "gpu-1 left Consul", func(context.Context) (bool, error) { return !s.alive(one), nil }))
	s.ok(two.UntilNode(s.ctx, nomad.NodeStatusDown))
	s.step("gpu-2: node down")
	s.ok(one.UntilNode(s.ctx, nomad.NodeStatusDown))
	s.step("gpu-1: node down")
	s.ok(s.lab.StopJob(s.ctx, job))
	s.ok(s.lab.StopJob(s.ctx, second))

	// A host that was drained comes back ineligible: nomad#17093.
	s.ok(one.PowerOn(s.ctx))
	s.ok(one.UntilNode(s.ctx, nomad.NodeStatusReady))
	node, err := one.Node(s.ctx)
	s.ok(err)
	if node.SchedulingEligibility != nomad.NodeSchedulingEligible {
		t.Errorf("gpu-1, never drained, came back %s", node.SchedulingEligibility)
	}
	_, err = s.lab.Nomad().Nodes().UpdateDrainOpts(node.ID, &nomad.DrainOptions{
		DrainSpec: &nomad.DrainSpec{Deadline: 10 * time.Second},
		Meta:      map[string]string{"mark": "mine"},
	}, nil)
	s.ok(err)
	s.ok(Until(s.ctx, "gpu-1 is drained", func(context.Context) (bool, error) { return s.info(one).DrainStrategy == nil, nil }))
	s.step("gpu-1 is drained")
	s.ok(one.SoftOff(s.ctx))
	s.ok(one.UntilPower(s.ctx, false))
	s.step("gpu-1: soft-off, drained, to chassis off")
	// Until its heartbeat is missed, Nomad believes that the node is ready.
	s.ok(one.UntilNode(s.ctx, nomad.NodeStatusDown))
	s.step("gpu-1: node down")
	s.ok(one.PowerOn(s.ctx))
	s.ok(one.UntilNode(s.ctx, nomad.NodeStatusReady))
	if n := s.info(one); n.SchedulingEligibility != nomad.NodeSchedulingIneligible || n.LastDrain.Meta["mark"] != "mine" {
		t.Errorf("gpu-1, drained, came back %s with the mark of %v", n.SchedulingEligibility, n.LastDrain.Meta)
	}
	s.step("gpu-1: power-on to node ready, ineligible")
	s.ok(one.HardOff(s.ctx))
	s.ok(one.UntilPower(s.ctx, false))
	s.step("gpu-1: hard-off to chassis off")

	if err := one.PowerLoss(); err == nil {
		t.Error("a host that is off lost its power")
	}
}

// TestBMC: a BMC that hangs, and a host that does not boot.
func TestBMC(t *testing.T) {
	t.Parallel()
	s := newStage(t, Config{Hosts: 1, BootDelay: time.Hour})
	h := s.lab.Hosts()[0]
	s.ok(h.PowerOn(s.ctx))
	s.ok(h.UntilPower(s.ctx, true))
	s.ok(h.SoftOff(s.ctx))
	s.ok(h.UntilPower(s.ctx, false))
	s.step("soft-off during the self-test")
	s.ok(h.SetBootDelay(0))

	s.ok(h.BMCProcess().Signal(syscall.SIGSTOP))
	if on, err := h.PowerState(s.ctx); err == nil {
		t.Errorf("a stopped BMC says that the power is on: %v", on)
	}
	s.ok(h.BMCProcess().Signal(syscall.SIGCONT))
	s.ok(h.PowerOn(s.ctx))
	s.ok(h.UntilNode(s.ctx, nomad.NodeStatusReady))
	s.step("after all, the host is up")

	// A host that its BMC forgot could never be powered off again.
	h.BMCProcess().Kill()
	s.ok(Until(s.ctx, "gpu-1 died with its BMC", func(context.Context) (bool, error) { return len(s.ofLab("nomad-client.hcl")) == 0, nil }))
}

func TestAutoscaler(t *testing.T) {
	t.Parallel()
	s := newStage(t, Config{Hosts: 1})
	config := filepath.Join(t.TempDir(), "autoscaler.hcl")
	s.ok(os.WriteFile(config, fmt.Appendf(nil, "http {\n  bind_address = %q\n}\n", s.lab.ControlIP()), 0o600))
	plugins := t.TempDir()
	for range 2 { // it can be killed and started again
		_, err := s.lab.StartAutoscaler(config, plugins)
		s.ok(err)
		s.ok(Until(s.ctx, "the autoscaler is healthy", func(ctx context.Context) (bool, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.lab.ControlIP()+":8080/v1/health", nil)
			if err != nil {
				return false, err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return false, nil // not listening yet
			}
			return resp.StatusCode == http.StatusOK, resp.Body.Close()
		}))
		if _, err := s.lab.StartAutoscaler(config, plugins); err == nil {
			t.Error("two autoscalers at once")
		}
		s.ok(s.lab.KillAutoscaler())
	}
	if err := s.lab.KillAutoscaler(); err == nil {
		t.Error("an autoscaler that does not run was killed")
	}
}

// TestKilledLab: SIGKILL of the process that started a lab leaves nothing.
func TestKilledLab(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	id, up := strings.CutPrefix(strings.TrimSpace(line), "up ")
	if !up {
		t.Errorf("the lab's process said %q, %v", line, err)
	}
	orphan := &Lab{id: id}
	if orphan.left() == nil {
		t.Error("the lab runs and nothing of it is found: this test cannot fail")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	began := time.Now()
	if err := Until(ctx, "nothing is left", func(context.Context) (bool, error) { return orphan.left() == nil, nil }); err != nil {
		t.Error(err, orphan.left())
	}
	t.Logf("killed to nothing left: %.3f s", time.Since(began).Seconds())
	// The room removes them after its processes are gone, and is no process of
	// the lab itself.
	_ = Until(ctx, "no control group is left", func(context.Context) (bool, error) { return len(cgroups(t, dir)) == 0, nil })
	noCgroups(t, dir)
}

// child is the process that TestKilledLab kills: a lab with a host that runs
// a job.
func child(dir string) error {
	ctx := context.Background()
	l, err := Start(ctx, Config{Dir: dir, Hosts: 1})
	if err != nil {
		return err
	}
	h := l.Hosts()[0]
	if err := h.PowerOn(ctx); err != nil {
		return err
	}
	job, err := l.RunJob(ctx, jobSpec, map[string]string{"name": `"doomed"`, "script": `"sleep 1000"`})
	if err != nil {
		return err
	}
	if _, err := l.UntilAlloc(ctx, job, nomad.AllocClientStatusRunning); err != nil {
		return err
	}
	fmt.Println("up", l.id)
	select {}
}

func TestConfigErrorsComeTogether(t *testing.T) {
	_, err := Start(t.Context(), Config{Dir: filepath.Join(t.TempDir(), "absent"), Hosts: 65, GPUsPerHost: -1, BootDelay: -1})
	for _, want := range []string{"absent", "65 hosts", "-1 GPUs", "boot delay"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not speak of %s", err, want)
		}
	}
	spaced := filepath.Join(t.TempDir(), "with space")
	if err := os.Mkdir(spaced, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Config{Dir: spaced, Hosts: 1}); err == nil || !strings.Contains(err.Error(), "with space") {
		t.Errorf("a folder with a space: %v", err)
	}
}

// TestPinnedVersions: the tests look for the versions that build.sh builds.
func TestPinnedVersions(t *testing.T) {
	for name, module := range map[string]string{"consul": "consul", "nomad": "nomad", "nomad-autoscaler": "autoscaler"} {
		gomod, err := os.ReadFile(filepath.Join("..", "tools", module, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		pin := regexp.MustCompile(`(?m)^require github.com/hashicorp/` + name + ` v(\S+)`).FindSubmatch(gomod)
		if pin == nil || string(pin[1]) != devbin.Versions[name] {
			t.Errorf("e2e/tools/%s/go.mod pins %s at %s, internal/devbin at %s", module, name, pin, devbin.Versions[name])
		}
	}
}

// jobSpec is a job with one GPU that runs a shell script.
const jobSpec = `
variable "name" {}
variable "script" {}
job "job" {
  id        = var.name
  type      = "batch"
  node_pool = "gpu"
  group "group" {
    network {
      port "http" {
        static = 9400 # on each host at once, because each has an address
      }
    }
    restart {
      attempts = 0
    }
    task "task" {
      driver       = "raw_exec"
      kill_timeout = "1s"
      config {
        command = "/bin/sh"
        args    = ["-c", "env; ${var.script}"]
      }
      resources {
        device "nvidia/gpu" {
          count = 1
        }
      }
    }
  }
}`

// stage is a lab in a test.
type stage struct {
	*testing.T
	ctx  context.Context
	lab  *Lab
	last time.Time
}

// newStage starts a lab for a test, and checks at its end that nothing is left.
func newStage(t *testing.T, config Config) *stage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	s := &stage{T: t, ctx: ctx, last: time.Now()}
	config.Dir = t.TempDir()
	config.Progress = func(what string) { t.Log(what) }
	var err error
	s.lab, err = Start(ctx, config)
	s.ok(err)
	s.step("started")
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Log(s.lab.Tail(20))
		}
		s.last = time.Now()
		for range 2 { // the second time, there is nothing to do
			if err := s.lab.Close(); err != nil {
				t.Error(err)
			}
		}
		s.step("closed")
		noCgroups(t, config.Dir)
	})
	return s
}

func (s *stage) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// step logs how long something took.
func (s *stage) step(what string) {
	s.Helper()
	s.Logf("%7.3f s  %s", time.Since(s.last).Seconds(), what)
	s.last = time.Now()
}

func (s *stage) run(name, script string) string {
	s.Helper()
	id, err := s.lab.RunJob(s.ctx, jobSpec, map[string]string{"name": quoteHCL(name), "script": quoteHCL(script)})
	s.ok(err)
	return id
}

func (s *stage) info(h *Host) *nomad.Node {
	s.Helper()
	stub, err := h.Node(s.ctx)
	s.ok(err)
	node, _, err := s.lab.Nomad().Nodes().Info(stub.ID, nil)
	s.ok(err)
	return node
}

// healthy is how many healthy GPUs Nomad knows on a host.
func (s *stage) healthy(h *Host) int {
	s.Helper()
	n := 0
	for _, d := range s.info(h).NodeResources.Devices {
		for _, i := range d.Instances {
			if i.Healthy {
				n++
			}
		}
	}
	return n
}

func (s *stage) hasGPUs(h *Host, want int) {
	s.Helper()
	node := s.info(h)
	if len(node.NodeResources.Devices) != 1 || node.NodeResources.Devices[0].ID() != "nvidia/gpu/NVIDIA H100 80GB HBM3" || s.healthy(h) != want {
		s.Errorf("%s has the devices %v, want %d H100", h.Name, node.NodeResources.Devices, want)
	}
	if node.Attributes["unique.network.ip-address"] != h.IP {
		s.Errorf("%s has the address %s, want its own, %s", h.Name, node.Attributes["unique.network.ip-address"], h.IP)
	}
}

// seesItsGPU checks the environment that the task printed.
func (s *stage) seesItsGPU(alloc *nomad.AllocationListStub, h *Host) {
	s.Helper()
	env, err := os.ReadFile(filepath.Join(h.dir, "nomad", "alloc", alloc.ID, "alloc", "logs", "task.stdout.0"))
	s.ok(err)
	for _, want := range []string{"NVIDIA_VISIBLE_DEVICES=GPU-00000001-", "FAKE_NVML_FILE=" + h.GPUState, "CONSUL_HTTP_ADDR=" + h.IP, "NOMAD_ADDR_http=" + h.IP + ":9400"} {
		if !strings.Contains(string(env), want) {
			s.Errorf("the task's environment has no %s:\n%s", want, env)
		}
	}
}

// alive says whether the host's Consul client is a member of the cluster.
func (s *stage) alive(h *Host) bool {
	s.Helper()
	members, err := s.lab.Consul().Agent().Members(false)
	s.ok(err)
	for _, m := range members {
		if m.Name == h.Name {
			return m.Status == 1 // serf's "alive"
		}
	}
	return false
}

// ofLab lists the lab's processes whose command line has some text in it.
func (s *stage) ofLab(text string) []string {
	var found []string
	for line := range strings.Lines(fmt.Sprint(s.lab.left())) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// noCgroups checks that no control group of a lab's tasks is left.
func noCgroups(t *testing.T, dir string) {
	t.Helper()
	for _, path := range cgroups(t, dir) {
		t.Errorf("control group is left: %s", path)
	}
}

// cgroups lists the control groups of a lab's tasks.
func cgroups(t *testing.T, dir string) (left []string) {
	t.Helper()
	allocs, _ := filepath.Glob(filepath.Join(dir, "*", "nomad", "alloc", "*"))
	ids := map[string]bool{}
	for _, a := range allocs {
		ids[filepath.Base(a)] = true
	}
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, _ error) error {
		id, _, _ := strings.Cut(filepath.Base(path), ".")
		if d != nil && d.IsDir() && ids[id] {
			left = append(left, path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return left
}
