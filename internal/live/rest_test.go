package live

import (
	"context"
	"fmt"
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
		site := NewSite(SiteConfig{Hosts: []Host{{Host: pool.Host{ID: "a"}, Driver: bmc}}, PowerRest: 20 * time.Second})
		sweep := func(times int) (last pool.View) {
			for range times {
				views := make([]pool.View, 1)
				site.seePower(t.Context(), views)
				last = views[0]
				time.Sleep(5 * time.Second)
			}
			return last
		}
		v := sweep(80) // every 5 s: read again after 10, 15 or 20 s
		if bmc.asked < 400/20 || bmc.asked > 400/10 {
			t.Errorf("asked %d times in 400 s, not 20 to 40", bmc.asked)
		}
		if age := time.Since(v.PowerAt); v.Power != pool.PowerOff || age > 20*time.Second || age%(5*time.Second) != 0 {
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
		sweep(80)
		if bmc.asked > 40 {
			t.Errorf("asked %d times in 400 s once it is steady again", bmc.asked)
		}
	})
}

// TestReadingsSpread: hosts that were first read together are not read together
// for ever.
func TestReadingsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hosts []Host
		var bmcs []*counted
		for i := range 200 {
			bmcs = append(bmcs, &counted{})
			hosts = append(hosts, Host{Host: pool.Host{ID: fmt.Sprint("h", i)}, Driver: bmcs[i]})
		}
		site := NewSite(SiteConfig{Hosts: hosts, PowerRest: 20 * time.Second})
		most := 0
		for sweep := range 40 {
			before := 0
			for _, b := range bmcs {
				before += b.asked
			}
			site.seePower(t.Context(), make([]pool.View, len(hosts)))
			after := 0
			for _, b := range bmcs {
				after += b.asked
			}
			if sweep > 20 { // by when they have drifted apart
				most = max(most, after-before)
			}
			time.Sleep(time.Second)
		}
		if most > 50 { // 200 hosts, each read about every 15 s, is some 13 a second
			t.Errorf("%d of 200 power controllers were asked in one sweep", most)
		}
	})
}
