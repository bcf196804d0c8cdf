package board

import (
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/pool"
)

func TestPrint(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var b strings.Builder
	err := Print(&b, Pool{
		Name:   "h100",
		Want:   &consul.Want{Count: 2, Reason: "scaling out from 1 to 2: demand 3 of 2 a replica"},
		Demand: &Demand{Allocated: 2, Queued: 1},
		Status: &consul.Status{
			At: now.Add(-2 * time.Second), Holder: "ctl-1:4711", Note: "1 more wanted, but no host is left to power on",
			Hosts: []consul.HostStatus{
				{ID: "gpu-1", Power: "on", Phase: "ready", GPUs: 2, GPUsBusy: 2, Since: now.Add(-90 * time.Second)},
				{ID: "gpu-2", Power: "on", Phase: "booting", GPUs: 2, Why: "waiting for its Nomad node", Since: now.Add(-3 * time.Second)},
				{ID: "gpu-3", Power: "off", Phase: "off", GPUs: 16, GPUsBusy: 0, Since: now.Add(-50 * time.Hour)},
			},
		},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	want := `pool h100   want 2   ready 1 of 3   demand 3 GPUs (2 held, 1 queued)
  because scaling out from 1 to 2: demand 3 of 2 a replica
  note: 1 more wanted, but no host is left to power on
  HOST   POWER  PHASE    FOR    GPUS BUSY  WHY
  gpu-1  on     ready    1m30s  ■■         
  gpu-2  on     booting  3s     □□         waiting for its Nomad node
  gpu-3  off    off      2d2h   0/16       
  seen 2s ago by ctl-1:4711
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}

func TestPrintWhatIsNotKnown(t *testing.T) {
	var b strings.Builder
	if err := Print(&b, Pool{Name: "h100"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"want ?", "no process has acted on it yet"} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("%q is not in %q", part, b.String())
		}
	}
}

func TestPrintClassesWordsAndTimes(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var b strings.Builder
	err := Print(&b, Pool{
		Name: "mixed",
		Status: &consul.Status{
			At: now, Holder: "ctl-1:4711", Watts: 10400,
			Hosts: []consul.HostStatus{
				{ID: "gpu-1", Class: "owned", Power: "on", Phase: "ready", GPUs: 2, Watts: 10400, Since: now},
				{ID: "gpu-2", Class: "rented", Power: "off", Phase: "held", GPUs: 2, Since: now, Why: "held by ann@desk"},
			},
		},
		Words: map[string]pool.Said{
			"gpu-2": {Word: pool.WordHold, Reason: "fan 3 is loud", By: "ann@desk", At: now.Add(-2 * time.Hour)},
			"gpu-1": {Word: pool.WordHold},
		},
		Times: map[string]pool.Times{
			"owned": {Boot: pool.Took{Last: []float64{212, 240}}, Stop: pool.Took{Last: []float64{8}}},
			"new":   {},
		},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	want := `pool mixed   want ?   ready 1 of 2   about 10.4 kW
  HOST   CLASS   POWER  PHASE  FOR  GPUS BUSY  WHY
  gpu-1  owned   on     ready  0s   □□         
  gpu-2  rented  off    held   0s   □□         held by ann@desk
  said of gpu-1: hold, by nobody known
  said of gpu-2: hold, by ann@desk 2h00m ago: fan 3 is loud
  hosts of owned take 3m32s to boot (p95 4m00s), 8s to stop (p95 8s)
  seen 0s ago by ctl-1:4711
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}
