package gputest

import (
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

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
}

func twoGPUs(t *testing.T, d gpu.Driver) {
	if v, err := d.Version(); err != nil || v != "580.1.2" {
		t.Errorf("Version = %q, %v, want 580.1.2", v, err)
	}
	if n, err := d.Count(); err != nil || n != 2 {
		t.Errorf("Count = %d, %v, want 2", n, err)
	}
	type answers struct {
		Identity           gpu.Identity
		Busy               float64
		Memory             gpu.Memory
		Power, Temperature float64
		Processes          []gpu.Process
	}
	of := func(n uint64) *uint64 { return &n }
	for i, want := range []answers{
		{
			Identity:    gpu.Identity{UUID: "GPU-00000000-1111-2222-3333-444444444444", Name: "NVIDIA L40S", PCI: "00000001:AB:00.0"},
			Busy:        0.87,
			Memory:      gpu.Memory{Used: 70000 << 20, Total: 81559 << 20, Reserved: of(600 << 20)},
			Power:       412.345,
			Temperature: 71,
			Processes: []gpu.Process{
				{PID: os.Getpid(), Memory: of(69000 << 20)},
				{PID: 4242, Memory: of(500 << 20)},
				{PID: 17},
			},
		},
		{
			Identity:    gpu.Identity{UUID: "GPU-fa4e0001-0000-4000-8000-000000000000", Name: "NVIDIA H100 80GB HBM3", PCI: "00000000:02:00.0"},
			Memory:      gpu.Memory{Total: 81559 << 20, Reserved: of(0)},
			Power:       70,
			Temperature: 35,
			Processes:   []gpu.Process{},
		},
	} {
		dev := open(t, d, i)
		var got answers
		var errs [6]error
		got.Identity, errs[0] = dev.Identity()
		got.Busy, errs[1] = dev.Busy()
		got.Memory, errs[2] = dev.Memory()
		got.Power, errs[3] = dev.Power()
		got.Temperature, errs[4] = dev.Temperature()
		got.Processes, errs[5] = dev.Processes()
		if err := errors.Join(errs[:]...); err != nil {
			t.Errorf("GPU %d: %v", i, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
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
	t.Cleanup(func() {
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
	return dev
}

func callAll(d gpu.Device) map[string]error {
	errs := map[string]error{}
	_, errs["Identity"] = d.Identity()
	_, errs["Busy"] = d.Busy()
	_, errs["Memory"] = d.Memory()
	_, errs["Power"] = d.Power()
	_, errs["Temperature"] = d.Temperature()
	_, errs["Processes"] = d.Processes()
	return errs
}
