package sim

import (
	"math"
	"testing"
	"time"
)

func TestAWSForecastIsSeasonal(t *testing.T) {
	load := make([]float64, 48)
	for h := range load {
		load[h] = float64(100*(h/24) + h%24) // 100 more on the second day
	}
	f := awsForecast(load)
	if len(f) != 48 {
		t.Fatalf("%d hours ahead, want 48", len(f))
	}
	// Yesterday weighs 1, the day before 0.7; both days ahead are alike.
	near(t, "hour 5", f[5], (105+0.7*5)/1.7, 1e-9)
	near(t, "hour 5 of the day after", f[29], (105+0.7*5)/1.7, 1e-9)

	load[29] = math.NaN()
	near(t, "hour 5 without yesterday's", awsForecast(load)[5], 5, 1e-9)
}

func TestAWSForecastLearnsTheWeek(t *testing.T) {
	load := make([]float64, 7*24)
	for h := range load {
		load[h] = 10
	}
	load[3] = 80 // Monday at three
	days, weights, w := 0.0, 0.0, 1.0
	for d := 6; d >= 0; d-- {
		days += w * load[d*24+3]
		weights += w
		w *= 0.7
	}
	near(t, "next Monday at three", awsForecast(load)[3], (days/weights+80)/2, 1e-9)
	near(t, "Tuesday at three", awsForecast(load)[27], (days/weights+10)/2, 1e-9)
}

// twoDays feeds two days with 1 request a second at night and 6 from ten to
// noon, each of which holds a slot for ten seconds: at a target of 0.5 that is
// 2 replicas of ten slots, and 12.
func twoDays(until time.Time) *metrics {
	m := &metrics{at: DefaultStart.Add(30 * time.Second)}
	for h := DefaultStart; h.Before(until); h = h.Add(time.Hour) {
		rate := 1.0
		if h.Hour() == 10 || h.Hour() == 11 {
			rate = 6
		}
		m.until(h.Add(time.Hour), sample{ready: 12, busy: 10 * rate, rate: rate, end: rate})
	}
	return m
}

// PredictiveScalingConfiguration in the API reference: with five minutes of
// buffer, instances for 10:00 are launched at 9:55.
func TestAWSLaunchesAheadOfTheHour(t *testing.T) {
	ten := DefaultStart.Add(2*24*time.Hour + 10*time.Hour)
	m := twoDays(ten)
	for _, c := range []struct {
		at   time.Time
		want int
	}{
		{ten.Add(-6 * time.Minute), 2},
		{ten.Add(-5 * time.Minute), 12},
		{ten, 12},
		{ten.Add(time.Hour), 12},
		{ten.Add(2*time.Hour - time.Minute), 12},
	} {
		a := newAWSPredictive(pool(0.5))
		o := m.see(2, 2)
		mustCount(t, c.at.Format("15:04"), a.Decide(c.at, o).Count, c.want)
	}
}

// The forecast never scales in: after its hour only tracking does, once 15
// minutes were below nine tenths of the target.
func TestAWSScalesInByTrackingOnly(t *testing.T) {
	noon := DefaultStart.Add(2*24*time.Hour + 12*time.Hour)
	m := twoDays(noon.Add(time.Hour))
	a := newAWSPredictive(pool(0.5))
	n := 12
	for at := noon.Add(-time.Minute); ; at = at.Add(time.Minute) {
		if n = a.Decide(at, m.see(n, n)).Count; n < 12 {
			// The minute up to 12:01 is the first that is below.
			if want := noon.Add(15 * time.Minute); !at.Equal(want) {
				t.Errorf("scaled in at %s, want %s", at.Format("15:04"), want.Format("15:04"))
			}
			break
		}
		if at.After(noon.Add(time.Hour)) {
			t.Fatal("never scaled in")
		}
	}
	mustCount(t, "then in proportion", n, 2)
}

func TestAWSNeedsADayOfHistory(t *testing.T) {
	a := newAWSPredictive(pool(0.5)).(*awsPredictive)
	m := twoDays(DefaultStart.Add(23 * time.Hour))
	a.record(m.o)
	if _, ok := a.expected(DefaultStart.Add(23*time.Hour + time.Minute)); ok {
		t.Error("forecast after 23 hours")
	}
	m.until(DefaultStart.Add(24*time.Hour+time.Minute), sample{ready: 12, busy: 10, rate: 1, end: 1})
	a.record(m.o)
	if _, ok := a.expected(DefaultStart.Add(24*time.Hour + time.Minute)); !ok {
		t.Error("no forecast after 24 hours")
	}
}

func TestAWSRefreshesEverySixHours(t *testing.T) {
	a := newAWSPredictive(pool(0.5)).(*awsPredictive)
	var made []int
	m := &metrics{at: DefaultStart.Add(30 * time.Second)}
	for h := 1; h <= 40; h++ {
		at := DefaultStart.Add(time.Duration(h)*time.Hour + time.Minute)
		m.until(at, sample{ready: 1, rate: 1})
		a.record(m.o)
		if a.expected(at); a.forecast != nil && (len(made) == 0 || made[len(made)-1] != a.made) {
			made = append(made, a.made)
		}
	}
	if len(made) != 3 || made[0] != 24 || made[1] != 30 || made[2] != 36 {
		t.Errorf("forecasts made at hours %v, want 24, 30, 36", made)
	}
}

// Target tracking, at 50 % of ten slots: 60 busy slots need 12 replicas.
func TestAWSTracksInProportion(t *testing.T) {
	for _, c := range []struct {
		name          string
		wanted, ready int
		rate          float64
		want          int
	}{
		{"above", 8, 8, 6, 12},
		{"what starts is counted", 14, 8, 6, 14},
		{"below, within a tenth", 13, 13, 6, 13},
		{"below", 20, 20, 6, 12},
		{"below, but some start", 20, 18, 6, 20},
	} {
		a := newAWSPredictive(pool(0.5))
		o := steady(c.wanted, c.ready, sample{busy: 10 * c.rate, rate: c.rate, end: c.rate})
		for at := -20 * time.Minute; at < 0; at += time.Minute {
			a.Decide(noon.Add(at), o)
		}
		mustCount(t, c.name, a.Decide(noon, o).Count, c.want)
	}
}

func TestAWSWaitsForThreeMinutesAbove(t *testing.T) {
	a := newAWSPredictive(pool(0.5))
	m := metrics{at: noon.Add(-30 * time.Minute)}
	m.until(noon, sample{ready: 8, busy: 40, rate: 4, end: 4})
	a.Decide(noon, m.see(8, 8))
	m.until(noon.Add(10*time.Minute), sample{ready: 8, busy: 60, rate: 6, end: 6})
	for minute, want := range []int{8, 8, 12} {
		mustCount(t, "above", a.Decide(noon.Add(time.Duration(minute+1)*time.Minute), m.see(8, 8)).Count, want)
	}
}
