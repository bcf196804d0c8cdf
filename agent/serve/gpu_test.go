package serve_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gpupool/gpupool/agent/serve"
	"github.com/gpupool/gpupool/internal/fleet"
)

// wholeAndDivided has a GPU of which everything is known, and one in two MIG
// devices.
func wholeAndDivided() fleet.Snapshot {
	value := func(x float64) fleet.Value { return fleet.Value{Quality: fleet.QualityOK, Value: &x} }
	x := func(x float64) *float64 { return &x }
	n := func(n int64) *int64 { return &n }
	yes := true
	ok, none := fleet.Read{Quality: fleet.QualityOK}, fleet.Read{Quality: fleet.QualityUnsupported}
	memory := int64(5)
	return fleet.Snapshot{
		Schema: fleet.Schema,
		Node:   "gpu-01",
		At:     time.Unix(1_800_000_000, 0).UTC(),
		Driver: fleet.Driver{State: fleet.DriverOK, Version: "580.1", Epoch: 1},
		GPUs: []fleet.GPU{
			{
				Index: 0, UUID: "GPU-whole", Name: "NVIDIA H200", PCI: "00000000:01:00.0", State: fleet.StateOK,
				Health: fleet.Health{Verdict: fleet.HealthDegraded, Action: fleet.ActionReset, Why: []string{"x"}},
				Busy:   value(0.87), MemoryUsed: value(70 << 20), MemoryReserved: value(10 << 20), MemoryTotal: value(100 << 20),
				Power: value(412.5), PowerLimit: value(700), Energy: value(1234.5), Temperature: value(71), MemoryTemperature: value(88),
				Persistence: value(1), PCIeReplays: value(4),
				Activity: fleet.Activity{Read: ok, Seconds: 10, SM: x(0.32), SMOccupancy: x(0.12), Tensor: x(0.2), DRAM: x(0.55), Graphics: x(0.99)},
				Clocks:   fleet.Clocks{Read: ok, SM: x(1.98e9), Memory: x(2.619e9)},
				Throttle: fleet.Throttle{Read: ok, Reasons: []string{"sw_power_cap"}, Total: map[string]float64{"sw_power_cap": 12, "hw_thermal": 3}},
				XIDs: fleet.XIDs{Quality: fleet.QualityOK, List: []fleet.XID{
					{Code: 45, Class: fleet.XIDApplication, Count: 7, Age: 100}, {Code: 95, Class: fleet.XIDReset, Count: 1, Age: 30, Open: true},
				}},
				ECC:      fleet.ECC{Read: ok, Enabled: &yes, Corrected: n(1), Uncorrected: n(2), CorrectedEver: n(30), UncorrectedEver: n(4)},
				Rows:     fleet.Rows{Read: ok, Corrected: 1, Uncorrected: 2, Pending: true},
				Pages:    fleet.Pages{Read: ok, SingleBit: n(5), DoubleBit: n(6)},
				Recovery: fleet.Recovery{Read: ok, Action: "drain-and-reset"},
				Fabric:   fleet.Fabric{Read: ok, State: "completed", Health: "healthy"},
				NVLink:   fleet.NVLink{Read: ok, Links: 18, Active: 17, Errors: n(9)},
				MIG:      fleet.MIG{Read: ok},
				Grants:   fleet.Grants{Quality: fleet.QualityOK, List: []fleet.Grant{{Alloc: alloc, Job: "train", Task: "train"}}},
				Processes: fleet.Processes{Quality: fleet.QualityOK, Total: 1, List: []fleet.Process{
					{PID: 1, Alloc: alloc, Task: "train", Memory: &memory, Foreign: true, Over: true}}},
			},
			{
				Index: 1, UUID: "GPU-divided", Name: "NVIDIA H200", PCI: "00000000:02:00.0", State: fleet.StateOK,
				Health: fleet.Health{Verdict: fleet.HealthOK}, Busy: fleet.Value{Quality: fleet.QualityUnsupported}, Activity: fleet.Activity{Read: none},
				ECC: fleet.ECC{Read: fleet.Read{Quality: fleet.QualityStale}, Corrected: n(1)}, // stale is not shown
				MIG: fleet.MIG{Read: ok, Enabled: true, Devices: []fleet.MIGDevice{
					{UUID: "MIG-a", Profile: "1g.18gb", GPUInstance: 7, MemoryUsed: value(1 << 20), MemoryTotal: value(18 << 20),
						Activity: fleet.Activity{Read: ok, SM: x(0.5)}, Processes: 2, Outside: 1},
					{UUID: "MIG-b", Profile: "2g.35gb", GPUInstance: 5, MemoryUsed: fleet.Value{Quality: fleet.QualityUnknown}},
				}},
				Processes: fleet.Processes{Quality: fleet.QualityOK, Total: 2, Outside: 1},
			},
		},
	}
}

// TestGPUMetrics holds the metrics of the two GPUs against testdata/gpu.txt and
// testdata/dcgm.txt, which -update writes anew for you to read.
func TestGPUMetrics(t *testing.T) {
	h := serve.Handler(serve.Config{Snapshot: wholeAndDivided, Aliases: true})
	got := scrape(t, h)
	for file, prefixes := range map[string][]string{
		"testdata/gpu.txt":  {"gpupool_gpu_", "gpupool_mig_", "gpupool_allocation_"},
		"testdata/dcgm.txt": {"DCGM_"},
	} {
		var b strings.Builder
		for _, series := range slices.Sorted(maps.Keys(got)) {
			if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(series, p) }) {
				fmt.Fprintf(&b, "%s %v\n", series, got[series])
			}
		}
		if *update {
			if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")); diff != "" {
			t.Errorf("%s differs (-want +got):\n%s", file, diff)
		}
	}
}

// TestOddHost: what should not be does not cost the rest.
func TestOddHost(t *testing.T) {
	s := wholeAndDivided()
	s.GPUs[0].Name = "NVIDIA \xff\xfe"
	s.GPUs[1].UUID = s.GPUs[0].UUID
	s.GPUs[1].MIG.Devices[1].GPUInstance = s.GPUs[1].MIG.Devices[0].GPUInstance // two compute instances
	s.GPUs[1].MIG.Devices[1].MemoryUsed = s.GPUs[1].MIG.Devices[0].MemoryUsed
	got := scrape(t, serve.Handler(serve.Config{Snapshot: func() fleet.Snapshot { return s }, Aliases: true}))
	for _, want := range []string{
		`gpupool_gpu_info{gpu="GPU-whole",index="0",name="NVIDIA ?",pci="00000000:01:00.0"}`,
		`gpupool_gpu_busy_ratio{gpu="GPU-whole"}`, `gpupool_driver_up{}`,
	} {
		if _, ok := got[want]; !ok {
			t.Errorf("no series %s", want)
		}
	}
	parts := 0
	for series := range got {
		if strings.HasPrefix(series, "DCGM_FI_DEV_FB_USED{") && strings.Contains(series, `GPU_I_ID="7"`) {
			parts++
		}
	}
	if parts != 1 {
		t.Errorf("%d series of one GPU instance, want 1", parts)
	}
}

func TestAliasesAreAnOption(t *testing.T) {
	for series := range scrape(t, serve.Handler(serve.Config{Snapshot: wholeAndDivided})) {
		if strings.HasPrefix(series, "DCGM_") {
			t.Errorf("%s, which nobody asked for", series)
		}
	}
}
