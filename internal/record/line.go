package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
)

const (
	magic   = "gpupool-decisions"
	version = 2

	maxLine  = 1 << 20 // bytes, the line's end included
	maxChunk = 4096    // samples of one series in a line
)

// line is every kind of line. Members are added under a new version only.
type line struct {
	// Of a header.
	Log     string    `json:"log,omitempty"`
	Version int       `json:"version,omitempty"`
	Program string    `json:"program,omitempty"`
	Opened  time.Time `json:"opened,omitzero"`

	// Of the other lines.
	Pool     string          `json:"pool,omitempty"`
	Check    string          `json:"check,omitempty"`
	Query    string          `json:"query,omitempty"`
	At       time.Time       `json:"at,omitzero"`
	Count    int             `json:"count,omitempty"` // before the decision
	Decision *decision       `json:"decision,omitempty"`
	Rules    json.RawMessage `json:"rules,omitempty"`
	Service  string          `json:"service,omitempty"` // a duration
	Starting []time.Time     `json:"starting,omitempty"`
	Floor    *bound          `json:"floor,omitempty"`
	Ceiling  *bound          `json:"ceiling,omitempty"`
	Demand   *samples        `json:"demand,omitempty"`
	Load     *samples        `json:"load,omitempty"`
	Queue    *samples        `json:"queue,omitempty"`

	Approximate bool `json:"approximate,omitempty"` // the series cannot be rebuilt to the last sample
	Lost        int  `json:"lost,omitempty"`        // decisions before this one that were not written
}

// bound is a floor or a ceiling that a schedule asked for. Since version 2.
type bound struct {
	Count int    `json:"count"`
	Why   string `json:"why,omitempty"`
}

// newBound is the bound, or nil where there is none.
func newBound(n int, why string) *bound {
	if n == 0 && why == "" {
		return nil
	}
	return &bound{n, why}
}

// samples is a series as one decision saw it: so many samples from the first
// one on, of which those at and after At are written here.
type samples struct {
	From   time.Time `json:"from,omitzero"`
	Count  int       `json:"count,omitempty"`
	At     time.Time `json:"at,omitzero"`
	Gap    int64     `json:"gap_ns,omitempty"`  // between all neighbours,
	Gaps   []int64   `json:"gaps_ns,omitempty"` // or between each two
	Values []float64 `json:"values,omitempty"`
}

type decision struct {
	Count  int       `json:"count"`
	Rule   plan.Rule `json:"rule"`
	Reason string    `json:"reason"`
	Terms  []term    `json:"terms,omitempty"`
}

type term struct {
	Name  string `json:"name"`
	Value number `json:"value"`
	Unit  string `json:"unit,omitempty"`
	Note  string `json:"note,omitempty"`
}

// number is a float64 that may also be what JSON has no number for.
type number float64

var notNumbers = map[string]float64{`"NaN"`: math.NaN(), `"+Inf"`: math.Inf(1), `"-Inf"`: math.Inf(-1)}

// MarshalJSON writes the number, or its name in quotes.
func (n number) MarshalJSON() ([]byte, error) {
	v := float64(n)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return fmt.Appendf(nil, `"%+v"`, v), nil
	}
	return json.Marshal(v)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (n *number) UnmarshalJSON(b []byte) error {
	if v, ok := notNumbers[strings.Replace(string(b), "+NaN", "NaN", 1)]; ok {
		*n = number(v)
		return nil
	}
	return json.Unmarshal(b, (*float64)(n))
}

func encodeDecision(d plan.Decision) *decision {
	out := &decision{Count: d.Count, Rule: d.Rule, Reason: d.Reason}
	for _, t := range d.Terms {
		out.Terms = append(out.Terms, term{t.Name, number(t.Value), t.Unit, t.Note})
	}
	return out
}

func (d *decision) decode() plan.Decision {
	out := plan.Decision{Count: d.Count, Rule: d.Rule, Reason: d.Reason}
	for _, t := range d.Terms {
		out.Terms = append(out.Terms, plan.Term{Name: t.Name, Value: float64(t.Value), Unit: t.Unit, Note: t.Note})
	}
	return out
}

// newSamples is the part news of the series s.
func newSamples(s, news demand.Series) *samples {
	if len(s) == 0 {
		return nil
	}
	out := &samples{From: s[0].At.UTC(), Count: len(s)}
	out.put(news)
	return out
}

func (m *samples) put(news demand.Series) {
	if len(news) == 0 {
		return
	}
	m.At = news[0].At.UTC()
	for i, p := range news {
		m.Values = append(m.Values, p.Value)
		if i > 0 {
			m.Gaps = append(m.Gaps, int64(p.At.Sub(news[i-1].At)))
		}
	}
	if len(m.Gaps) > 0 && slices.Max(m.Gaps) == slices.Min(m.Gaps) {
		m.Gap, m.Gaps = m.Gaps[0], nil
	}
}

// news is the samples that are written here.
func (m *samples) news() (demand.Series, error) {
	if len(m.Gaps) > 0 && len(m.Gaps) != len(m.Values)-1 {
		return nil, fmt.Errorf("%d gaps between %d values", len(m.Gaps), len(m.Values))
	}
	points := make([]demand.Point, len(m.Values))
	at := m.At
	for i, v := range m.Values {
		if i > 0 {
			gap := m.Gap
			if len(m.Gaps) > 0 {
				gap = m.Gaps[i-1]
			}
			at = at.Add(time.Duration(gap))
		}
		points[i] = demand.Point{At: at, Value: v}
	}
	return demand.New(points)
}

// Words are the rules that were not left at their defaults, as "name value".
func Words(r plan.Rules) []string {
	var words []string
	v := reflect.ValueOf(r)
	for i := range v.NumField() {
		if f := v.Field(i); !f.IsZero() {
			words = append(words, fmt.Sprintf("%s %v", snake(v.Type().Field(i).Name), f.Interface()))
		}
	}
	return words
}

// encodeRules writes the rules under their names, durations as texts, and
// leaves out what was left at its default.
func encodeRules(r plan.Rules) (json.RawMessage, error) {
	out := map[string]any{}
	v := reflect.ValueOf(r)
	for i := range v.NumField() {
		f := v.Field(i)
		if f.IsZero() {
			continue
		}
		out[snake(v.Type().Field(i).Name)] = f.Interface()
		if d, ok := f.Interface().(time.Duration); ok {
			out[snake(v.Type().Field(i).Name)] = d.String()
		}
	}
	return json.Marshal(out)
}

// decodeRules reads rules. Those that this version does not know are named in
// unknown: they were written by another one, which may decide otherwise.
func decodeRules(raw json.RawMessage) (r plan.Rules, unknown []string, err error) {
	given := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &given); err != nil {
		return r, nil, err
	}
	v := reflect.ValueOf(&r).Elem()
	for i := range v.NumField() {
		name := snake(v.Type().Field(i).Name)
		text, ok := given[name]
		if !ok {
			continue
		}
		delete(given, name)
		if d, ok := v.Field(i).Addr().Interface().(*time.Duration); ok {
			*d, err = decodeDuration(text)
		} else {
			err = json.Unmarshal(text, v.Field(i).Addr().Interface())
		}
		if err != nil {
			return r, nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for name := range given {
		unknown = append(unknown, name)
	}
	slices.Sort(unknown)
	return r, unknown, nil
}

func decodeDuration(text json.RawMessage) (time.Duration, error) {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return 0, errors.New(`not a duration such as "5m0s"`)
	}
	d, err := time.ParseDuration(s)
	if err == nil && (d < 0 || d > maxRule) {
		err = fmt.Errorf("%s is not within 0 to %s", d, maxRule)
	}
	return d, err
}

// maxRule is what the strategy's settings allow; a decision plans that far
// ahead, in memory.
const maxRule = 30 * 24 * time.Hour

// snake is ScaleInAfter as scale_in_after, and SLO as slo.
func snake(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, c := range runes {
		if i > 0 && unicode.IsUpper(c) && (unicode.IsLower(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}
