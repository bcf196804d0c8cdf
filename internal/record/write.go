package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/jsonl"
)

// Config is where and how much to write. Path is required.
type Config = jsonl.Config

// Log writes decisions to a file. It is safe for concurrent use.
type Log = jsonl.Log[Entry]

// Open begins a log. The series of an entry that is added must not be written
// to any more.
func Open(c Config) *Log {
	var w writer
	return jsonl.Open(c, jsonl.Format[Entry]{Begin: w.begin, Encode: w.encode})
}

// writer knows what stands in the file. One goroutine has it.
type writer struct{ known map[Stream]*known }

// known is what the file has of a stream's series.
type known struct{ demand, load, queue told }

// begin is the header of a file, of which nothing is known then.
func (w *writer) begin() ([]byte, error) {
	w.known = map[Stream]*known{}
	head, err := json.Marshal(line{Log: magic, Version: version, Program: Program(), Opened: time.Now().UTC()})
	return append(head, '\n'), err
}

func (w *writer) encode(e Entry, lost int) ([]byte, error) {
	k := w.known[e.Stream]
	if k == nil {
		k = &known{}
		w.known[e.Stream] = k
	}
	text, err := k.lines(e, lost)
	if err != nil {
		delete(w.known, e.Stream) // the file does not have what k now thinks it has
	}
	return text, err
}

// lines is the entry as lines: the decision's, and before it those with
// samples that do not fit.
func (k *known) lines(e Entry, lost int) ([]byte, error) {
	now := e.Input.Now
	d, dok := k.demand.news(e.Input.Demand, now)
	l, lok := k.load.news(e.Input.Load, now)
	q, qok := k.queue.news(e.Input.Queue, now)
	var out bytes.Buffer
	put := func(v line) error {
		v.Pool, v.Check, v.Query = e.Pool, e.Check, e.Query
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if len(text)+1 > maxLine {
			return fmt.Errorf("the decision of %q at %s makes a line of %d bytes, and %d are allowed", e.Name(), now.Format(time.RFC3339), len(text), maxLine)
		}
		out.Write(text)
		out.WriteByte('\n')
		return nil
	}
	for len(d) > maxChunk || len(l) > maxChunk || len(q) > maxChunk {
		var v line
		v.Demand, d = chunk(d)
		v.Load, l = chunk(l)
		v.Queue, q = chunk(q)
		if err := put(v); err != nil {
			return nil, err
		}
	}
	rules, err := encodeRules(e.Rules)
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	v := line{
		At: now.UTC(), Count: e.Input.Count, Decision: encodeDecision(e.Decision), Rules: rules,
		Demand: newSamples(e.Input.Demand, d), Load: newSamples(e.Input.Load, l), Queue: newSamples(e.Input.Queue, q),
		Approximate: !dok || !lok || !qok, Lost: lost,
	}
	v.Floor, v.Ceiling = newBound(e.Input.Floor, e.Input.FloorWhy), newBound(e.Input.Ceiling, e.Input.CeilingWhy)
	if e.Input.Service != 0 {
		v.Service = e.Input.Service.String()
	}
	for _, t := range e.Input.Starting {
		v.Starting = append(v.Starting, t.UTC())
	}
	if err := put(v); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// chunk cuts a line's worth off a series that is too long for one.
func chunk(s demand.Series) (*samples, demand.Series) {
	if len(s) <= maxChunk {
		return nil, s
	}
	m := &samples{}
	m.put(s[:maxChunk])
	return m, s[maxChunk:]
}

// told is the part of a series that the file has and that may still be asked
// for, and what may still be spent on telling it anew.
type told struct {
	series demand.Series
	spent  int
	since  time.Time
}

const (
	maxSamples = 200_000        // of a series at its first telling: 23 days at one in 10 s
	retell     = 50_000         // samples, in each
	retellTime = 24 * time.Hour // of the decisions' time
)

// news is the samples of s that the file lacks, and whether the file then has
// exactly s.
func (t *told) news(s demand.Series, now time.Time) (news demand.Series, exact bool) {
	if len(s) == 0 {
		return nil, true
	}
	have := t.series
	for len(have) > 0 && have[0].At.Before(s[0].At) {
		have = have[1:]
	}
	same := 0
	for same < len(have) && same < len(s) && have[same].Value == s[same].Value && have[same].At.Equal(s[same].At) {
		same++
	}
	news, exact = s[same:], true
	if again := len(have) - same; again > 0 {
		if now.Sub(t.since) >= retellTime {
			t.since, t.spent = now, 0
		}
		if len(news) == 0 || t.spent+again > retell {
			news, exact = s.Window(have[len(have)-1].At, s[len(s)-1].At), false
			same = len(have)
		} else {
			t.spent += again
		}
	}
	if len(news) > maxSamples {
		news, exact = news[len(news)-maxSamples:], false
	}
	t.series = append(have[:same:same], news...)
	return news, exact
}
