package gputest

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gpupool/gpupool/agent/gpu"
	"github.com/gpupool/gpupool/agent/nvmltest"
)

// TestDriver runs the suite over a driver whose answers set decides, in the
// terms of the fake library's file.
func TestDriver(t *testing.T, d gpu.Driver, set func(nvmltest.State)) {
	t.Run("driver not loaded", func(t *testing.T) {
		set(nvmltest.State{"init_err": "9"})
		err := d.Init()
		var coded interface{ Code() int }
		if !errors.Is(err, gpu.ErrNotLoaded) || !errors.As(err, &coded) || coded.Code() != 9 {
			t.Errorf("Init: %v, want ErrNotLoaded with code 9", err)
		}
	})
	t.Run("no state", func(t *testing.T) {
		set(nil)
		if err := d.Init(); !errors.Is(err, gpu.ErrNotLoaded) {
			t.Errorf("Init: %v, want ErrNotLoaded", err)
		}
	})
	t.Run("versions differ", func(t *testing.T) {
		set(nvmltest.State{"init_err": "18"})
		if err := d.Init(); err == nil || errors.Is(err, gpu.ErrNotLoaded) || errors.Is(err, gpu.ErrReplaced) {
			t.Errorf("Init: %v, want another error", err)
		}
	})
	t.Run("two GPUs", func(t *testing.T) { twoGPUs(t, start(t, d, set, full)) })
	t.Run("one GPU is lost", func(t *testing.T) {
		s := nvmltest.State{"count": "2", "gpu1.lost": "1"}
		start(t, d, set, s)
		open(t, d, 0)
		if _, err := d.Open(1); !errors.Is(err, gpu.ErrLost) {
			t.Errorf("Open(1): %v, want ErrLost", err)
		}
		set(nvmltest.State{"count": "2"})
		open(t, d, 1)
	})
	t.Run("a GPU gets lost", func(t *testing.T) {
		start(t, d, set, nvmltest.State{"count": "1"})
		dev := open(t, d, 0)
		set(nvmltest.State{"count": "1", "gpu0.lost": "1"})
		for name, err := range callAll(dev) {
			if !errors.Is(err, gpu.ErrLost) {
				t.Errorf("%s: %v, want ErrLost", name, err)
			}
		}
	})
	t.Run("not supported", func(t *testing.T) {
		start(t, d, set, nvmltest.State{"count": "1", "gpu0.err": "3"})
		dev, err := d.Open(0)
		if err != nil {
			t.Fatal(err)
		}
		for name, err := range callAll(dev) {
			if !errors.Is(err, gpu.ErrUnsupported) {
				t.Errorf("%s: %v, want ErrUnsupported", name, err)
			}
		}
	})
	t.Run("an older driver does not tell reserved memory apart", func(t *testing.T) {
		start(t, d, set, nvmltest.State{"count": "1", "gpu0.mem_used_mib": "10", "gpu0.mem_reserved_mib": "5",
			"gpu0.err.nvmlDeviceGetMemoryInfo_v2": "25"})
		m, err := open(t, d, 0).Memory()
		if err != nil || m.Reserved != nil || m.Used != 15<<20 {
			t.Errorf("Memory = %+v, %v, want 15 MiB used", m, err)
		}
	})
	t.Run("needs a reset", func(t *testing.T) {
		start(t, d, set, nvmltest.State{"count": "1"})
		dev := open(t, d, 0)
		set(nvmltest.State{"count": "1", "gpu0.err": "16"})
		if _, err := dev.Memory(); !errors.Is(err, gpu.ErrLost) || !errors.Is(err, gpu.ErrResetRequired) {
			t.Errorf("Memory: %v, want lost until a reset", err)
		}
	})
	t.Run("what an older GPU does not have", func(t *testing.T) {
		start(t, d, set, nvmltest.State{"count": "1", "gpu0.mem_temp": "-", "gpu0.recovery": "-", "gpu0.rows": "-",
			"gpu0.pages": "1 2 1", "gpu0.ecc": "-1", "gpu0.gpm": "0", "gpu0.nvlinks": "-", "gpu0.fabric": "-", "gpu0.mig": "-"})
		dev := open(t, d, 0)
		for name, call := range map[string]func() error{
			"memory temperature": func() error { _, err := dev.Number(gpu.MemoryTemperature); return err },
			"recovery action":    func() error { _, err := dev.Number(gpu.RecoveryAction); return err },
			"rows":               func() error { _, err := dev.Rows(); return err },
			"activity":           func() error { _, _, err := dev.Activity(gpu.WholeGPU); return err },
			"NVLink":             func() error { _, err := dev.NVLink(); return err },
			"fabric":             func() error { _, err := dev.Fabric(); return err },
			"MIG":                func() error { _, err := dev.MIG(); return err },
		} {
			if err := call(); !errors.Is(err, gpu.ErrUnsupported) {
				t.Errorf("%s: %v, want ErrUnsupported", name, err)
			}
		}
		if e, err := dev.ECC(); err != nil || *e.Enabled || e.Corrected != nil {
			t.Errorf("ECC = %+v, %v, want it off and nothing counted", e, err)
		}
		one, two := int64(1), int64(2)
		pages, err := dev.Pages()
		if diff := cmp.Diff(gpu.Pages{SingleBit: &one, DoubleBit: &two, Pending: true}, pages); err != nil || diff != "" {
			t.Errorf("Pages: %v\n%s", err, diff)
		}
	})
	t.Run("the driver's samples", func(t *testing.T) {
		// As many as there are, and no zeros for those that there are not.
		start(t, d, set, nvmltest.State{"count": "1", "gpu0.util": "50", "gpu0.samples": "20 80"})
		dev := open(t, d, 0)
		all, err := dev.BusySamples(0)
		if err != nil || len(all) != 100 {
			t.Fatalf("BusySamples(0) = %d samples, %v, want the 100 that are kept", len(all), err)
		}
		newest, sum := gpu.BusySample{}, 0.0
		for _, s := range all {
			sum += s.Share
			if s.At > newest.At {
				newest = s
			}
		}
		if newest.Share != 0.8 || sum < 49.999 || sum > 50.001 {
			t.Errorf("the newest sample is %+v, and all sum up to %g, want 0.8 and 50", newest, sum)
		}
		time.Sleep(200 * time.Millisecond)
		few, err := dev.BusySamples(newest.At)
		if err != nil || len(few) == 0 || len(few) > 20 {
			t.Errorf("BusySamples of the last 200 ms = %v, %v, want those few", few, err)
		}
		for _, s := range few {
			if s.At <= newest.At {
				t.Errorf("a sample of %d, want none before %d", s.At, newest.At)
			}
		}
		if none, err := dev.BusySamples(newest.At + 1<<40); err != nil || len(none) != 0 {
			t.Errorf("BusySamples of the future = %v, %v, want none", none, err)
		}
	})
	t.Run("activity is between two calls", func(t *testing.T) {
		s := nvmltest.State{"count": "1", "gpu0.gpm.sm": "32", "gpu0.gpm.dram": "55", "gpu0.gpm.occupancy": "12", "gpu0.gpm.tensor": "-", "gpu0.gi3.sm": "71"}
		start(t, d, set, s)
		dev := open(t, d, 0)
		for instance, want := range map[int][]float64{gpu.WholeGPU: {0.32, 0.55}, 3: {0.71, 0}} {
			if a, ok, err := dev.Activity(instance); ok || err != nil {
				t.Errorf("first Activity(%d) = %+v, %t, %v, want none yet", instance, a, ok, err)
			}
			time.Sleep(120 * time.Millisecond)
			a, ok, err := dev.Activity(instance)
			if !ok || err != nil || a.SM == nil || *a.SM != want[0] || a.DRAM == nil || *a.DRAM != want[1] || a.Over < 100*time.Millisecond || a.Over > 10*time.Second {
				t.Errorf("second Activity(%d) = %+v, %t, %v, want %v", instance, a, ok, err, want)
			}
			if instance == gpu.WholeGPU && (a.Tensor != nil || a.SMOccupancy == nil || *a.SMOccupancy != 0.12) {
				t.Errorf("Activity(%d) = %+v, want an occupancy and no tensor share", instance, a)
			}
		}
	})
	t.Run("MIG", func(t *testing.T) {
		s := nvmltest.State{"count": "1", "gpu0.mig": "1", "gpu0.procs": "4242:100:7:0 17:5",
			"gpu0.mig.0": "MIG-00000000-0000-4000-8000-000000000001 7 0 1g.10gb 9856 4000",
			"gpu0.mig.2": "MIG-00000000-0000-4000-8000-000000000002 5 1 2g.20gb 19968 0", // and none between
		}
		start(t, d, set, s)
		dev := open(t, d, 0)
		m, err := dev.MIG()
		want := gpu.MIG{Enabled: true, Parts: []gpu.Part{
			{UUID: "MIG-00000000-0000-4000-8000-000000000001", GPUInstance: 7, ComputeInstance: 0, Profile: "1g.10gb"},
			{UUID: "MIG-00000000-0000-4000-8000-000000000002", GPUInstance: 5, ComputeInstance: 1, Profile: "2g.20gb"},
		}}
		if diff := cmp.Diff(want, m); err != nil || diff != "" {
			t.Fatalf("MIG: %v\n%s", err, diff)
		}
		if m, err := dev.PartMemory(want.Parts[0].UUID); err != nil || m.Used != 4000<<20 || m.Total != 9856<<20 {
			t.Errorf("PartMemory = %+v, %v", m, err)
		}
		p, err := dev.Processes()
		if err != nil || len(p) != 2 || p[0].GPUInstance != 7 || p[0].ComputeInstance != 0 || p[1].GPUInstance != gpu.WholeGPU {
			t.Errorf("Processes = %+v, %v, want one in a GPU instance and one in none", p, err)
		}
		s["gpu0.mig"] = "0"
		set(s)
		if _, err := dev.PartMemory(want.Parts[0].UUID); err == nil || errors.Is(err, gpu.ErrLost) || errors.Is(err, gpu.ErrUnsupported) {
			t.Errorf("PartMemory of a part that is gone: %v, want another error", err)
		}
		if m, err := dev.MIG(); err != nil || m.Enabled || m.Parts != nil {
			t.Errorf("MIG = %+v, %v, want a whole GPU", m, err)
		}
	})
	t.Run("events", func(t *testing.T) {
		s := nvmltest.State{"count": "2", "event": "1 0 8 13"}
		start(t, d, set, s)
		watched, other := open(t, d, 1), open(t, d, 0)
		if err := watched.Watch(); err != nil {
			t.Fatal(err)
		}
		none := func(what string) {
			t.Helper()
			if e, ok, err := d.Wait(100 * time.Millisecond); ok || err != nil {
				t.Errorf("%s: Wait = %+v, %t, %v, want no event", what, e, ok, err)
			}
		}
		some := func(event string, want gpu.Event) {
			t.Helper()
			s["event"] = event
			set(s)
			if e, ok, err := d.Wait(5 * time.Second); !ok || err != nil || e != want {
				t.Errorf("%s: Wait = %+v, %t, %v, want %+v", event, e, ok, err, want)
			}
		}
		none("an event from before")
		some("2 1 8 79", gpu.Event{Index: 1, XID: 79})
		none("the same event")
		s["event"] = "3 0 8 31"
		set(s)
		none("an event of a GPU that is not watched")
		if err := other.Watch(); err != nil {
			t.Fatal(err)
		}
		some("4 0 8 31", gpu.Event{Index: 0, XID: 31})
		some("5 1 256 0", gpu.Event{Index: 1}) // divided anew
	})
	t.Run("a GPU that is not there", func(t *testing.T) {
		start(t, d, set, nvmltest.State{"count": "1"})
		if dev, err := d.Open(1); err == nil {
			t.Errorf("Open(1) = %v, want an error", dev)
		}
	})
	t.Run("after Shutdown", func(t *testing.T) {
		set(nvmltest.State{"count": "1"})
		if err := errors.Join(d.Init(), d.Shutdown()); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Count(); !errors.Is(err, gpu.ErrGone) {
			t.Errorf("Count: %v, want ErrGone", err)
		}
		if err := d.Shutdown(); !errors.Is(err, gpu.ErrGone) {
			t.Errorf("Shutdown: %v, want ErrGone", err)
		}
	})
}

var full = nvmltest.State{
	"count":  "2",
	"driver": "580.1.2",

	"gpu0.uuid":             "GPU-00000000-1111-2222-3333-444444444444",
	"gpu0.name":             "NVIDIA L40S",
	"gpu0.pci":              "00000001:ab:00.0",
	"gpu0.util":             "87",
	"gpu0.mem_used_mib":     "70000",
	"gpu0.mem_total_mib":    "81559",
	"gpu0.mem_reserved_mib": "600",
	"gpu0.power_mw":         "412345",
	"gpu0.temp":             "71",
	"gpu0.procs":            "self:69000 4242:500 17:-",
	"gpu0.mps_procs":        "4242:500 99:7",
	"gpu0.power_limit_mw":   "350000",
	"gpu0.energy_mj":        "123456789",
	"gpu0.mem_temp":         "88",
	"gpu0.sm_mhz":           "1500",
	"gpu0.mem_mhz":          "9000",
	"gpu0.throttle":         "0x44",
	"gpu0.persistence":      "0",
	"gpu0.pcie_replays":     "5",
	"gpu0.recovery":         "4",
	"gpu0.ecc":              "10 2 3000 40",
	"gpu0.rows":             "1 2 1 1",
	"gpu0.fabric":           "3 0 1",
	"gpu0.nvlinks":          "18 17 6",
}

func twoGPUs(t *testing.T, d gpu.Driver) {
	if v, err := d.Version(); err != nil || v != "580.1.2" {
		t.Errorf("Version = %q, %v, want 580.1.2", v, err)
	}
	if n, err := d.Count(); err != nil || n != 2 {
		t.Errorf("Count = %d, %v, want 2", n, err)
	}
	type answers struct {
		Identity  gpu.Identity
		Numbers   map[gpu.Quantity]float64
		Memory    gpu.Memory
		Processes []gpu.Process
		ECC       gpu.ECC
		Rows      gpu.Rows
		Fabric    gpu.Fabric
		NVLink    gpu.NVLink
		MIG       gpu.MIG
	}
	of := func(n uint64) *uint64 { return &n }
	to := func(n int64) *int64 { return &n }
	yes := true
	process := func(pid int, memory *uint64) gpu.Process {
		return gpu.Process{PID: pid, Memory: memory, GPUInstance: gpu.WholeGPU, ComputeInstance: gpu.WholeGPU}
	}
	for i, want := range []answers{
		{
			Identity: gpu.Identity{UUID: "GPU-00000000-1111-2222-3333-444444444444", Name: "NVIDIA L40S", PCI: "00000001:AB:00.0"},
			Numbers: map[gpu.Quantity]float64{
				gpu.Busy: 0.87, gpu.Power: 412.345, gpu.PowerLimit: 350, gpu.Energy: 123456.789, gpu.Temperature: 71, gpu.MemoryTemperature: 88,
				gpu.SMClock: 1.5e9, gpu.MemoryClock: 9e9, gpu.Throttling: 0x44, gpu.Persistence: 0, gpu.PCIeReplays: 5, gpu.RecoveryAction: 4,
			},
			Memory: gpu.Memory{Used: 70000 << 20, Total: 81559 << 20, Reserved: of(600 << 20)},
			Processes: []gpu.Process{
				process(os.Getpid(), of(69000<<20)),
				process(4242, of(500<<20)),
				process(17, nil),
				process(99, of(7<<20)),
			},
			ECC:    gpu.ECC{Enabled: &yes, Corrected: to(10), Uncorrected: to(2), CorrectedEver: to(3000), UncorrectedEver: to(40)},
			Rows:   gpu.Rows{Corrected: 1, Uncorrected: 2, Pending: true, Failed: true},
			Fabric: gpu.Fabric{State: 3, Health: 1},
			NVLink: gpu.NVLink{Links: 18, Active: 17, Errors: to(6)},
		},
		{
			Identity: gpu.Identity{UUID: "GPU-fa4e0001-0000-4000-8000-000000000000", Name: "NVIDIA H100 80GB HBM3", PCI: "00000000:02:00.0"},
			Numbers: map[gpu.Quantity]float64{
				gpu.Busy: 0, gpu.Power: 70, gpu.PowerLimit: 700, gpu.Energy: 0, gpu.Temperature: 35,
				gpu.SMClock: 1980e6, gpu.MemoryClock: 2619e6, gpu.Throttling: 0, gpu.Persistence: 1, gpu.PCIeReplays: 0, gpu.RecoveryAction: 0,
			},
			Memory:    gpu.Memory{Total: 81559 << 20, Reserved: of(0)},
			Processes: []gpu.Process{},
			ECC:       gpu.ECC{Enabled: &yes, Corrected: to(0), Uncorrected: to(0), CorrectedEver: to(0), UncorrectedEver: to(0)},
		},
	} {
		dev := open(t, d, i)
		got := answers{Numbers: map[gpu.Quantity]float64{}}
		var errs [8]error
		for q := range gpu.Quantities {
			n, err := dev.Number(q)
			switch {
			case err == nil:
				got.Numbers[q] = n
			case !errors.Is(err, gpu.ErrUnsupported):
				t.Errorf("GPU %d: quantity %d: %v", i, q, err)
			}
		}
		got.Identity, errs[0] = dev.Identity()
		got.Memory, errs[1] = dev.Memory()
		got.Processes, errs[2] = dev.Processes()
		got.ECC, errs[3] = dev.ECC()
		got.Rows, errs[4] = dev.Rows()
		got.Fabric, errs[5] = dev.Fabric()
		if i == 0 {
			got.NVLink, errs[6] = dev.NVLink()
		}
		got.MIG, errs[7] = dev.MIG()
		if err := errors.Join(errs[:]...); err != nil {
			t.Errorf("GPU %d: %v", i, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-6)); diff != "" {
			t.Errorf("GPU %d differs (-want +got):\n%s", i, diff)
		}
	}
}

// start initialises the driver for one test.
func start(t *testing.T, d gpu.Driver, set func(nvmltest.State), s nvmltest.State) gpu.Driver {
	t.Helper()
	set(s)
	if err := d.Init(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the devices are closed
		if err := d.Shutdown(); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return d
}

func open(t *testing.T, d gpu.Driver, index int) gpu.Device {
	t.Helper()
	dev, err := d.Open(index)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dev.Close)
	return dev
}

func callAll(d gpu.Device) map[string]error {
	errs := map[string]error{"Watch": d.Watch()}
	for q := range gpu.Quantities {
		_, errs[fmt.Sprintf("Number(%d)", q)] = d.Number(q)
	}
	_, errs["Identity"] = d.Identity()
	_, errs["BusySamples"] = d.BusySamples(0)
	_, errs["Memory"] = d.Memory()
	_, errs["Processes"] = d.Processes()
	_, _, errs["Activity"] = d.Activity(gpu.WholeGPU)
	_, _, errs["Activity of an instance"] = d.Activity(1)
	_, errs["ECC"] = d.ECC()
	_, errs["Rows"] = d.Rows()
	_, errs["Pages"] = d.Pages()
	_, errs["Fabric"] = d.Fabric()
	_, errs["NVLink"] = d.NVLink()
	_, errs["MIG"] = d.MIG()
	return errs
}
