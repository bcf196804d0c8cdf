package board

import (
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/consul"
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
