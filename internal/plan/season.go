package plan

import "time"

// A season is one cycle of demand, mostly a day. Forecast and replay know days
// only: for another season they live in the time of a day, which passes as much
// faster as the season is shorter. So all that was measured on days holds for
// it, in proportion: a decision on demand that repeats each three hours is the
// one that would be made on the same curve stretched to a day, with a lead time
// eight times as long.

// leastSeason is the shortest: the values that forecasts are made from are then
// 20 ms apart.
const leastSeason = time.Minute

// Of is the part of a season that d is of a day: where the season is a day, d.
func (r Rules) Of(d time.Duration) time.Duration {
	if r.Season == 0 || r.Season == day {
		return d
	}
	return time.Duration(float64(d) / float64(day) * float64(r.Season))
}

// stretched is the part of a day that d is of a season, the inverse of Of.
func (r Rules) stretched(d time.Duration) time.Duration {
	if r.Season == day {
		return d
	}
	return time.Duration(float64(d) / float64(r.Season) * float64(day))
}

// onDays is the rules in the time of a day.
func (r Rules) onDays() Rules {
	if r.Season == day {
		return r
	}
	for _, d := range []*time.Duration{&r.Lead, &r.Interval, &r.Wait, &r.Wear, &r.Service, &r.Smooth, &r.DrainTime, &r.ScaleInAfter, &r.StaleAfter} {
		*d = r.stretched(*d)
	}
	r.ReplicaPrice *= float64(r.Season) / float64(day) // of an hour, which is longer now
	r.Season = day
	return r
}

// recently is the time over which the load now is averaged, in words.
func (r Rules) recently() string {
	if r.Season == day {
		return "two minutes"
	}
	return r.Of(2 * time.Minute).String()
}

// cycle is the season in words.
func (r Rules) cycle() string {
	if r.Season == day {
		return "a day"
	}
	return "a season of " + short(r.Season)
}
