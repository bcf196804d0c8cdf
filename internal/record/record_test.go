package record_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
	"github.com/gpupool/gpupool/internal/record"
)

var t0 = time.Date(2026, time.March, 2, 9, 0, 0, 123456789, time.UTC)

var h100 = record.Stream{Pool: "h100", Check: "demand", Query: `demand_gpus{pool="h100"}`}

var rules = plan.Rules{Units: 2, Max: 4, Lead: 5 * time.Minute, Interval: 10 * time.Second}

// wave is n samples, ten seconds apart, that go up and down.
func wave(from time.Time, n int) demand.Series {
	s := make(demand.Series, n)
	for i := range s {
		s[i] = demand.Point{At: from.Add(time.Duration(i) * 10 * time.Second), Value: math.Round(30*(1+math.Sin(float64(i)/20))) / 10}
	}
	return s
}

// decided is the entry of the decision at the last of the samples.
func decided(s demand.Series, count int) record.Entry {
	last, _ := s.Last()
	e := record.Entry{Stream: h100, Rules: rules, Input: plan.Input{Now: last.At.Add(time.Second), Count: count, Demand: s}}
	e.Decision = plan.Decide(e.Input, e.Rules)
	return e
}

// plain is decided without the cost of deciding.
func plain(s demand.Series) record.Entry {
	last, _ := s.Last()
	return record.Entry{Stream: h100, Rules: rules, Input: plan.Input{Now: last.At, Count: 1, Demand: s},
		Decision: plan.Decision{Count: 1, Rule: plan.RuleHold, Reason: "as it is"}}
}

// logged writes the entries with one opening of the file.
func logged(t *testing.T, c record.Config, entries ...record.Entry) {
	t.Helper()
	c.Report = func(err error) { t.Errorf("report: %v", err) }
	c.Queue = len(entries)
	l := record.Open(c)
	for _, e := range entries {
		l.Add(e)
	}
	l.Close()
}

func read(t *testing.T, path string) ([]record.Read, *record.Contents) {
	t.Helper()
	var all []record.Read
	c, err := record.ReadFile(path, func(r record.Read) error { all = append(all, r); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return all, c
}

// awaitDecision waits until a whole decision is in the file.
func awaitDecision(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), `"decision"`) && strings.HasSuffix(string(text), "\n") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was written")
		}
	}
}

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "decisions.jsonl") }

// TestReplayFromTheLogAlone: each decision of a sliding window is rebuilt from
// the samples that were new each time, and decides the same.
func TestReplayFromTheLogAlone(t *testing.T) {
	path := newPath(t)
	all := wave(t0, 400)
	var entries []record.Entry
	count := 0
	for n := 1; n <= len(all); n += 3 {
		e := decided(all[max(n-180, 0):n:n], count)
		count = e.Decision.Count
		entries = append(entries, e)
	}
	logged(t, record.Config{Path: path}, entries...)
	got, c := read(t, path)
	if len(got) != len(entries) || len(c.Notes) > 0 {
		t.Fatalf("%d decisions of %d, notes %v", len(got), len(entries), c.Notes)
	}
	for i, r := range got {
		if diff := cmp.Diff(entries[i], r.Entry); diff != "" || !r.Exact || r.Lost != 0 {
			t.Fatalf("%s: exact %v, lost %d (-wrote +read)\n%s", r.Place, r.Exact, r.Lost, diff)
		}
		if again, err := r.Replay(); err != nil || !again.Same {
			t.Fatalf("%s: decided %+v, now %+v, %v", r.Place, r.Decision, again.Decision, err)
		}
	}
	if diff := cmp.Diff(all, c.Series[h100].Demand); diff != "" {
		t.Errorf("the whole series: %s", diff)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes a decision", info.Size()/int64(len(entries)))
}

func TestReplayNoticesAnotherDecision(t *testing.T) {
	e := decided(wave(t0, 50), 1)
	e.Decision.Reason += "."
	if again, err := e.Replay(); err != nil || again.Same {
		t.Errorf("another reason passes for the same: %v", err)
	}
}

// TestEveryFieldSurvives fills all fields of an input and of rules, those that
// are added later too.
func TestEveryFieldSurvives(t *testing.T) {
	e := record.Entry{Stream: record.Stream{Check: "x"}, Decision: plan.Decision{Count: 3, Rule: "odd", Reason: "a \"b\"\n<c>",
		Terms: []plan.Term{{Name: "nan", Value: math.NaN()}, {Name: "inf", Value: math.Inf(-1), Unit: "units", Note: "note"}, {Name: "third", Value: 1.0 / 3}}}}
	n := 1
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		n++
		switch v.Interface().(type) {
		case time.Duration:
			v.SetInt(int64(n)*1e9 + 1)
			return
		case time.Time:
			v.Set(reflect.ValueOf(t0.Add(time.Duration(n))))
			return
		case demand.Series:
			v.Set(reflect.ValueOf(wave(t0.Add(time.Duration(n)), 3+n)))
			return
		}
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i))
			}
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
			fill(v.Index(0))
			fill(v.Index(1))
		case reflect.Int:
			v.SetInt(int64(n))
		case reflect.Float64:
			v.SetFloat(float64(n) / 7)
		case reflect.String:
			v.SetString(fmt.Sprint("s", n))
		case reflect.Bool:
			v.SetBool(true)
		default:
			t.Fatalf("the log has no form for a %s: give it one", v.Type())
		}
	}
	fill(reflect.ValueOf(&e.Input).Elem())
	fill(reflect.ValueOf(&e.Rules).Elem())
	path := newPath(t)
	logged(t, record.Config{Path: path}, e)
	got, _ := read(t, path)
	if len(got) != 1 || !got[0].Exact {
		t.Fatalf("%+v", got)
	}
	if !math.IsNaN(got[0].Decision.Terms[0].Value) {
		t.Errorf("NaN became %v", got[0].Decision.Terms[0].Value)
	}
	e.Decision.Terms[0].Value, got[0].Decision.Terms[0].Value = 0, 0
	if diff := cmp.Diff(e, got[0].Entry); diff != "" {
		t.Errorf("(-wrote +read)\n%s", diff)
	}
}

// TestSourcesThatTellTheirPastAnew: a sample that is revised, a window that
// grows, and a series that shifts with each query until it is too much.
func TestSourcesThatTellTheirPastAnew(t *testing.T) {
	path := newPath(t)
	s := wave(t0, 100)
	revised := append(demand.Series(nil), s...)
	revised[99].Value += 7
	entries := []record.Entry{plain(s[50:]), plain(revised[50:]), plain(revised)}
	const shifted = 600
	for i := range shifted {
		entries = append(entries, plain(wave(t0.Add(time.Duration(i+1)*1001*time.Millisecond), 100)))
	}
	logged(t, record.Config{Path: path}, entries...)
	got, _ := read(t, path)
	if len(got) != len(entries) {
		t.Fatalf("%d of %d", len(got), len(entries))
	}
	inexact := 0
	for i, r := range got {
		if !r.Exact {
			inexact++
			continue
		}
		if diff := cmp.Diff(entries[i].Input, r.Input); diff != "" {
			t.Fatalf("%s is called exact: %s", r.Place, diff)
		}
	}
	// 50,000 samples may be told anew, 99 at each shift: enough for 505 of 600.
	if inexact < 90 || inexact > 100 {
		t.Errorf("%d of %d are not exact", inexact, len(got))
	}
}

func TestLongSeriesGoAheadInLinesOfBoundedSize(t *testing.T) {
	path := newPath(t)
	s := wave(t0, 10_000)
	for i := range s { // no two gaps and no two values alike
		s[i].At = s[i].At.Add(time.Duration(i*i) % 9973)
		s[i].Value += float64(i) / 977
	}
	e := decided(s, 1)
	logged(t, record.Config{Path: path}, e)
	got, _ := read(t, path)
	if len(got) != 1 || !got[0].Exact {
		t.Fatalf("%d decisions", len(got))
	}
	if diff := cmp.Diff(e, got[0].Entry); diff != "" {
		t.Error(diff)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range strings.Split(string(text), "\n") {
		if len(l) > 1<<20 {
			t.Errorf("line %d has %d bytes", i+1, len(l))
		}
	}
}

// TestRotationKeepsSoManyFiles, each of which stands alone.
func TestRotationKeepsSoManyFiles(t *testing.T) {
	path := newPath(t)
	all := wave(t0, 400)
	var entries []record.Entry
	for n := 1; n <= len(all); n++ {
		entries = append(entries, plain(all[max(n-20, 0):n:n]))
	}
	logged(t, record.Config{Path: path, MaxBytes: 8 << 10, Keep: 3}, entries...)
	files, _ := filepath.Glob(path + "*")
	if len(files) != 4 {
		t.Fatalf("%v", files)
	}
	got, c := read(t, path)
	if len(c.Notes) > 0 || len(got) == len(entries) {
		t.Errorf("%d decisions are left of %d, notes %v", len(got), len(entries), c.Notes)
	}
	tail := entries[len(entries)-len(got):]
	for i, r := range got {
		if diff := cmp.Diff(tail[i], r.Entry); diff != "" || !r.Exact {
			t.Fatalf("%s: exact %v: %s", r.Place, r.Exact, diff)
		}
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() > 10<<10 {
			t.Errorf("%s: %d bytes, %v", f, info.Size(), err)
		}
	}
}

// TestATornLineIsLeftOut cuts the file at many bytes of its last line, both
// ends among them, and writes on.
func TestATornLineIsLeftOut(t *testing.T) {
	path := newPath(t)
	s := wave(t0, 30)
	a, b, c := decided(s[:10], 1), decided(s[:20], 1), decided(s, 1)
	logged(t, record.Config{Path: path}, a, b)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin := strings.LastIndex(strings.TrimSpace(string(whole)), "\n") + 1
	for cut := begin; cut < len(whole); cut++ {
		if near := cut < begin+3 || cut > len(whole)-4; !near && cut%7 != 0 {
			continue
		}
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		want, notes := 1, 1
		switch cut {
		case begin:
			notes = 0 // between two lines
		case len(whole) - 1:
			want, notes = 2, 0 // only the end of line is missing
		}
		got, contents := read(t, path)
		if len(got) != want || len(contents.Notes) != notes {
			t.Fatalf("cut at %d: %d decisions, notes %v", cut-begin, len(got), contents.Notes)
		}
		logged(t, record.Config{Path: path}, c)
		got, contents = read(t, path)
		if len(got) != want+1 || len(contents.Notes) != notes {
			t.Fatalf("cut at %d and written on: %d decisions, notes %v", cut-begin, len(got), contents.Notes)
		}
		if diff := cmp.Diff(c, got[want].Entry); diff != "" {
			t.Fatalf("cut at %d: %s", cut-begin, diff)
		}
	}
}

// TestKilledWriter: a process that writes is killed with SIGKILL; what it left
// can be read, and written on.
func TestKilledWriter(t *testing.T) {
	if path := os.Getenv("RECORD_TEST_WRITE"); path != "" {
		l := record.Open(record.Config{Path: path})
		for i := 0; ; i++ {
			l.Add(decided(wave(t0.Add(time.Duration(i)*10*time.Second), 20), 1))
		}
	}
	path := newPath(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriter$")
	cmd.Env = append(os.Environ(), "RECORD_TEST_WRITE="+path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if info, err := os.Stat(path); err == nil && info.Size() > 50_000 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the writer wrote nothing")
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	before, _ := read(t, path)
	logged(t, record.Config{Path: path}, decided(wave(t0, 20), 1))
	after, _ := read(t, path)
	if len(before) == 0 || len(after) != len(before)+1 {
		t.Errorf("%d decisions, and one more makes %d", len(before), len(after))
	}
	for _, r := range after {
		if again, err := r.Replay(); err != nil || !again.Same || !r.Exact {
			t.Fatalf("%s: %v", r.Place, err)
		}
	}
}

// TestFailuresAreToldOnce, and never to those who decide.
func TestFailuresAreToldOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "no", "decisions.jsonl")
	var mu sync.Mutex
	var told []string
	l := record.Open(record.Config{Path: path, Report: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, fmt.Sprint(err))
	}})
	for range 1000 {
		l.Add(decided(wave(t0, 5), 1))
	}
	l.Close()
	if len(told) != 1 || !strings.Contains(told[0], path) {
		t.Errorf("%q", told)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	told = nil
	l = record.Open(record.Config{Path: fifo, Report: func(err error) { told = append(told, fmt.Sprint(err)) }})
	l.Add(decided(wave(t0, 5), 1))
	l.Close()
	if len(told) != 1 || !strings.Contains(told[0], "regular file") {
		t.Errorf("a pipe: %q", told)
	}
}

func TestTwoWritersAreRefused(t *testing.T) {
	path := newPath(t)
	first := record.Open(record.Config{Path: path})
	first.Add(decided(wave(t0, 5), 1))
	awaitDecision(t, path)
	told := ""
	second := record.Open(record.Config{Path: path, Report: func(err error) { told = fmt.Sprint(err) }})
	second.Add(decided(wave(t0, 5), 1))
	second.Close()
	first.Close()
	if got, _ := read(t, path); len(got) != 1 || !strings.Contains(told, "another process") {
		t.Errorf("%d decisions, told %q", len(got), told)
	}
}

// TestAFileMovedByOthersIsBegunAnew, as logrotate does it.
func TestAFileMovedByOthersIsBegunAnew(t *testing.T) {
	path := newPath(t)
	s := wave(t0, 30)
	l := record.Open(record.Config{Path: path, Report: func(err error) { t.Errorf("%v", err) }})
	defer l.Close()
	l.Add(decided(s[:10], 1))
	awaitDecision(t, path)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	l.Add(decided(s, 1))
	l.Close()
	got, _ := read(t, path)
	if len(got) != 1 || !got[0].Exact {
		t.Errorf("%d decisions", len(got))
	}
}

func TestMistakesNameFileAndLine(t *testing.T) {
	const head = `{"log":"gpupool-decisions","version":1,"program":"x","opened":"2026-03-02T09:00:00Z"}` + "\n"
	const good = `{"check":"c","at":"2026-03-02T09:00:00Z","decision":{"count":1,"rule":"hold","reason":"r"},"rules":{"units":1,"max":1}}` + "\n"
	for _, c := range []struct{ name, text, want string }{
		{"no header", good, "f:1: invalid decision log: there is no header"},
		{"another file", "offset_s,arrivals\n0,1\n", "f:1: invalid decision log: not a JSON object"},
		{"torn in the middle", head + good[:40] + "\n" + good, "f:2: invalid decision log: not a JSON object"},
		{"a newer version", `{"log":"gpupool-decisions","version":9,"program":"gpupool v9","more":1}` + "\n" + good, `f:1: invalid decision log: it has version 9 of the format, by "gpupool v9"`},
		{"another log", `{"log":"access","version":1}` + "\n" + good, `f:1: invalid decision log: the header says "access"`},
		{"an unknown member", head + `{"check":"c","colour":"red"}` + "\n" + good, `f:2: invalid decision log: json: unknown field "colour"`},
		{"two objects", head + `{"check":"c"}{"check":"c"}` + "\n" + good, "f:2: invalid decision log: 13 bytes after"},
		{"no time", head + `{"check":"c","decision":{"count":1}}` + "\n" + good, `f:2: invalid decision log: "at" is missing`},
		{"a negative sample", head + `{"check":"c","demand":{"at":"2026-03-02T09:00:00Z","values":[-1]}}` + "\n" + good, "f:2: invalid decision log: demand: invalid demand series: point 0"},
		{"samples in no order", head + `{"check":"c","demand":{"at":"2026-03-02T09:00:00Z","gaps_ns":[5,-5],"values":[1,1,1]}}` + "\n" + good, "f:2: invalid decision log: demand: invalid demand series: point 2"},
		{"gaps that do not fit", head + `{"check":"c","load":{"at":"2026-03-02T09:00:00Z","gaps_ns":[5],"values":[1,1,1]}}` + "\n" + good, "f:2: invalid decision log: load: 1 gaps between 3 values"},
		{"a rule of another type", head + `{"check":"c","at":"2026-03-02T09:00:00Z","decision":{"count":1},"rules":{"lead":300}}` + "\n" + good, "f:2: invalid decision log: rules: lead: not a duration"},
		{"a rule without measure", head + `{"check":"c","at":"2026-03-02T09:00:00Z","decision":{"count":1},"rules":{"lead":"99999h"}}` + "\n" + good, "f:2: invalid decision log: rules: lead: 99999h0m0s is not within"},
		{"no end of line", head + strings.Repeat("x", 1<<20+1), "f:2: invalid decision log: the line is longer than 1048576 bytes"},
	} {
		_, err := record.ReadLog(strings.NewReader(c.text), "f", func(record.Read) error { return nil })
		if err == nil || !errors.Is(err, record.ErrLog) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
	n := 0
	unknown := strings.Replace(good, `"max":1`, `"max":1,"spares":2`, 1)
	if _, err := record.ReadLog(strings.NewReader(head+unknown), "f", func(r record.Read) error {
		if n++; len(r.Unknown) != 1 || r.Unknown[0] != "spares" {
			t.Errorf("unknown rules: %v", r.Unknown)
		}
		return nil
	}); err != nil || n != 1 {
		t.Errorf("a rule of a later version: %d decisions, %v", n, err)
	}
}

func FuzzReadLog(f *testing.F) {
	path := filepath.Join(f.TempDir(), "log")
	l := record.Open(record.Config{Path: path})
	l.Add(decided(wave(t0, 5), 1))
	l.Add(decided(wave(t0, 9), 1))
	l.Close()
	text, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(text[:len(text)-9])
	f.Fuzz(func(t *testing.T, text []byte) {
		_, err := record.ReadLog(strings.NewReader(string(text)), "f", func(r record.Read) error {
			if _, err := demand.New(r.Input.Demand); err != nil {
				t.Fatal(err)
			}
			if r.Rules.Lead > time.Hour || r.Input.Demand.Span() > time.Hour || r.Input.Load.Span() > time.Hour {
				return nil // decided too, but not within a fuzzer's patience
			}
			_, err := r.Replay()
			return err
		})
		if err != nil && !errors.Is(err, record.ErrLog) {
			var syntax *json.SyntaxError
			if !errors.As(err, &syntax) {
				t.Fatal(err)
			}
		}
	})
}

// TestReplayOfAForecast: what a planner learned in hours follows from the log
// too.
func TestReplayOfAForecast(t *testing.T) {
	path := newPath(t)
	s := wave(t0, 1800)
	entries := []record.Entry{decided(s[:1700], 1), decided(s[:1750], 1), decided(s, 1)}
	logged(t, record.Config{Path: path}, entries...)
	got, _ := read(t, path)
	for i, r := range got {
		again, err := r.Replay()
		if err != nil || !again.Same || !r.Exact {
			t.Errorf("%s: %+v, now %+v, %v", r.Place, r.Decision, again.Decision, err)
		}
		if r.Decision.Rule != plan.RulePredictive {
			t.Errorf("decision %d was not a forecast: %s", i, r.Decision.Reason)
		}
	}
}
