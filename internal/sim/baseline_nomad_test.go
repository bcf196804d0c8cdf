package sim

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The page of the target-value plugin: with the target at 70, ten instances
// and 80 % used the factor is 1.142857, and 11.43 is rounded up to 12.
func TestTargetValueIsThePluginsOwn(t *testing.T) {
	for _, c := range []struct {
		name          string
		wanted, ready int
		busy, rate    float64 // a request holds a slot for 10 s
		util, load    int
	}{
		{"the page's example", 10, 10, 80, 8, 12, 12},
		{"within the dead band of 1 %", 10, 10, 70.6, 7.06, 10, 10},
		{"just out of it", 10, 10, 70.8, 7.08, 11, 11},
		{"half used", 10, 10, 35, 3.5, 5, 5},
		{"half of them start: all are multiplied", 10, 5, 40, 4, 12, 12},
		{"overloaded: 100 % against 150 %", 10, 10, 100, 15, 15, 22},
		{"none ready", 3, 0, 0, 5, 3, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := steady(c.wanted, c.ready, sample{busy: c.busy, rate: c.rate, end: c.busy / 10})
			mustCount(t, "by utilization", newTargetValue("", utilization)(pool(0.7)).Decide(noon, o).Count, c.util)
			mustCount(t, "by load", newTargetValue("", requestLoad)(pool(0.7)).Decide(noon, o).Count, c.load)
		})
	}
}

func TestNomadCapsTheCount(t *testing.T) {
	s := pool(0.7)
	s.Min, s.Max = 6, 11
	p := newTargetValue("", utilization)(s)
	mustCount(t, "up", p.Decide(noon, steady(10, 10, sample{busy: 90})).Count, 11)
	p = newTargetValue("", utilization)(s)
	mustCount(t, "down", p.Decide(noon, steady(10, 10, sample{busy: 10})).Count, 6)
}

func TestNomadCoolsDown(t *testing.T) {
	p := newTargetValue("", utilization)(pool(0.7))
	m := metrics{at: noon.Add(-5 * time.Minute)}
	m.until(noon.Add(10*time.Minute), sample{ready: 10, busy: 80})
	mustCount(t, "at once", p.Decide(noon, m.see(10, 10)).Count, 12)
	mustCount(t, "in cooldown", p.Decide(noon.Add(4*time.Minute), m.see(12, 10)).Count, 12)
	// 80 % is of the ten that serve, and yet all twelve are multiplied.
	mustCount(t, "after it", p.Decide(noon.Add(5*time.Minute), m.see(12, 10)).Count, 14)
}

// Where there is nothing to do there is no cooldown either.
func TestNomadStaysIdleWithoutAnAction(t *testing.T) {
	p := newTargetValue("", utilization)(pool(0.7))
	mustCount(t, "on target", p.Decide(noon, steady(10, 10, sample{busy: 70})).Count, 10)
	o := steady(10, 10, sample{busy: 80})
	mustCount(t, "a minute later", p.Decide(noon.Add(time.Minute), o).Count, 12)
}

func TestThresholdIsThePluginsOwn(t *testing.T) {
	for _, c := range []struct {
		name string
		busy float64
		want int
	}{
		{"above: 30 % more", 71, 13},
		{"the bound itself is inside", 70, 13},
		{"between the bounds", 60, 10},
		{"upper_bound is exclusive", 50, 10},
		{"below: 10 % less", 49, 9},
	} {
		p := newThreshold(pool(0.7))
		mustCount(t, c.name, p.Decide(noon, steady(10, 10, sample{busy: c.busy})).Count, c.want)
	}
}

// within_bounds_trigger is 5 points of the query, which a sample fills in as
// many seconds.
func TestThresholdNeedsFivePoints(t *testing.T) {
	m := metrics{at: noon.Add(-10 * time.Minute)}
	m.until(noon.Add(-30*time.Second), sample{ready: 10, busy: 60})
	m.until(noon, sample{ready: 10, busy: 100}) // 70 in the mean of two minutes
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 10}, {3 * time.Second, 10}, {4 * time.Second, 13}} {
		p := newThreshold(pool(0.7))
		mustCount(t, c.after.String(), p.Decide(noon.Add(c.after), m.see(10, 10)).Count, c.want)
	}
}

// The plugins' package must not bring the clouds' libraries into the command.
func TestPluginsBringNoCloudLibraries(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"aws", "azure", "cloud.google.com", "prometheus/client_golang/api"} {
		if strings.Contains(string(out), name) {
			t.Errorf("the simulator depends on %s", name)
		}
	}
}
