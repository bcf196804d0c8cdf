package sim

import (
	"testing"
	"time"
)

// A week in which each hour of the week needs as many replicas as its number,
// but for its last three minutes, which need ten more.
func TestCronFollowsTheFirstWeek(t *testing.T) {
	s := pool(1)
	for i := range 3 * 7 * 24 * 60 {
		need := float64(i / 60 % (7 * 24))
		if i >= 7*24*60 {
			need = 999 // what came later nobody knew
		} else if i%60 >= 57 {
			need += 10
		}
		s.Need = append(s.Need, need)
	}
	c := newCron(s)
	for _, k := range []struct {
		day, hour, minute int
		want              int
	}{
		{0, 1, 0, 1},
		{0, 1, 53, 1},
		{0, 1, 54, 2}, // lead 5 min and a decision ahead of the next hour
		{1, 0, 0, 24},
		{7, 1, 0, 1}, // a week later
		{6, 23, 59, 167},
	} {
		at := DefaultStart.AddDate(0, 0, k.day).Add(time.Duration(k.hour)*time.Hour + time.Duration(k.minute)*time.Minute)
		mustCount(t, at.Format("Mon 15:04"), c.Decide(at, Observation{}).Count, k.want)
	}
}

func TestCronOfShortTraceIsByHourOfDay(t *testing.T) {
	s := pool(1.5)
	s.Start = DefaultStart.Add(9*time.Hour + 30*time.Minute)
	for i := range 2 * 24 * 60 {
		need := 2.0
		if (i+30)/60 == 1 { // ten to eleven of the first day
			need = 20
		}
		s.Need = append(s.Need, need)
	}
	c := newCron(s)
	mustCount(t, "nine", c.Decide(s.Start, Observation{}).Count, 3)
	// Of the 120 minutes of that hour on both days half need 20.
	mustCount(t, "ten", c.Decide(s.Start.Add(time.Hour), Observation{}).Count, 30)
	mustCount(t, "ten of the next day", c.Decide(s.Start.Add(25*time.Hour), Observation{}).Count, 30)
}
