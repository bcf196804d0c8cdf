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

	// Set puts the value, rounded to what a person would write, into rules
	// that hold what the operator stated.
	Set func(r *plan.Rules, v float64)
	// Text is the setting's value in the strategy block.
	Text func(r plan.Rules) string
}

// params is every setting that is searched; a new one is a row here. Each key
// must be one that the plugin takes: a test compares with its reference page.
var params = []Param{
	{
		Key: "utilization", Low: 0.5, High: 1, About: "share",
		Set:  func(r *plan.Rules, v float64) { r.Utilization = math.Round(v*100) / 100 },
		Text: func(r plan.Rules) string { return strconv.FormatFloat(r.Utilization, 'g', -1, 64) },
	},
	{
		Key: "lead_time", Low: 1, High: 2, About: "times the real one",
		Set:  func(r *plan.Rules, v float64) { r.Lead = time.Duration(v * float64(r.Lead)).Round(10 * time.Second) },
		Text: func(r plan.Rules) string { return short(r.Lead) },
	},
	{
		Key: "scale_in_after", Low: 120, High: 7200, Log: true, About: "seconds",
		Set: func(r *plan.Rules, v float64) {
			r.ScaleInAfter = time.Duration(v * float64(time.Second)).Round(time.Minute)
		},
		Text: func(r plan.Rules) string { return short(r.ScaleInAfter) },
	},
}

// Params returns every setting that is searched.
func Params() []Param { return append([]Param(nil), params...) }

// at is the value at u of the way, 0 to 1, from Low to High.
func (p Param) at(u float64) float64 {
	if p.Log {
		return p.Low * math.Pow(p.High/p.Low, u)
	}
	return p.Low + u*(p.High-p.Low)
}

// Setting is a value for each of the parameters. A nil one leaves all of them
// as they come.
type Setting []float64

// apply puts the setting into rules.
func (s Setting) apply(ps []Param, r *plan.Rules) {
	for i, v := range s {
		ps[i].Set(r, v)
	}
}

// texts is the setting as it would be written, by key.
func (s Setting) texts(ps []Param, r plan.Rules) map[string]string {
	s.apply(ps, &r)
	out := make(map[string]string, len(s))
	for i := range s {
		out[ps[i].Key] = ps[i].Text(r)
	}
	return out
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
