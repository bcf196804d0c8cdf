package tune

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/plan"
)

// Param is one setting of strategy-predictive that is searched.
type Param struct {
	Key       string  // in the strategy block
	Low, High float64 // of what Set takes
	Log       bool    // equal ratios are equally far apart
	About     string  // what Low and High count

	// Alone is the share of what is tried that leaves the key as it comes. A
	// policy that chooses for itself is often best left to it.
	Alone float64

	// Set puts the value, rounded to what a person would write, into rules
	// that hold what the operator stated.
	Set func(r *plan.Rules, v float64)
	// Text is the setting's value in the strategy block.
	Text func(r plan.Rules) string
}

// alone is the share that most keys are left alone for.
const alone = 0.4

// params is every setting that is searched; a new one is a row here. Each key
// must be one that the plugin takes: a test of the plugin reads them all.
var params = []Param{
	{
		Key: "slo", Low: 0.2, High: 5, Log: true, About: "times the share that may be late",
		Set:  func(r *plan.Rules, v float64) { r.SLO = 1 - min(max(twoDigits((1-r.SLO)*v), 0.0001), 0.5) },
		Text: func(r plan.Rules) string { return percentage(r.SLO) },
	},
	{
		Key: "wear", Low: 60, High: 7200, Log: true, About: "seconds", Alone: alone,
		Set:  func(r *plan.Rules, v float64) { r.Wear = seconds(v).Round(time.Minute) },
		Text: func(r plan.Rules) string { return short(r.Wear) },
	},
	{
		Key: "scale_in_after", Low: 120, High: 7200, Log: true, About: "seconds", Alone: alone,
		Set:  func(r *plan.Rules, v float64) { r.ScaleInAfter = seconds(v).Round(time.Minute) },
		Text: func(r plan.Rules) string { return short(r.ScaleInAfter) },
	},
	{
		Key: "lead_time", Low: 1, High: 2, About: "times the real one", Alone: alone,
		Set:  func(r *plan.Rules, v float64) { r.Lead = time.Duration(v * float64(r.Lead)).Round(10 * time.Second) },
		Text: func(r plan.Rules) string { return short(r.Lead) },
	},
	{
		Key: "utilization", Low: 0.7, High: 1, About: "share", Alone: alone,
		Set:  func(r *plan.Rules, v float64) { r.Utilization = math.Round(v*100) / 100 },
		Text: func(r plan.Rules) string { return percentage(r.Utilization) },
	},
}

// Params returns every setting that is searched.
func Params() []Param { return append([]Param(nil), params...) }

// at is the value at u of the way, 0 to 1: none for the first part of it, then
// from Low to High.
func (p Param) at(u float64) float64 {
	if u < p.Alone {
		return math.NaN()
	}
	u = (u - p.Alone) / (1 - p.Alone)
	if p.Log {
		return p.Low * math.Pow(p.High/p.Low, u)
	}
	return p.Low + u*(p.High-p.Low)
}

// Setting is a value for each of the parameters, NaN where it is left as it
// comes. A nil one leaves all of them.
type Setting []float64

// apply puts the setting into rules.
func (s Setting) apply(ps []Param, r *plan.Rules) {
	for i, v := range s {
		if !math.IsNaN(v) {
			ps[i].Set(r, v)
		}
	}
}

// texts is the setting as it would be written, by key.
func (s Setting) texts(ps []Param, r plan.Rules) map[string]string {
	s.apply(ps, &r)
	out := make(map[string]string, len(s))
	for i, v := range s {
		if !math.IsNaN(v) {
			out[ps[i].Key] = ps[i].Text(r)
		}
	}
	return out
}

func seconds(v float64) time.Duration { return time.Duration(v * float64(time.Second)) }

// twoDigits rounds to two significant digits.
func twoDigits(v float64) float64 {
	v, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 2, 64), 64)
	if err != nil { // it was a number when it was written
		return math.NaN()
	}
	return v
}

// percentage is a share as the plugin reads it: "85%".
func percentage(v float64) string {
	return strconv.FormatFloat(math.Round(v*1e8)/1e6, 'f', -1, 64) + "%"
}

// short is a duration without zero parts: "5m", not "5m0s".
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
