// Package engine is what gpupool knows of model servers: for each the names of
// its metrics through the versions, where it says that it is ready, and how it
// is put to sleep, all as data in [Profiles]; and a client that asks a server on
// this host, bounded in every way that the server could try.
//
// What a server does not say is absent, never zero. A metric of which one
// series is not a number, negative or contradicted by another is absent as
// a whole, because a sum over the rest would look like a smaller load, and is
// counted as a [Flaw].
package engine

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Measure is one thing that is read from a model server.
type Measure string

// The measures. Gauges are what is now, counters only grow, histograms count
// times in seconds.
const (
	Waiting     Measure = "waiting"     // gauge: requests that wait
	Running     Measure = "running"     // gauge: requests that are worked on
	Slots       Measure = "slots"       // gauge: requests that can be worked on at a time
	KVUsed      Measure = "kv_used"     // gauge: share of the KV cache in use, 0 to 1
	Awake       Measure = "awake"       // gauge: 0 while the server sleeps
	Preemptions Measure = "preemptions" // counter: requests put back for want of KV cache
	Finished    Measure = "finished"    // counter: requests that ended
	TTFT        Measure = "ttft"        // histogram: to the first token
	ITL         Measure = "itl"         // histogram: from one token to the next
	QueueTime   Measure = "queue_time"  // histogram: waiting for the first work
	Latency     Measure = "latency"     // histogram: from request to the end of the answer
)

// Kind is how a measure is to be read.
type Kind int

// The kinds of measures.
const (
	Gauge Kind = iota
	Counter
	Histogram
)

// Measures are all measures with their kinds, in the order of the reference
// page. Max is the largest gauge that is believed.
var Measures = []struct {
	Measure Measure
	Kind    Kind
	Max     float64
	Doc     string
}{
	{Waiting, Gauge, 1e9, "Requests that wait."},
	{Running, Gauge, 1e9, "Requests that are worked on."},
	{Slots, Gauge, 1e9, "Requests that can be worked on at a time."},
	{KVUsed, Gauge, 1, "Share of the KV cache that is in use, 0 to 1."},
	{Awake, Gauge, 1e9, "0 while the server sleeps."},
	{Preemptions, Counter, 0, "Requests put back for want of KV cache."},
	{Finished, Counter, 0, "Requests that ended."},
	{TTFT, Histogram, 0, "Seconds to the first token."},
	{ITL, Histogram, 0, "Seconds from one token to the next."},
	{QueueTime, Histogram, 0, "Seconds that requests waited."},
	{Latency, Histogram, 0, "Seconds from a request to the end of its answer."},
}

// kindOf is the kind of a measure and the largest gauge that is believed.
func kindOf(m Measure) (Kind, float64) {
	for _, k := range Measures {
		if k.Measure == m {
			return k.Kind, k.Max
		}
	}
	panic("engine: no measure " + string(m))
}

// Fold is how several series of a metric make one number.
type Fold string

// The folds.
const (
	Sum Fold = ""    // as of requests over data-parallel ranks
	Max Fold = "max" // as of the fullest KV cache
	Min Fold = "min" // as of being awake
)

// Selector picks one metric. In a JSON document Name is a JSON pointer
// (RFC 6901), in which a * stands for every element of an array.
type Selector struct {
	Name  string
	Match map[string]string // labels that a series must have
	Fold  Fold
	Scale float64 // the value is multiplied by it; 0 stands for 1
	Len   bool    // of a JSON document: the length of the array is the value
}

// String writes a selector as [ParseSelector] reads it.
func (s Selector) String() string {
	text := s.Name
	if len(s.Match) > 0 {
		var pairs []string
		for k, v := range s.Match {
			pairs = append(pairs, fmt.Sprintf("%s=%q", k, v))
		}
		slices.Sort(pairs)
		text += "{" + strings.Join(pairs, ",") + "}"
	}
	fold := string(s.Fold)
	if s.Len {
		fold = "len"
	}
	if fold != "" {
		text = fold + "(" + text + ")"
	}
	if s.Scale != 0 && s.Scale != 1 {
		text += " * " + strconv.FormatFloat(s.Scale, 'g', -1, 64)
	}
	return text
}

var (
	selectorForm = regexp.MustCompile(`^(?:(sum|max|min|len)\()?([a-zA-Z_:][a-zA-Z0-9_:]*|/[^\s(){}]*)(?:\{([^{}]*)\})?(\))?(?:\s*\*\s*([0-9.eE+-]+))?$`)
	matchForm    = regexp.MustCompile(`^\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*("(?:[^"\\]|\\.)*")\s*$`)
)

// ParseSelector reads what an operator wrote: the name of a metric, as
// `queue_length`, with labels, as `queue_length{state="waiting"}`, in max(), min()
// or sum(), with a factor, as `cache_percent * 0.01`; or a JSON pointer, as
// `/queue/length` or len(/queue).
func ParseSelector(text string) (Selector, error) {
	m := selectorForm.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil || (m[1] == "") != (m[4] == "") {
		return Selector{}, fmt.Errorf(`%.60q is no selector; write the name of a metric, as queue_length, max(queue_length{state="waiting"}) or cache_percent * 0.01, or a JSON pointer, as /queue/length`, text)
	}
	s := Selector{Name: m[2], Fold: Fold(m[1])}
	switch s.Fold {
	case "sum":
		s.Fold = Sum
	case "len":
		s.Fold, s.Len = Sum, true
	}
	if m[3] != "" {
		s.Match = map[string]string{}
		for _, pair := range strings.Split(m[3], ",") {
			p := matchForm.FindStringSubmatch(pair)
			if p == nil {
				return Selector{}, fmt.Errorf(`%.60q is no label; write name="value"`, pair)
			}
			value, err := strconv.Unquote(p[2])
			if err != nil {
				return Selector{}, fmt.Errorf(`%.60q is no label; write name="value"`, pair)
			}
			s.Match[p[1]] = value
		}
	}
	if m[5] != "" {
		scale, err := strconv.ParseFloat(m[5], 64)
		if err != nil || scale <= 0 || scale > 1e12 {
			return Selector{}, fmt.Errorf("%.20q is no factor; write a number above 0, as 0.01", m[5])
		}
		s.Scale = scale
	}
	pointer := strings.HasPrefix(s.Name, "/")
	if pointer && s.Match != nil || !pointer && s.Len {
		return Selector{}, fmt.Errorf("%.60q mixes a metric and a JSON pointer", text)
	}
	return s, nil
}

// Sleep is how a server is put to sleep and woken.
type Sleep struct {
	// Enter and Leave are the paths that are POSTed to, with Body.
	Enter, Leave string
	Body         string
	// State is a path that tells whether the server sleeps, and Pointer where
	// in its JSON document the truth value is. Empty where only metrics tell.
	State, Pointer string
}

// Profile is one kind of model server.
type Profile struct {
	Name  string // as operators write it
	Title string
	Note  string // for the reference page

	// Hints give the server away in the image or the command of a task.
	Hints []string
	// Prefixes of metric names give the server away in its first exposition.
	Prefixes []string
	// Ports are labels that the port for requests may have in Nomad, and
	// MetricsPorts those of a separate port for metrics, the likeliest first.
	Ports, MetricsPorts []string

	// Metrics is the path of an exposition in Prometheus' text format, JSON
	// that of a JSON document. One of them may be there.
	Metrics, JSON string
	// Health is the path that answers 200 when the server is ready.
	Health string
	// Models is the path of a JSON document with the models that are loaded,
	// and ModelNames a JSON pointer to their names. The server is ready only
	// when there is one.
	Models, ModelNames string
	// ModelLabels are the labels of metrics that name the model.
	ModelLabels []string

	Sleep *Sleep // nil if it cannot

	// From has for each measure its names, the newest first: the first of
	// them that is there is taken.
	From map[Measure][]Selector
}

// Find is the profile of a name.
func Find(name string) (Profile, bool) {
	i := slices.IndexFunc(Profiles, func(p Profile) bool { return p.Name == name })
	if i < 0 {
		return Profile{}, false
	}
	return Profiles[i], true
}

// Names are the names of all profiles.
func Names() []string {
	names := make([]string, len(Profiles))
	for i, p := range Profiles {
		names[i] = p.Name
	}
	return names
}

// Hinted is the profile that an image or a command gives away.
func Hinted(text string) (Profile, bool) {
	text = strings.ToLower(text)
	for _, p := range Profiles {
		for _, hint := range p.Hints {
			if strings.Contains(text, hint) {
				return p, true
			}
		}
	}
	return Profile{}, false
}

// Recognize is the profile that the names of metrics give away.
func Recognize(names []string) (Profile, bool) {
	for _, p := range Profiles {
		for _, prefix := range p.Prefixes {
			if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, prefix) }) {
				return p, true
			}
		}
	}
	return Profile{}, false
}
