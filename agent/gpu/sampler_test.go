package gpu_test

import (
	"context"
	"log/slog"
	"maps"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpupool/gpupool/agent/gpu"
	"github.com/gpupool/gpupool/agent/gpu/gputest"
	"github.com/gpupool/gpupool/agent/nvmltest"
	"github.com/gpupool/gpupool/agent/proc"
	"github.com/gpupool/gpupool/internal/fleet"
)

const alloc = "7a5b3c1d-0e2f-4a6b-8c9d-0123456789ab"

// host is a host whose driver a test steers.
type host struct {
	*testing.T
	driver  *gputest.Driver
	state   nvmltest.State
	sampler *gpu.Sampler
	log     strings.Builder
	event   int // serial number of the last
	ended   error
	stop    func()
	done    chan struct{}
}

// inBubble runs a test with a clock of its own on a host in a given state.
func inBubble(t *testing.T, s nvmltest.State, test func(h *host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &host{T: t, driver: &gputest.Driver{}, state: maps.Clone(s), done: make(chan struct{})}
		h.driver.Set(maps.Clone(s))
		h.sampler = gpu.New(gpu.Config{
			Driver: h.driver,
			Owner: func(pid int) proc.Owner {
				switch pid {
				case 1000:
					return proc.Owner{Comm: "train", Alloc: alloc, Task: "train"}
				case 1001:
					return proc.Owner{Comm: "train", Alloc: alloc, Task: "train", Devices: []string{"GPU-fa4e0001-0000-4000-8000-000000000000"}}
				case 2000:
					return proc.Owner{Comm: "miner"}
				}
				return proc.Owner{Err: context.DeadlineExceeded}
			},
			Period: time.Second,
			Log:    slog.New(slog.NewTextHandler(&h.log, nil)),
		})
		ctx, stop := context.WithCancel(t.Context())
		h.stop = stop
		go func() {
			defer close(h.done)
			h.ended = h.sampler.Run(ctx)
		}()
		test(h)
		stop()
		for key := range h.state {
			if strings.HasSuffix(key, "hang_ms") {
				delete(h.state, key) // let the sampler go
			}
		}
		h.driver.Set(maps.Clone(h.state))
		<-h.done
		if n := h.driver.Users(); n != 0 {
			t.Errorf("the driver was left initialised %d times", n)
		}
		if n := h.driver.OpenDevices(); n != 0 {
			t.Errorf("%d devices were left open", n)
		}
	})
}

// set changes keys; an empty value takes one away.
func (h *host) set(changes nvmltest.State) {
	for key, value := range changes {
		h.state[key] = value
		if value == "" {
			delete(h.state, key)
		}
	}
	h.driver.Set(maps.Clone(h.state))
}

// after lets time pass and looks at the host.
func (h *host) after(d time.Duration) fleet.Snapshot {
	time.Sleep(d)
	synctest.Wait()
	return h.sampler.Snapshot(time.Now())
}

// states are the states of the GPUs, in words.
func states(s fleet.Snapshot) string {
	var words []string
	for _, g := range s.GPUs {
		words = append(words, string(g.State))
	}
	return strings.Join(words, " ")
}

func (h *host) wantStates(s fleet.Snapshot, want string) {
	h.Helper()
	if got := states(s); got != want {
		h.Errorf("GPUs are %q, want %q", got, want)
	}
}

func (h *host) wantOutside(s fleet.Snapshot, want fleet.Outside) {
	h.Helper()
	got := s.Outside
	got.Why = ""
	if got != want || got.Known != (s.Outside.Why == "") {
		h.Errorf("outside is %+v, want %+v", s.Outside, want)
	}
}

func wantValue(t *testing.T, name string, v fleet.Value, want float64) {
	t.Helper()
	if got, ok := v.Fresh(); !ok || math.Abs(got-want) > 1e-9 {
		t.Errorf("%s is %+v (%g), want %g", name, v, got, want)
	}
}

func wantAbsent(t *testing.T, name string, v fleet.Value, want fleet.Quality) {
	t.Helper()
	if v.Value != nil || v.Quality != want {
		t.Errorf("%s is %+v, want no value and quality %s", name, v, want)
	}
}

func TestSample(t *testing.T) {
	inBubble(t, nvmltest.State{
		"count": "2", "driver": "570.86.15",
		"gpu0.util": "87", "gpu0.mem_used_mib": "70000", "gpu0.mem_reserved_mib": "500", "gpu0.power_mw": "412000",
		"gpu0.temp": "71", "gpu0.procs": "1000:69000",
	}, func(h *host) {
		s := h.after(100 * time.Millisecond)
		h.wantStates(s, "ok ok")
		if s.Driver != (fleet.Driver{State: fleet.DriverOK, Version: "570.86.15", Epoch: 1}) {
			t.Errorf("driver is %+v", s.Driver)
		}
		g := s.GPUs[0]
		if g.UUID != "GPU-fa4e0000-0000-4000-8000-000000000000" || g.Name != "NVIDIA H100 80GB HBM3" || g.PCI != "00000000:01:00.0" {
			t.Errorf("identity is %q %q %q", g.UUID, g.Name, g.PCI)
		}
		wantValue(t, "busy", g.Busy, 0.87)
		wantValue(t, "memory used", g.MemoryUsed, 70000<<20)
		wantValue(t, "memory reserved", g.MemoryReserved, 500<<20)
		wantValue(t, "memory total", g.MemoryTotal, 81559<<20)
		wantValue(t, "power", g.Power, 412)
		wantValue(t, "temperature", g.Temperature, 71)
		if g.Busy.Age != 0.1 || *g.Age != 0.1 {
			t.Errorf("ages are %g and %g, want 0.1", g.Busy.Age, *g.Age)
		}
		if p := g.Processes; p.Total != 1 || p.Outside != 0 || p.List[0].Alloc != alloc || *p.List[0].Memory != 69000<<20 {
			t.Errorf("processes are %+v", p)
		}
		h.wantOutside(s, fleet.Outside{Known: true})
		wantValue(t, "busy of the idle GPU", s.GPUs[1].Busy, 0)
	})
}

// TestTiers: what is read every second is new a second later, the rest keeps
// its age.
func TestTiers(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1"}, func(h *host) {
		h.after(100 * time.Millisecond)
		h.set(nvmltest.State{"gpu0.util": "50", "gpu0.temp": "80"})
		s := h.after(9 * time.Second)
		wantValue(t, "busy", s.GPUs[0].Busy, 0.5)
		wantValue(t, "temperature", s.GPUs[0].Temperature, 35)
		if age := s.GPUs[0].Temperature.Age; age != 9.1 {
			t.Errorf("age of the temperature is %g s, want 9.1", age)
		}
		s = h.after(time.Second)
		wantValue(t, "temperature", s.GPUs[0].Temperature, 80)
	})
}

func TestWindows(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1", "gpu0.util": "100"}, func(h *host) {
		h.after(29*time.Second + 500*time.Millisecond) // 30 samples
		h.set(nvmltest.State{"gpu0.util": "0"})
		s := h.after(30 * time.Second) // 30 more
		want := []fleet.Window{
			{Seconds: 10, Mean: 0, Max: 0, Coverage: 1},
			{Seconds: 60, Mean: 0.5, Max: 1, Coverage: 1},
			{Seconds: 300, Mean: 0.5, Max: 1, Coverage: 0.2},
		}
		for i, w := range s.GPUs[0].BusyOver {
			if w != want[i] {
				t.Errorf("window %d is %+v, want %+v", i, w, want[i])
			}
		}
		s = h.after(time.Hour) // the ring is full many times over
		if w := s.GPUs[0].BusyOver[2]; w != (fleet.Window{Seconds: 300, Coverage: 1}) {
			t.Errorf("window after an hour is %+v, want five minutes of nothing", w)
		}
	})
}

func TestWorkOutsideNomad(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "3"}, func(h *host) {
		h.set(nvmltest.State{"gpu0.procs": "1000:10 2000:20 2000:5", "gpu1.procs": "1000:10", "gpu2.procs": "3000:-"})
		s := h.after(1100 * time.Millisecond)
		h.wantOutside(s, fleet.Outside{Known: true, GPUs: 2, Processes: 3})
		p := s.GPUs[0].Processes
		if p.Total != 3 || p.Outside != 2 || p.List[0].Comm != "miner" || p.List[2].Alloc != alloc {
			t.Errorf("processes are %+v, want the two outside first", p)
		}
		if p := s.GPUs[2].Processes.List[0]; p.Why == "" || p.Memory != nil {
			t.Errorf("a process of unknown owner is %+v, want a reason and no memory", p)
		}
		h.set(nvmltest.State{"gpu0.procs": "", "gpu2.procs": ""})
		h.wantOutside(h.after(time.Second), fleet.Outside{Known: true})
	})
}

func TestManyProcesses(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1", "gpu0.procs": strings.Repeat("1000:1 ", 60) + strings.Repeat("2000:1 ", 40)}, func(h *host) {
		s := h.after(time.Millisecond)
		p := s.GPUs[0].Processes
		if p.Total != 100 || p.Outside != 40 || len(p.List) != fleet.MaxProcesses || p.List[31].Comm != "miner" {
			t.Errorf("%d of %d processes outside, %d listed", p.Outside, p.Total, len(p.List))
		}
	})
}

func TestOneGPUIsLost(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "3"}, func(h *host) {
		h.wantStates(h.after(100*time.Millisecond), "ok ok ok")
		h.set(nvmltest.State{"gpu1.lost": "1"})
		s := h.after(time.Second)
		h.wantStates(s, "ok lost ok")
		wantAbsent(t, "busy of the lost GPU", s.GPUs[1].Busy, fleet.QualityLost)
		if s.GPUs[1].UUID == "" || s.GPUs[1].Why == "" || s.GPUs[1].BusyOver != nil {
			t.Errorf("lost GPU is %+v, want its UUID, a reason and no past", s.GPUs[1])
		}
		h.wantOutside(s, fleet.Outside{Known: true})
		h.wantStates(h.after(time.Hour), "ok lost ok")
		if n := h.driver.Inits(); n != 1 {
			t.Errorf("%d initialisations: the others were disturbed", n)
		}
		h.set(nvmltest.State{"gpu1.lost": ""})
		h.wantStates(h.after(12*time.Second), "ok ok ok")
	})
}

func TestGPULostFromTheStart(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "2", "gpu1.lost": "1"}, func(h *host) {
		s := h.after(1100 * time.Millisecond)
		h.wantStates(s, "ok lost")
		if s.GPUs[1].UUID != "" {
			t.Errorf("UUID is %q, which nobody told", s.GPUs[1].UUID)
		}
		h.set(nvmltest.State{"gpu1.lost": ""})
		s = h.after(11 * time.Second)
		h.wantStates(s, "ok ok")
		if s.GPUs[1].UUID == "" {
			t.Error("no UUID of the GPU that came back")
		}
	})
}

func TestHangingCall(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "2", "gpu0.util": "40", "gpu0.procs": "1000:1"}, func(h *host) {
		h.after(100 * time.Millisecond)
		h.set(nvmltest.State{"gpu0.hang_ms": "86400000", "gpu1.util": "10"})
		s := h.after(2 * time.Second)
		h.wantStates(s, "ok ok")
		s = h.after(2 * time.Second)
		h.wantStates(s, "stale ok")
		if v := s.GPUs[0].Busy; v.Quality != fleet.QualityStale || *v.Value != 0.4 || v.Age != 4.1 {
			t.Errorf("busy is %+v, want the last value with its age", v)
		}
		h.wantOutside(s, fleet.Outside{})
		s = h.after(time.Minute)
		h.wantStates(s, "unresponsive ok")
		wantValue(t, "busy of the other GPU", s.GPUs[1].Busy, 0.1)
		h.set(nvmltest.State{"gpu0.hang_ms": ""})
		s = h.after(2 * time.Second)
		h.wantStates(s, "ok ok")
		h.wantOutside(s, fleet.Outside{Known: true})
	})
}

func TestFailingCall(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1", "gpu0.err.nvmlDeviceGetUtilizationRates": "3", "gpu0.err.nvmlDeviceGetSamples": "3", "gpu0.err.nvmlDeviceGetPowerUsage": "999",
		"gpu0.err.nvmlDeviceGetMemoryInfo_v2": "13"}, func(h *host) {
		s := h.after(5 * time.Second)
		h.wantStates(s, "ok")
		wantAbsent(t, "reserved memory", s.GPUs[0].MemoryReserved, fleet.QualityUnsupported)
		wantAbsent(t, "busy", s.GPUs[0].Busy, fleet.QualityUnsupported)
		wantAbsent(t, "power", s.GPUs[0].Power, fleet.QualityFailed)
		wantValue(t, "temperature", s.GPUs[0].Temperature, 35)
		if s.GPUs[0].BusyOver != nil {
			t.Errorf("windows are %+v, want none", s.GPUs[0].BusyOver)
		}

		h.set(nvmltest.State{"gpu0.err": "999"})
		h.wantStates(h.after(4*time.Second), "stale")
		s = h.after(10 * time.Second)
		h.wantStates(s, "unresponsive")
		if !strings.Contains(s.GPUs[0].Why, "999") {
			t.Errorf("why is %q, want what the driver says", s.GPUs[0].Why)
		}
	})
}

func TestProcessesNotTold(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1", "gpu0.err.nvmlDeviceGetComputeRunningProcesses": "3"}, func(h *host) {
		s := h.after(5 * time.Second)
		h.wantStates(s, "ok")
		h.wantOutside(s, fleet.Outside{})
	})
}

func TestNoDriver(t *testing.T) {
	for _, tt := range []struct {
		name    string
		err     string
		outside bool // known
	}{
		{"not loaded", "9", true},
		{"versions differ", "18", false},
		{"no permission", "4", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, nvmltest.State{"count": "1", "init_err": tt.err}, func(h *host) {
				s := h.after(time.Millisecond)
				if s.Driver.State != fleet.DriverNone || s.Driver.Why == "" || len(s.GPUs) != 0 {
					t.Errorf("driver is %+v with %d GPUs", s.Driver, len(s.GPUs))
				}
				h.wantOutside(s, fleet.Outside{Known: tt.outside})
				h.after(10 * time.Minute)
				if n := h.driver.Inits(); n < 10 || n > 14 {
					t.Errorf("%d attempts in ten minutes, want one after 5, 10, 20, 40 s and then each minute", n)
				}
				if n := strings.Count(h.log.String(), "no GPU driver"); n != 1 {
					t.Errorf("logged %d times", n)
				}
				h.set(nvmltest.State{"init_err": ""})
				h.wantStates(h.after(time.Minute), "ok")
			})
		})
	}
}

func TestDriverReload(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "2", "driver": "570.1"}, func(h *host) {
		h.after(10 * time.Second)
		h.set(nvmltest.State{"gpu0.err": "1", "gpu1.err": "1", "init_err": "9"})
		s := h.after(4 * time.Second)
		if s.Driver.State != fleet.DriverNone || s.Driver.Epoch != 1 {
			t.Errorf("driver is %+v", s.Driver)
		}
		h.wantStates(s, "lost lost")
		h.wantOutside(s, fleet.Outside{}) // it may still run something
		h.wantOutside(h.after(5*time.Second), fleet.Outside{Known: true})

		h.set(nvmltest.State{"gpu0.err": "", "gpu1.err": "", "init_err": "", "driver": "580.2"})
		s = h.after(time.Minute)
		if s.Driver != (fleet.Driver{State: fleet.DriverOK, Version: "580.2", Epoch: 2}) {
			t.Errorf("driver is %+v", s.Driver)
		}
		h.wantStates(s, "ok ok")
	})
}

// TestBackOffStartsOver: a driver that was there is looked for eagerly, however
// long it was away before.
func TestBackOffStartsOver(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1", "init_err": "9"}, func(h *host) {
		h.after(10 * time.Minute)
		h.set(nvmltest.State{"init_err": ""})
		h.wantStates(h.after(2*time.Minute), "ok")
		h.set(nvmltest.State{"gpu0.err": "1"})
		h.after(2 * time.Second)
		h.set(nvmltest.State{"gpu0.err": ""})
		s := h.after(6 * time.Second)
		h.wantStates(s, "ok")
		if s.Driver.Epoch != 2 {
			t.Errorf("epoch %d, want 2", s.Driver.Epoch)
		}
	})
}

// TestEveryGPUIsLost: then nothing is disturbed by starting over, which is
// what finds GPUs that were reset.
func TestEveryGPUIsLost(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "2"}, func(h *host) {
		h.after(time.Second)
		h.set(nvmltest.State{"gpu0.lost": "1", "gpu1.lost": "1"})
		s := h.after(3 * time.Second)
		h.wantStates(s, "lost lost")
		h.wantOutside(s, fleet.Outside{Known: true})
		s = h.after(10 * time.Minute)
		h.wantStates(s, "lost lost")
		if n := h.driver.Inits(); n < 8 || n > 14 {
			t.Errorf("%d initialisations in ten minutes, want them to back off to one a minute", n)
		}
		h.set(nvmltest.State{"gpu0.lost": "", "gpu1.lost": ""})
		h.wantStates(h.after(2*time.Minute), "ok ok")
	})
}

// TestGPUIsNotListedAnyMore: the driver was reloaded and counts one less.
func TestGPUIsNotListedAnyMore(t *testing.T) {
	a, b, c := "GPU-aaaaaaaa-0000-4000-8000-000000000000", "GPU-bbbbbbbb-0000-4000-8000-000000000000", "GPU-cccccccc-0000-4000-8000-000000000000"
	inBubble(t, nvmltest.State{"count": "3", "gpu0.uuid": a, "gpu1.uuid": b, "gpu2.uuid": c}, func(h *host) {
		h.after(2 * time.Second)
		h.set(nvmltest.State{"gpu0.err": "1", "gpu1.err": "1", "gpu2.err": "1"})
		h.after(2 * time.Second)
		h.set(nvmltest.State{"gpu0.err": "", "gpu1.err": "", "gpu2.err": "", "count": "2", "gpu0.uuid": b, "gpu1.uuid": c})
		s := h.after(20 * time.Second)
		found := map[string]fleet.State{}
		for _, g := range s.GPUs {
			found[g.UUID] = g.State
		}
		if len(s.GPUs) != 3 || found[a] != fleet.StateLost || found[b] != fleet.StateOK || found[c] != fleet.StateOK {
			t.Errorf("GPUs are %v", found)
		}
		if s.Usable() != 2 {
			t.Errorf("%d usable, want 2", s.Usable())
		}
	})
}

func TestHostWithoutGPUs(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "0"}, func(h *host) {
		s := h.after(2 * time.Second)
		if s.Driver.State != fleet.DriverNone || !strings.Contains(s.Driver.Why, "no GPU") {
			t.Errorf("driver is %+v", s.Driver)
		}
		h.wantOutside(s, fleet.Outside{Known: true})
	})
}

func TestHangingInit(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1", "init_hang_ms": "86400000"}, func(h *host) {
		s := h.after(time.Minute)
		if s.Driver.State != fleet.DriverStarting || len(s.GPUs) != 0 {
			t.Errorf("driver is %+v", s.Driver)
		}
		h.wantOutside(s, fleet.Outside{})
		h.set(nvmltest.State{"init_hang_ms": ""})
		h.wantStates(h.after(2*time.Second), "ok")
	})
}

// TestStopWhileACallHangs: the driver is not shut down under a call, which
// would end the process.
func TestStopWhileACallHangs(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "2"}, func(h *host) {
		h.after(time.Second)
		h.set(nvmltest.State{"gpu0.hang_ms": "86400000"})
		h.after(2 * time.Second)
		h.stop()
		h.after(time.Minute)
		if h.driver.Users() != 1 {
			t.Error("shut down while a call was in progress")
		}
	})
}

// replacedDriver is one whose library was upgraded under the process.
type replacedDriver struct{ gpu.Driver }

func (replacedDriver) Init() error { return gpu.ErrReplaced }

func TestReplacedLibraryEndsTheSampler(t *testing.T) {
	s := gpu.New(gpu.Config{Driver: replacedDriver{}, Period: time.Second, Log: slog.New(slog.DiscardHandler)})
	if err := s.Run(t.Context()); err != gpu.ErrReplaced { //nolint:errorlint // the very one
		t.Errorf("Run = %v, want ErrReplaced", err)
	}
}
