package gpu_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/agent/nvmltest"
	"github.com/gpupool/gpupool/internal/fleet"
)

// wantDecodable checks that readers take a snapshot.
func wantDecodable(t *testing.T, s fleet.Snapshot) {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.Decode(bytes.NewReader(text)); err != nil {
		t.Errorf("readers refuse the snapshot: %v\n%s", err, text)
	}
}

// TestNonsense: a driver that tells one absurd thing is believed in all others.
func TestNonsense(t *testing.T) {
	for key, quality := range map[string]func(g fleet.GPU) fleet.Quality{
		"power_mw -5":      func(g fleet.GPU) fleet.Quality { return g.Power.Quality },
		"temp 4294967295":  func(g fleet.GPU) fleet.Quality { return g.Temperature.Quality },
		"mem_temp 70000":   func(g fleet.GPU) fleet.Quality { return g.MemoryTemperature.Quality },
		"persistence 7":    func(g fleet.GPU) fleet.Quality { return g.Persistence.Quality },
		"pcie_replays -1":  func(g fleet.GPU) fleet.Quality { return g.PCIeReplays.Quality },
		"sm_mhz 99999999":  func(g fleet.GPU) fleet.Quality { return g.Clocks.Quality },
		"energy_mj -9":     func(g fleet.GPU) fleet.Quality { return g.Energy.Quality },
		"ecc 1 -2 3 4":     func(g fleet.GPU) fleet.Quality { return g.ECC.Quality },
		"rows -1 0 0 0":    func(g fleet.GPU) fleet.Quality { return g.Rows.Quality },
		"pages 1 -1 0":     func(g fleet.GPU) fleet.Quality { return g.Pages.Quality },
		"fabric 3 -9 1":    func(g fleet.GPU) fleet.Quality { return g.Fabric.Quality },
		"nvlinks 18 18 -3": func(g fleet.GPU) fleet.Quality { return g.NVLink.Quality },
		"gpm.sm 5000":      func(g fleet.GPU) fleet.Quality { return g.Activity.Quality },
		"mem_used_mib -1":  func(g fleet.GPU) fleet.Quality { return g.MemoryUsed.Quality },
	} {
		t.Run(key, func(t *testing.T) {
			name, value, _ := strings.Cut(key, " ")
			inBubble(t, nvmltest.State{"count": "1", "gpu0.util": "30", nvmltest.GPU(0, name): value}, func(h *host) {
				s := h.after(11 * time.Second)
				wantDecodable(t, s)
				h.wantStates(s, "ok")
				if q := quality(s.GPUs[0]); q != fleet.QualityFailed {
					t.Errorf("quality is %s, want failed", q)
				}
				wantValue(t, "busy", s.GPUs[0].Busy, 0.3)
			})
		})
	}
}

// TestOneUUIDForTwo: neither is known by it.
func TestOneUUIDForTwo(t *testing.T) {
	inBubble(t, nvmltest.State{"count": "2", "gpu0.uuid": "GPU-1", "gpu1.uuid": "GPU-1"}, func(h *host) {
		s := h.after(time.Second)
		wantDecodable(t, s)
		if len(s.GPUs) != 2 || s.GPUs[1].UUID != "" {
			t.Errorf("GPUs are %+v", s.GPUs)
		}
	})
}

// TestAnyDriver leads a driver through states that chance picks, good ones, bad
// ones and absurd ones, and looks at the host all along: the sampler lives, and
// readers take every snapshot.
func TestAnyDriver(t *testing.T) {
	values := []string{"", "0", "1", "3", "50", "100", "-1", "-", "4294967295", "9223372036854775807", "1 1 1 1", "18 18 0", "0x1ff", "3 0 1"}
	keys := []string{"util", "mem_used_mib", "mem_total_mib", "mem_reserved_mib", "power_mw", "temp", "mem_temp", "throttle", "recovery", "energy_mj",
		"ecc", "rows", "pages", "fabric", "nvlinks", "mig", "gpm", "gpm.sm", "gpm.dram", "err", "lost", "persistence", "pcie_replays"}
	whole := map[string]bool{"ecc": true, "rows": true, "pages": true, "fabric": true, "nvlinks": true}
	plain := map[string]bool{"util": true, "mem_used_mib": true, "mem_total_mib": true, "mem_reserved_mib": true, "err": true, "lost": true, "gpm": true}
	good := func(key, value string) bool { // what the fake can read
		switch n := len(strings.Fields(value)); {
		case value == "" || value == "-" && !plain[key]:
			return true
		case whole[key]:
			return n == 4 || n == 3 && key != "ecc" && key != "rows"
		case plain[key]:
			_, err := strconv.Atoi(value)
			return err == nil
		default:
			return n == 1
		}
	}
	for seed := range uint64(10) {
		inBubble(t, nvmltest.State{"count": "3", "gpu0.mig.0": "MIG-1 7 0 1g.10gb 1 1", "gpu0.procs": "1000:5:7:0 2000:1"}, func(h *host) {
			r := rand.New(rand.NewPCG(seed, 0))
			for step := range 40 {
				key, value := keys[r.IntN(len(keys))], values[r.IntN(len(values))]
				if !good(key, value) {
					continue
				}
				h.set(nvmltest.State{nvmltest.GPU(r.IntN(3), key): value})
				if r.IntN(3) == 0 {
					h.xid(r.IntN(3), r.IntN(200))
				}
				s := h.after(time.Duration(r.IntN(20000)) * time.Millisecond)
				wantDecodable(t, s)
				if t.Failed() {
					t.Fatalf("seed %d, step %d: %s = %q", seed, step, key, value)
				}
			}
			for key := range h.state {
				if key != "count" {
					delete(h.state, key)
				}
			}
			h.driver.Set(nvmltest.State{"count": "3"})
			h.wantStates(h.after(10*time.Minute), "ok ok ok")
		})
	}
}
