// Package e2e plays gpupool on real parts: Consul, Nomad, the Nomad Autoscaler
// with the plugins of this tree, and hosts behind BMC simulators that are off
// until they are told otherwise. It takes root; see package lab.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/e2e/lab"
	"github.com/gpupool/gpupool/e2e/stage"
	"github.com/gpupool/gpupool/internal/board"
)

// play is a stage with a deadline for everything that a test does on it.
type play struct {
	*testing.T
	*stage.Stage
	ctx context.Context
}

func raise(t *testing.T) *play {
	t.Helper()
	return raiseWith(t, stage.Config{Boot: time.Second, ScaleInAfter: 5 * time.Second})
}

func raiseWith(t *testing.T, cfg stage.Config) *play {
	t.Helper()
	dir, err := os.MkdirTemp("", "gpupool-e2e-") // t.TempDir's names have characters that the lab's command lines cannot
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	cfg.Dir, cfg.Progress = dir, func(m string) { t.Log(m) }
	st, err := stage.Up(ctx, cfg)
	if err != nil {
		cancel()
		t.Fatalf("%v\nlogs are in %s", err, dir)
	}
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("the last lines of each log; all are in %s\n%s", dir, st.Tail(15))
			t.Logf("the autoscaler's:\n%s", autoscalerLog(dir, 120))
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		if !t.Failed() {
			os.RemoveAll(dir)
		}
	})
	return &play{t, st, ctx}
}

// autoscalerLog is the end of the autoscaler's own log, which Nomad keeps.
func autoscalerLog(dir string, lines int) string {
	files, _ := filepath.Glob(filepath.Join(dir, "control", "nomad", "alloc", "*", "alloc", "logs", "autoscaler.stderr.*"))
	var out []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil {
			out = append(out, strings.Split(strings.TrimSpace(string(text)), "\n")...)
		}
	}
	return strings.Join(out[max(0, len(out)-lines):], "\n")
}

func (p *play) ok(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *play) power(h *lab.Host) bool {
	p.Helper()
	on, err := h.PowerState(p.ctx)
	p.ok(err)
	return on
}

func (p *play) node(h *lab.Host) *nomadapi.Node {
	p.Helper()
	stub, err := h.Node(p.ctx)
	p.ok(err)
	if stub == nil {
		return nil
	}
	node, _, err := p.Nomad().Nodes().Info(stub.ID, nil)
	p.ok(err)
	return node
}

// hostOf is the host that an allocation was placed on.
func (p *play) hostOf(a *nomadapi.AllocationListStub) *lab.Host {
	p.Helper()
	for _, h := range p.Hosts() {
		if h.Name == a.NodeName {
			return h
		}
	}
	p.Fatalf("allocation %s is on %q, which is no host of the stage", a.ID, a.NodeName)
	return nil
}

// TestStory is what gpupool is for: a queued job powers a host on, more jobs
// power on more, and when they end all goes off, without a job being killed.
func TestStory(t *testing.T) {
	p := raise(t)
	one, two, three := p.Hosts()[0], p.Hosts()[1], p.Hosts()[2]

	for _, h := range p.Hosts() {
		if p.power(h) {
			t.Fatalf("%s is on before anybody asked for anything", h.Name)
		}
	}

	// A job for two GPUs is queued, since there is no host at all.
	submitted := time.Now()
	p.ok(p.Train(p.ctx, 1, 2, 8*time.Second))
	p.ok(lab.Until(p.ctx, "the job is blocked", func(context.Context) (bool, error) {
		evals, _, err := p.Nomad().Evaluations().List(&nomadapi.QueryOptions{Filter: `Status == "blocked" and JobID == "train"`})
		return len(evals) == 1, err
	}))
	p.ok(one.UntilPower(p.ctx, true))
	t.Logf("queued to chassis on: %s", time.Since(submitted).Round(10*time.Millisecond))
	alloc, err := p.UntilAlloc(p.ctx, "train", nomadapi.AllocClientStatusRunning)
	p.ok(err)
	t.Logf("queued to running: %s", time.Since(submitted).Round(10*time.Millisecond))
	if got := p.hostOf(alloc); got != one {
		t.Errorf("the job runs on %s, not on the host that was powered on for it", got.Name)
	}
	if p.power(two) || p.power(three) {
		t.Error("more hosts are on than the job needs")
	}
	// The agent on it is passing in Consul, and the host counts as ready.
	p.ok(p.UntilBoard(p.ctx, "gpu-1 is ready with both GPUs busy", func(b board.Pool) bool {
		return stage.Count(b, "ready") == 1 && b.Status.Hosts[0].GPUsBusy == 2
	}))
	agents, _, err := p.Consul().Health().Service("gpupool-agent", "", true, nil)
	p.ok(err)
	if len(agents) != 1 || agents[0].Service.Meta["node"] != one.Name {
		t.Errorf("agents passing in Consul: %v", agents)
	}

	// More work, more hosts.
	p.ok(p.Serve(p.ctx, 3))
	p.ok(p.UntilRunning(p.ctx, "serve", 3))

	// The jobs end; the surplus host is drained with our mark, and goes off.
	_, err = p.UntilAlloc(p.ctx, "train", nomadapi.AllocClientStatusComplete)
	p.ok(err)
	p.ok(p.Scale(p.ctx, 0))
	p.ok(p.UntilRunning(p.ctx, "serve", 0))
	ended := time.Now()
	p.ok(p.UntilAllOff(p.ctx))
	t.Logf("last job ended to all off: %s", time.Since(ended).Round(10*time.Millisecond))
	for _, h := range p.Hosts() {
		n := p.node(h)
		if n == nil {
			continue // it was never needed
		}
		if n.SchedulingEligibility != nomadapi.NodeSchedulingIneligible || n.LastDrain == nil {
			t.Errorf("%s is off but was not drained before: %s, %+v", h.Name, n.SchedulingEligibility, n.LastDrain)
		}
	}
	p.ok(p.NothingLost(p.ctx, "train", "serve"))
	// One of them was powered through Redfish, beside those through IPMI.
	if resets := p.Hosts()[stage.ByRedfish-1].Redfish.Resets(); !slices.Equal(resets, []string{"On", "GracefulShutdown"}) {
		t.Errorf("%s was told %q over Redfish, want On and GracefulShutdown", p.Hosts()[stage.ByRedfish-1].Name, resets)
	}

	// And again: a host that was drained comes back into service.
	p.ok(p.Scale(p.ctx, 1))
	p.ok(p.UntilRunning(p.ctx, "serve", 1))
	p.ok(p.UntilBoard(p.ctx, "one host is ready", func(b board.Pool) bool { return stage.Count(b, "ready") == 1 }))
}

// TestPowerLoss: the plug of a busy host is pulled. Its work comes back on a
// host that is powered on for it, and nobody else's work is touched.
func TestPowerLoss(t *testing.T) {
	p := raise(t)
	p.ok(p.Serve(p.ctx, 2)) // fills gpu-1
	p.ok(p.UntilRunning(p.ctx, "serve", 2))
	p.ok(p.Train(p.ctx, 1, 2, 15*time.Second)) // fills another one
	train, err := p.UntilAlloc(p.ctx, "train", nomadapi.AllocClientStatusRunning)
	p.ok(err)
	serving, err := p.Allocs(p.ctx, "serve")
	p.ok(err)
	victim := p.hostOf(serving[0])
	if p.hostOf(train) == victim {
		t.Fatalf("the jobs share %s, which this test does not expect", victim.Name)
	}

	p.ok(victim.PowerLoss())
	p.ok(victim.UntilPower(p.ctx, false))                          // its BMC takes a moment to notice
	p.ok(victim.UntilNode(p.ctx, nomadapi.NodeStatusDisconnected)) // its agent is waited for
	p.ok(p.UntilRunning(p.ctx, "serve", 2))
	if after, err := p.UntilAlloc(p.ctx, "train", nomadapi.AllocClientStatusComplete); err != nil || after.ID != train.ID {
		t.Errorf("the other job did not run to its end in one piece: %v, %v", after, err)
	}
	p.ok(p.Scale(p.ctx, 0))
	p.ok(p.UntilAllOff(p.ctx))
}

// TestNeverBoots: the first host that is powered on does not come up. Another
// one is tried, the job runs there, and the first ends powered off.
func TestNeverBoots(t *testing.T) {
	p := raiseWith(t, stage.Config{Boot: time.Second, ScaleInAfter: 5 * time.Second, BootTimeout: 20 * time.Second})
	dead := p.Hosts()[0]
	p.ok(dead.SetBootDelay(time.Hour))

	p.ok(p.Train(p.ctx, 1, 2, 5*time.Second))
	p.ok(dead.UntilPower(p.ctx, true))
	alloc, err := p.UntilAlloc(p.ctx, "train", nomadapi.AllocClientStatusRunning)
	p.ok(err)
	if p.hostOf(alloc) == dead {
		t.Fatalf("the job runs on %s, which has not booted", dead.Name)
	}
	p.ok(dead.UntilPower(p.ctx, false))
	p.ok(p.UntilBoard(p.ctx, dead.Name+" is off by the board too", func(b board.Pool) bool { return b.Status.Hosts[0].Phase == "off" }))
	_, err = p.UntilAlloc(p.ctx, "train", nomadapi.AllocClientStatusComplete)
	p.ok(err)
	p.ok(p.UntilAllOff(p.ctx))
}

// TestAutoscalerKilled: the autoscaler dies in the middle of a scale-in, with
// SIGKILL, in each of its steps. Whatever starts after it finds the host, and
// it ends off, or back in service if demand came back; no job is killed by us.
func TestAutoscalerKilled(t *testing.T) {
	p := raise(t)
	p.ok(p.Serve(p.ctx, 3)) // two hosts
	p.ok(p.UntilRunning(p.ctx, "serve", 3))
	p.ok(p.UntilBoard(p.ctx, "two hosts are ready", func(b board.Pool) bool { return stage.Count(b, "ready") == 2 }))

	for _, step := range []string{"draining", "stopping"} {
		p.ok(p.Scale(p.ctx, 0))
		p.ok(p.UntilRunning(p.ctx, "serve", 0))
		p.ok(p.UntilBoard(p.ctx, "a host is "+step, func(b board.Pool) bool { return stage.Count(b, step) > 0 }))
		killed, err := p.kill("nomad-autoscaler")
		p.ok(err)
		t.Logf("%s: killed the autoscaler, pid %d", step, killed)
		// Its plugins notice and go: nobody is left to act in its name.
		p.ok(lab.Until(p.ctx, "the dead autoscaler's plugins are gone", func(context.Context) (bool, error) {
			return len(p.orphans("target-gpupool")) == 0, nil
		}))
		p.ok(p.UntilAllOff(p.ctx))
		t.Logf("%s: all hosts are off", step)

		p.ok(p.Scale(p.ctx, 3))
		p.ok(p.UntilRunning(p.ctx, "serve", 3))
		p.ok(p.NothingLost(p.ctx, "serve"))
	}

	// Demand comes back while nobody is there to see it.
	p.ok(p.Scale(p.ctx, 0))
	p.ok(p.UntilRunning(p.ctx, "serve", 0))
	p.ok(p.UntilBoard(p.ctx, "a host is draining", func(b board.Pool) bool { return stage.Count(b, "draining") > 0 }))
	_, err := p.kill("nomad-autoscaler")
	p.ok(err)
	p.ok(p.Scale(p.ctx, 3))
	p.ok(p.UntilRunning(p.ctx, "serve", 3))
	p.ok(p.NothingLost(p.ctx, "serve"))
}

// TestHeartbeatsMissed: a host that is out of service misses its heart-beats. It
// keeps its agent, which Nomad would not start there anew, so that it can be powered
// off later.
func TestHeartbeatsMissed(t *testing.T) {
	p := raise(t)
	p.ok(p.Serve(p.ctx, 1))
	p.ok(p.UntilRunning(p.ctx, "serve", 1))
	serving, err := p.UntilAlloc(p.ctx, "serve", nomadapi.AllocClientStatusRunning)
	p.ok(err)
	h := p.hostOf(serving)
	p.ok(p.UntilBoard(p.ctx, h.Name+" is ready", func(b board.Pool) bool { return stage.Count(b, "ready") == 1 }))
	agent := p.agentOn(h)
	_, err = p.Nomad().Nodes().ToggleEligibility(p.node(h).ID, false, nil)
	p.ok(err)

	client := p.clientOf(h)
	p.ok(syscall.Kill(client, syscall.SIGSTOP))
	err = h.UntilNode(p.ctx, nomadapi.NodeStatusDisconnected)
	p.ok(errors.Join(err, syscall.Kill(client, syscall.SIGCONT)))
	p.ok(h.UntilNode(p.ctx, nomadapi.NodeStatusReady))

	p.ok(p.Scale(p.ctx, 0))
	p.ok(p.UntilRunning(p.ctx, "serve", 0))
	if now := p.agentOn(h); now != agent {
		t.Errorf("the agent of %s runs as %q, and before its heart-beats were missed as %q", h.Name, now, agent)
	}
	_, err = p.Nomad().Nodes().ToggleEligibility(p.node(h).ID, true, nil)
	p.ok(err)
	p.ok(p.UntilAllOff(p.ctx))
}

// agentOn is the ID of the allocation of the agent that runs on a host, empty if
// there is none that Nomad wants there.
func (p *play) agentOn(h *lab.Host) string {
	p.Helper()
	allocs, err := p.Allocs(p.ctx, "gpupool-agent")
	p.ok(err)
	for _, a := range allocs {
		if a.NodeName == h.Name && a.ClientStatus == nomadapi.AllocClientStatusRunning && a.DesiredStatus == nomadapi.AllocDesiredStatusRun {
			return a.ID
		}
	}
	return ""
}

// clientOf is the process of a host's Nomad client.
func (p *play) clientOf(h *lab.Host) int {
	p.Helper()
	for _, pid := range p.processes("nomad") {
		command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(command), "/"+h.Name+"/nomad-client.hcl") {
			return pid
		}
	}
	p.Fatalf("%s runs no Nomad client", h.Name)
	return 0
}

// TestPluginKilled: a plugin dies alone, which the autoscaler does not mend.
// Nomad's check does, and the hosts follow demand again.
func TestPluginKilled(t *testing.T) {
	p := raise(t)
	p.ok(lab.Until(p.ctx, "both plugins pass their checks", func(context.Context) (bool, error) {
		return p.passing("gpupool-autoscaler") == 2, nil
	}))
	before := p.processes("nomad-autoscaler")
	killed, err := p.kill("target-gpupool")
	p.ok(err)
	began := time.Now()
	p.ok(lab.Until(p.ctx, "the autoscaler is another one", func(context.Context) (bool, error) {
		now := p.processes("nomad-autoscaler")
		return len(now) == 1 && !slices.Equal(now, before), nil
	}))
	t.Logf("killed the target, pid %d; the autoscaler was restarted after %s", killed, time.Since(began).Round(time.Second))
	p.ok(p.Serve(p.ctx, 1))
	p.ok(p.UntilRunning(p.ctx, "serve", 1))
}

// passing is how many of Nomad's checks of a job pass.
func (p *play) passing(job string) int {
	p.Helper()
	allocs, err := p.Allocs(p.ctx, job)
	p.ok(err)
	n := 0
	for _, a := range allocs {
		if a.ClientStatus != nomadapi.AllocClientStatusRunning {
			continue
		}
		checks, err := p.Nomad().Allocations().Checks(a.ID, nil)
		p.ok(err)
		for _, c := range checks {
			if c.Status == "success" {
				n++
			}
		}
	}
	return n
}

// kill sends SIGKILL to the one process of the stage with that program name.
func (p *play) kill(program string) (int, error) {
	pids := p.processes(program)
	if len(pids) != 1 {
		return 0, fmt.Errorf("%d processes are %s, not one: %v", len(pids), program, pids)
	}
	return pids[0], syscall.Kill(pids[0], syscall.SIGKILL)
}

// processes are those of the stage that run a program of that file name.
func (p *play) processes(program string) []int {
	var pids []int
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		path, err := os.Readlink(exe)
		environ, _ := os.ReadFile(filepath.Join(filepath.Dir(exe), "environ"))
		if err != nil || filepath.Base(path) != program || !strings.Contains(string(environ), p.Mark()) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(exe, "/proc/%d/exe", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// orphans are the processes of a program whose parent is not the autoscaler.
func (p *play) orphans(program string) []int {
	var orphans []int
	for _, pid := range p.processes(program) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		var parent int
		for line := range strings.Lines(string(stat)) {
			_, _ = fmt.Sscanf(line, "PPid: %d", &parent)
		}
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", parent)); err != nil || filepath.Base(exe) != "nomad-autoscaler" {
			orphans = append(orphans, pid)
		}
	}
	return orphans
}
