package gpu_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gpupool/gpupool/agent/nvmltest"
	"github.com/gpupool/gpupool/internal/fleet"
)

// wantHealth checks the verdict on a GPU.
func wantHealth(t *testing.T, g fleet.GPU, verdict fleet.Verdict, action fleet.Action, why string) {
	t.Helper()
	if h := g.Health; h.Verdict != verdict || h.Action != action || !strings.Contains(strings.Join(h.Why, "; "), why) {
		t.Errorf("health is %+v, want %s, action %q, because of %q", h, verdict, action, why)
	}
}

func wantRead(t *testing.T, name string, r fleet.Read, want fleet.Quality) {
	t.Helper()
	if r.Quality != want {
		t.Errorf("%s is %s, want %s", name, r.Quality, want)
	}
}

func TestFacts(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1", "gpu0.power_limit_mw": "700000", "gpu0.energy_mj": "5000", "gpu0.mem_temp": "88", "gpu0.throttle": "0x4",
		"gpu0.ecc": "10 0 3000 40", "gpu0.rows": "0 1 0 0", "gpu0.fabric": "3 0 1", "gpu0.nvlinks": "18 18 2", "gpu0.gpm.sm": "32", "gpu0.pages": "-",
	}, func(h *host) {
		s := h.after(10*time.Second + 100*time.Millisecond)
		g := s.GPUs[0]
		wantHealth(t, g, fleet.HealthOK, "", "")
		wantValue(t, "power limit", g.PowerLimit, 700)
		wantValue(t, "energy", g.Energy, 5)
		wantValue(t, "memory temperature", g.MemoryTemperature, 88)
		wantValue(t, "persistence", g.Persistence, 1)
		wantValue(t, "PCIe replays", g.PCIeReplays, 0)
		if g.Clocks.SM == nil || *g.Clocks.SM != 1980e6 || *g.Clocks.Memory != 2619e6 {
			t.Errorf("clocks are %+v", g.Clocks)
		}
		if a := g.Activity; a.Quality != fleet.QualityOK || *a.SM != 0.32 || *a.Tensor != 0 || a.Seconds != 10 {
			t.Errorf("activity is %+v, want 0.32 over 10 s", a)
		}
		if e := g.ECC; e.Quality != fleet.QualityOK || !*e.Enabled || *e.Corrected != 10 || *e.Uncorrected != 0 || *e.CorrectedEver != 3000 || *e.UncorrectedEver != 40 {
			t.Errorf("ECC is %+v", e)
		}
		for name, diff := range map[string]string{
			"rows":     cmp.Diff(fleet.Rows{Read: g.Rows.Read, Uncorrected: 1}, g.Rows),
			"recovery": cmp.Diff(fleet.Recovery{Read: g.Rows.Read, Action: "none"}, g.Recovery),
			"fabric":   cmp.Diff(fleet.Fabric{Read: g.Rows.Read, State: "completed", Health: "healthy"}, g.Fabric),
			"throttle": cmp.Diff([]string{"sw_power_cap"}, g.Throttle.Reasons),
			"xids":     cmp.Diff(fleet.XIDs{Quality: fleet.QualityOK}, g.XIDs),
			"mig":      cmp.Diff(fleet.MIG{Read: g.Rows.Read}, g.MIG),
		} {
			if diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
		if l := g.NVLink; l.Links != 18 || l.Active != 18 || *l.Errors != 2 {
			t.Errorf("NVLink is %+v", l)
		}
		if r := g.Rows.Read; r.Quality != fleet.QualityOK || r.Age != 10.1 {
			t.Errorf("what is read each minute is %+v, want its age", r)
		}
		wantRead(t, "retired pages", g.Pages.Read, fleet.QualityUnsupported)
	})
}

// TestFirstActivity: a ratio over time needs two readings, and is unknown until
// there are.
func TestFirstActivity(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "2", "gpu1.gpm": "0"}, func(h *host) {
		s := h.after(time.Second)
		wantRead(t, "activity", s.GPUs[0].Activity.Read, fleet.QualityUnknown)
		wantRead(t, "activity of a GPU without monitors", s.GPUs[1].Activity.Read, fleet.QualityUnsupported)
	})
}

// TestBusyMissesNothing: work that comes and goes between two samples is seen
// in the driver's own.
func TestBusyMissesNothing(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1", "gpu0.samples": "0 100 100 0 0 0"}, func(h *host) {
		s := h.after(5*time.Second + 100*time.Millisecond)
		wantValue(t, "busy", s.GPUs[0].Busy, 0.3333)
	})
}

func TestBusyWhenTheDriverHasNoSamples(t *testing.T) {
	for name, change := range map[string]nvmltest.State{
		"none at all":        {"gpu0.err.nvmlDeviceGetSamples": "3"},
		"for a passing need": {"gpu0.err.nvmlDeviceGetSamples": "999"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nvmltest.State{"count": "1", "gpu0.util": "40"}, func(h *host) {
				h.after(2 * time.Second)
				h.set(change)
				h.set(nvmltest.State{"gpu0.util": "70"})
				s := h.after(2 * time.Second)
				wantValue(t, "busy", s.GPUs[0].Busy, 0.7)
			})
		})
	}
}

func TestSlowTier(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1"}, func(h *host) {
		h.after(100 * time.Millisecond)
		h.set(nvmltest.State{"gpu0.rows": "0 1 1 0"})
		s := h.after(59 * time.Second)
		if s.GPUs[0].Rows.Pending || s.GPUs[0].Rows.Age != 59.1 {
			t.Errorf("rows are %+v, want those of 59 s ago", s.GPUs[0].Rows)
		}
		s = h.after(time.Second)
		wantHealth(t, s.GPUs[0], fleet.HealthDegraded, fleet.ActionReset, "row")
	})
}

// xid has the driver report an error of a GPU.
func (h *host) xid(gpu, code int) {
	h.event++
	h.set(nvmltest.State{"event": fmt.Sprintf("%d %d 8 %d", h.event, gpu, code)})
}

// TestXIDs follows one error: it is seen within a second, and so is what it did
// to the memory; it is one until a reset; and if resets do not help, it is for
// people to mend.
func TestXIDs(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "2", "gpu0.energy_mj": "9000000"}, func(h *host) {
		h.after(2 * time.Second)
		for range 3 {
			h.xid(0, 45)
			h.after(time.Second)
		}
		s := h.after(time.Second)
		wantHealth(t, s.GPUs[0], fleet.HealthOK, "", "")
		want := []fleet.XID{{Code: 45, Class: fleet.XIDApplication, Count: 3, Age: s.GPUs[0].XIDs.List[0].Age}}
		if diff := cmp.Diff(want, s.GPUs[0].XIDs.List); diff != "" {
			t.Errorf("XIDs: %s", diff)
		}

		h.set(nvmltest.State{"gpu0.rows": "0 1 1 0"})
		h.xid(0, 95)
		s = h.after(1100 * time.Millisecond)
		wantHealth(t, s.GPUs[0], fleet.HealthFailed, fleet.ActionReset, "XID 95")
		wantHealth(t, s.GPUs[0], fleet.HealthFailed, fleet.ActionReset, "a memory row is replaced at the next reset")
		wantHealth(t, s.GPUs[1], fleet.HealthOK, "", "")
		if s.GPUs[1].XIDs.List != nil {
			t.Errorf("the other GPU has %+v", s.GPUs[1].XIDs.List)
		}
		wantHealth(t, h.after(time.Hour).GPUs[0], fleet.HealthFailed, fleet.ActionReset, "XID 95")

		reset := func() fleet.GPU {
			h.set(nvmltest.State{"gpu0.energy_mj": "10", "gpu0.rows": ""})
			h.after(time.Minute)
			h.set(nvmltest.State{"gpu0.energy_mj": "9000000"})
			return h.after(time.Minute).GPUs[0]
		}
		g := reset()
		wantHealth(t, g, fleet.HealthOK, "", "")
		if x := g.XIDs.List[1]; x.Code != 95 || x.Count != 1 || x.Open || x.Age < 3600 {
			t.Errorf("after the reset it is %+v, want it counted, and over", x)
		}
		h.xid(0, 95)
		wantHealth(t, h.after(time.Second).GPUs[0], fleet.HealthFailed, fleet.ActionReset, "XID 95")
		reset()
		h.xid(0, 95)
		wantHealth(t, h.after(time.Second).GPUs[0], fleet.HealthFailed, fleet.ActionRepair, "back again after 2 resets")
		if n := strings.Count(h.log.String(), "xid=95"); n != 3 {
			t.Errorf("logged %d times, want once for each time that it came", n)
		}
		if n := strings.Count(h.log.String(), "xid=45"); n != 1 {
			t.Errorf("what is benign was logged %d times, want once", n)
		}
	})
}

// TestXIDOfALostGPU: the error says why, and both are over when the GPU is back.
func TestXIDOfALostGPU(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "2"}, func(h *host) {
		h.after(time.Second)
		h.xid(1, 79)
		h.set(nvmltest.State{"gpu1.lost": "1"})
		g := h.after(2 * time.Second).GPUs[1]
		wantHealth(t, g, fleet.HealthFailed, fleet.ActionCycle, "XID 79")
		wantHealth(t, g, fleet.HealthFailed, fleet.ActionCycle, "lost")
		h.set(nvmltest.State{"gpu1.lost": ""})
		wantHealth(t, h.after(11 * time.Second).GPUs[1], fleet.HealthOK, "", "")
	})
}

// TestXIDsOutliveAnEpoch: a new driver ends errors, but they stay counted, also
// while there is none.
func TestXIDsOutliveAnEpoch(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1", "gpu0.energy_mj": "7000"}, func(h *host) {
		h.after(time.Second)
		h.xid(0, 119)
		wantHealth(t, h.after(2 * time.Second).GPUs[0], fleet.HealthFailed, fleet.ActionReset, "XID 119")
		h.set(nvmltest.State{"gpu0.err": "1", "init_err": "9"})
		g := h.after(4 * time.Second).GPUs[0]
		if len(g.XIDs.List) != 1 || g.XIDs.Quality != fleet.QualityLost {
			t.Errorf("XIDs without a driver are %+v", g.XIDs)
		}
		h.set(nvmltest.State{"gpu0.err": "", "init_err": "", "gpu0.energy_mj": "1000"})
		g = h.after(30 * time.Second).GPUs[0]
		wantHealth(t, g, fleet.HealthOK, "", "")
		if x := g.XIDs.List[0]; x.Code != 119 || x.Count != 1 || x.Open {
			t.Errorf("XID is %+v, want it counted, and over", x)
		}
		wantValue(t, "energy", g.Energy, 8)
	})
}

func TestManyXIDs(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1"}, func(h *host) {
		h.after(time.Second)
		for code := range 2 * fleet.MaxXIDs {
			h.xid(0, 1000+code)
			h.after(100 * time.Millisecond)
		}
		if n := len(h.after(time.Second).GPUs[0].XIDs.List); n != fleet.MaxXIDs {
			t.Errorf("%d different XIDs, want the first %d", n, fleet.MaxXIDs)
		}
	})
}

func TestEventsThatCannotBeHad(t *testing.T) {
	t.Run("the GPU has none", func(t *testing.T) {
		inBubble(t, nvmltest.State{"count": "1", "gpu0.err.nvmlDeviceRegisterEvents": "3"}, func(h *host) {
			s := h.after(2 * time.Second)
			h.wantStates(s, "ok")
			wantRead(t, "XIDs", fleet.Read{Quality: s.GPUs[0].XIDs.Quality}, fleet.QualityUnsupported)
		})
	})
	t.Run("the driver refuses", func(t *testing.T) {
		inBubble(t, nvmltest.State{"count": "1", "gpu0.err.nvmlDeviceRegisterEvents": "4"}, func(h *host) {
			wantRead(t, "XIDs", fleet.Read{Quality: h.after(2 * time.Second).GPUs[0].XIDs.Quality}, fleet.QualityFailed)
		})
	})
	for _, code := range []string{"3", "999"} {
		t.Run("waiting for them fails with "+code, func(t *testing.T) {
			inBubble(t, nvmltest.State{"count": "1", "err.nvmlEventSetWait_v2": code}, func(h *host) {
				h.wantStates(h.after(time.Minute), "ok")
			})
		})
	}
}

// TestEnergyNeverGoesDown: the counter starts over at a reset, the total goes
// on, and so does the mean power.
func TestEnergyNeverGoesDown(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1", "gpu0.energy_mj": "1000000"}, func(h *host) {
		h.after(100 * time.Millisecond)
		h.set(nvmltest.State{"gpu0.energy_mj": "4000000"}) // 3000 J in 10 s
		g := h.after(10 * time.Second).GPUs[0]
		wantValue(t, "energy", g.Energy, 4000)
		if want := (fleet.Window{Seconds: 60, Mean: 300, Max: 300, Coverage: 0.1667}); len(g.PowerOver) != 2 || g.PowerOver[0] != want {
			t.Errorf("power is %+v, want %+v", g.PowerOver, want)
		}
		h.set(nvmltest.State{"gpu0.energy_mj": "500000"})
		wantValue(t, "energy after a reset", h.after(10 * time.Second).GPUs[0].Energy, 4500)
	})
}

func TestPowerWithoutAnEnergyCounter(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1", "gpu0.energy_mj": "-", "gpu0.power_mw": "50000"}, func(h *host) {
		g := h.after(30 * time.Second).GPUs[0]
		wantAbsent(t, "energy", g.Energy, fleet.QualityUnsupported)
		if len(g.PowerOver) == 0 || g.PowerOver[0].Mean != 50 {
			t.Errorf("power is %+v, want the mean of what was read", g.PowerOver)
		}
	})
}

func TestThrottle(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "1", "gpu0.throttle": "0x1"}, func(h *host) {
		h.after(29*time.Second + 500*time.Millisecond) // 30 samples
		h.set(nvmltest.State{"gpu0.throttle": "0x20000048"})
		g := h.after(30 * time.Second).GPUs[0] // 30 more
		if diff := cmp.Diff([]string{"hw_slowdown", "hw_thermal", "bit_29"}, g.Throttle.Reasons); diff != "" {
			t.Errorf("reasons: %s", diff)
		}
		half := map[string]float64{"gpu_idle": 0.5, "hw_slowdown": 0.5, "hw_thermal": 0.5, "bit_29": 0.5}
		want := []fleet.ThrottleWindow{{Seconds: 60, Shares: half}, {Seconds: 300, Shares: half}}
		if diff := cmp.Diff(want, g.Throttle.Over); diff != "" {
			t.Errorf("shares: %s", diff)
		}
		if diff := cmp.Diff(map[string]float64{"gpu_idle": 30, "hw_slowdown": 30, "hw_thermal": 30, "bit_29": 30}, g.Throttle.Total); diff != "" {
			t.Errorf("times: %s", diff)
		}
		wantHealth(t, g, fleet.HealthDegraded, "", "hw_thermal) for 50 %")
	})
}

func TestMIG(t *testing.T) {
	const a, b = "MIG-00000000-0000-4000-8000-00000000000a", "MIG-00000000-0000-4000-8000-00000000000b"
	inBubble(t, nvmltest.State{"count": "1", "gpu0.mig": "1", "gpu0.err.nvmlDeviceGetUtilizationRates": "3", "gpu0.err.nvmlDeviceGetSamples": "3",
		"gpu0.mig.0": a + " 7 0 1g.10gb 9856 4000", "gpu0.mig.3": b + " 5 0 2g.20gb 19968 0", "gpu0.gi7.sm": "90",
		"gpu0.procs": "1000:4000:7:0 2000:1:5:0",
	}, func(h *host) {
		s := h.after(10*time.Second + 100*time.Millisecond)
		g := s.GPUs[0]
		wantAbsent(t, "busy", g.Busy, fleet.QualityUnsupported)
		wantRead(t, "activity of the whole", g.Activity.Read, fleet.QualityUnsupported)
		if !g.MIG.Enabled || len(g.MIG.Devices) != 2 {
			t.Fatalf("MIG is %+v", g.MIG)
		}
		d := g.MIG.Devices[0]
		if d.UUID != a || d.Profile != "1g.10gb" || d.GPUInstance != 7 || d.Processes != 1 || d.Outside != 0 || *d.Activity.SM != 0.9 {
			t.Errorf("the first device is %+v", d)
		}
		wantValue(t, "memory used", d.MemoryUsed, 4000<<20)
		wantValue(t, "memory total", d.MemoryTotal, 9856<<20)
		if d := g.MIG.Devices[1]; d.Processes != 1 || d.Outside != 1 || *d.Activity.SM != 0 {
			t.Errorf("the second device is %+v", d)
		}
		if p := g.Processes.List; p[0].Comm != "miner" || p[0].MIG != b || p[1].MIG != a {
			t.Errorf("processes are %+v", p)
		}
		h.wantOutside(s, fleet.Outside{Known: true, GPUs: 1, Processes: 1})

		// Divided anew: seen at once, though the layout is read once a minute.
		h.set(nvmltest.State{"gpu0.mig.0": "", "gpu0.mig.3": "", "gpu0.mig.1": a[:len(a)-1] + "c 1 0 7g.80gb 81000 1"})
		g = h.after(2 * time.Second).GPUs[0]
		if len(g.MIG.Devices) != 1 || g.MIG.Devices[0].Profile != "7g.80gb" {
			t.Errorf("MIG is %+v, want the new layout", g.MIG)
		}
		wantValue(t, "memory used", g.MIG.Devices[0].MemoryUsed, 1<<20)
		wantRead(t, "activity of the new device", g.MIG.Devices[0].Activity.Read, fleet.QualityUnknown)

		// Whole again, told by an event.
		h.event++
		h.set(nvmltest.State{"gpu0.mig": "0", "event": fmt.Sprintf("%d 0 256 0", h.event)})
		g = h.after(2 * time.Second).GPUs[0]
		if g.MIG.Enabled || g.MIG.Devices != nil {
			t.Errorf("MIG is %+v, want none", g.MIG)
		}
	})
}

// TestForeignProcess: an allocation uses a GPU that it was not given.
func TestForeignProcess(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "2", "gpu0.procs": "1000:1 1001:1", "gpu1.procs": "1001:1"}, func(h *host) {
		s := h.after(time.Second)
		for i, want := range [][]bool{{false, true}, {false}} {
			for j, p := range s.GPUs[i].Processes.List {
				if p.Foreign != want[j] {
					t.Errorf("process %d of GPU %d is %+v, want foreign %t", j, i, p, want[j])
				}
			}
		}
	})
}

func TestLostUntilReset(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "2"}, func(h *host) {
		h.after(time.Second)
		h.set(nvmltest.State{"gpu0.err": "16"})
		s := h.after(2 * time.Second)
		h.wantStates(s, "lost ok")
		wantHealth(t, s.GPUs[0], fleet.HealthFailed, fleet.ActionReset, "lost")
	})
}

// TestFactsOfALostGPU: nothing that was true before is said to be so still.
func TestFactsOfALostGPU(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "2", "gpu0.rows": "0 0 1 0"}, func(h *host) {
		h.after(11 * time.Second)
		h.set(nvmltest.State{"gpu0.lost": "1"})
		g := h.after(2 * time.Second).GPUs[0]
		for name, r := range map[string]fleet.Read{
			"activity": g.Activity.Read, "clocks": g.Clocks.Read, "throttle": g.Throttle.Read, "ecc": g.ECC.Read, "rows": g.Rows.Read, "pages": g.Pages.Read,
			"recovery": g.Recovery.Read, "fabric": g.Fabric.Read, "nvlink": g.NVLink.Read, "mig": g.MIG.Read, "xids": {Quality: g.XIDs.Quality},
		} {
			wantRead(t, name, r, fleet.QualityLost)
		}
		if g.Rows.Pending || g.ECC.Corrected != nil || g.PowerOver != nil || g.Throttle.Over != nil {
			t.Errorf("the lost GPU is %+v", g)
		}
	})
}
