package live

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
)

// counted is a power controller that counts how often it is asked.
type counted struct{ asked int }

func (c *counted) State(context.Context) (pool.Power, error) { c.asked++; return pool.PowerOff, nil }
func (c *counted) On(context.Context) error                  { return nil }
func (c *counted) Off(context.Context, power.Off) error      { return nil }
func (c *counted) Close() error                              { return nil }

// TestSteadyBMCsAreLeftInPeace: a host that nothing happens to is asked once in
// PowerRest, and one that was acted on in every sweep for a while. The time of
// a reading is when it was read, not when it was told again.
func TestSteadyBMCsAreLeftInPeace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bmc := &counted{}
		site := NewSite(SiteConfig{Hosts: []Host{{pool.Host{ID: "a"}, bmc}}, PowerRest: 20 * time.Second})
		sweep := func(times int) (last pool.View) {
			for range times {
				views := make([]pool.View, 1)
				site.seePower(t.Context(), views)
				last = views[0]
				time.Sleep(5 * time.Second)
			}
			return last
		}
		v := sweep(8) // at 0, 5, ... 35 s: read at 0 and at 20
		if bmc.asked != 2 {
			t.Errorf("asked %d times in 40 s, not 2", bmc.asked)
		}
		if age := time.Since(v.PowerAt); v.Power != pool.PowerOff || age != 20*time.Second {
			t.Errorf("told %s, %s old", v.Power, age)
		}
		if err := site.Act(t.Context(), pool.View{Host: pool.Host{ID: "a"}}, pool.TurnOn); err != nil {
			t.Fatal(err)
		}
		bmc.asked = 0
		sweep(10)
		if bmc.asked != 10 {
			t.Errorf("asked %d times in 10 sweeps after an act", bmc.asked)
		}
		sweep(20)
		bmc.asked = 0
		sweep(8)
		if bmc.asked != 2 {
			t.Errorf("asked %d times in 40 s once it is steady again", bmc.asked)
		}
	})
}
