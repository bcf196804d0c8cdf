package history_test

import (
	"bytes"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/history"
)

var midnight = time.Date(2026, time.November, 22, 0, 0, 0, 0, time.UTC)

const today = 20779

func TestDays(t *testing.T) {
	for _, tt := range []struct {
		at  time.Time
		day int
	}{
		{midnight, today - 1}, // the end of yesterday's last minute
		{midnight.Add(1), today},
		{midnight.Add(24 * time.Hour), today},
		{time.Unix(0, 0), -1},
		{time.Unix(1, 0), 0},
		{time.Unix(-1, 0), -1},
	} {
		if got := history.DayOf(tt.at); got != tt.day {
			t.Errorf("DayOf(%s) = %d, want %d", tt.at.UTC(), got, tt.day)
		}
	}
	if got := history.Date(today); got != "2026-11-22" {
		t.Errorf("Date = %s", got)
	}
	for s, want := range map[string]int{"2026-11-22": today, "2026-1-2": -1, "1969-12-31": -1, "": -1, "2026-11-22x": -1} {
		day, ok := history.ParseDate(s)
		if ok != (want >= 0) || ok && day != want {
			t.Errorf("ParseDate(%q) = %d, %v", s, day, ok)
		}
	}
}

func TestValues(t *testing.T) {
	var d history.Day
	for i, v := range []float64{0, 1, 3, 65536, 12345.678, 0.001, 1e12, 1e-30} {
		if !d.Set(i, v) {
			t.Errorf("%v was refused", v)
		}
		got, ok := d.At(i)
		if !ok || math.Abs(got-v) > 2e-5*v {
			t.Errorf("%v is kept as %v, %v", v, got, ok)
		}
		if v == math.Trunc(v) && v <= 65536 && got != v {
			t.Errorf("the whole number %v is kept as %v", v, got)
		}
	}
	for _, v := range []float64{-1, math.NaN(), math.Inf(1), 1e31} {
		if d.Set(20, v) {
			t.Errorf("%v was taken", v)
		}
	}
	if _, ok := d.At(20); ok || d.Set(-1, 1) || d.Set(history.Minutes, 1) {
		t.Error("a gap has a value, or a minute that no day has was taken")
	}
}

// The chunk of a day is small: what the store holds for a pool follows from it.
func TestChunkSizes(t *testing.T) {
	size := func(value func(i int) float64) int {
		var d history.Day
		for i := range history.Minutes {
			d.Set(i, value(i))
		}
		return len(d.Encode(today))
	}
	for _, tt := range []struct {
		name  string
		value func(i int) float64
		most  int
	}{
		{"no demand all day", func(int) float64 { return 0 }, 16},
		{"a job more each hour", func(i int) float64 { return float64(i / 60) }, 200},
		{"another mean each minute", func(i int) float64 { return 100 + 80*math.Sin(float64(i)/229) + float64(i*7919%1000)/100 }, 4500},
		{"the worst", func(i int) float64 { return float64(i%2) * 1e30 }, history.MaxChunk},
	} {
		if got := size(tt.value); got > tt.most {
			t.Errorf("%s: %d bytes, want at most %d", tt.name, got, tt.most)
		} else {
			t.Logf("%s: %d bytes", tt.name, got)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	var d history.Day
	d.Set(5, 7)
	good := d.Encode(today)
	flip := func(i int) []byte {
		b := bytes.Clone(good)
		b[i] ^= 1
		return b
	}
	for _, tt := range []struct {
		name  string
		chunk []byte
		day   int
		want  error
	}{
		{"nothing", nil, today, history.ErrCorrupt},
		{"another schema", append([]byte{2}, good[1:]...), today, history.ErrSchema},
		{"another day", good, today + 1, history.ErrCorrupt},
		{"cut short", good[:len(good)-1], today, history.ErrCorrupt},
		{"a flipped bit", flip(3), today, history.ErrCorrupt},
		{"a flipped bit of the sum", flip(len(good) - 1), today, history.ErrCorrupt},
		{"longer than any day", append(bytes.Clone(good), make([]byte, history.MaxChunk)...), today, history.ErrCorrupt},
		{"text", []byte("\x01[1,2,3]"), today, history.ErrCorrupt},
	} {
		if got, err := history.Decode(tt.chunk, tt.day); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
}

func drawDay(t *rapid.T, name string) *history.Day {
	d := new(history.Day)
	for _, i := range rapid.SliceOf(rapid.IntRange(0, history.Minutes-1)).Draw(t, name) {
		d.Set(i, rapid.OneOf(rapid.Float64Range(0, 1e30), rapid.Map(rapid.IntRange(0, 3), func(n int) float64 { return float64(n) })).Draw(t, "value"))
	}
	return d
}

func TestEncodeDecode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawDay(t, "minutes")
		day := rapid.IntRange(0, 100_000).Draw(t, "day")
		chunk := d.Encode(day)
		if len(chunk) > history.MaxChunk {
			t.Fatalf("%d bytes", len(chunk))
		}
		got, err := history.Decode(chunk, day)
		if err != nil || *got != *d {
			t.Fatalf("decoded to something else: %v", err)
		}
	})
}

// Two writers who fill each other's gaps, in whatever order, end with the same
// minutes, and none is lost.
func TestFillConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawDay(t, "a"), drawDay(t, "b")
		ab, ba := *a, *b
		added := ab.Fill(b)
		ba.Fill(a)
		if ab.Len() != a.Len()+added || ab.Len() != ba.Len() {
			t.Fatalf("%d and %d minutes", ab.Len(), ba.Len())
		}
		if again := ab.Fill(b); again != 0 {
			t.Fatalf("filled again: %d", again)
		}
	})
}

func series(start time.Time, step time.Duration, values ...float64) demand.Series {
	var s demand.Series
	for i, v := range values {
		if v >= 0 {
			s = append(s, demand.Point{At: start.Add(time.Duration(i) * step), Value: v})
		}
	}
	return s
}

func TestRecord(t *testing.T) {
	r := history.NewRecord(28)
	// 20 s apart from 00:00:20 on, so that three make a minute.
	for _, p := range series(midnight.Add(20*time.Second), 20*time.Second, 1, 2, 3, 4, 4, 4, -1, -1, -1, 5) {
		r.Add(p)
	}
	r.Close(midnight.Add(3*time.Minute + 30*time.Second))
	want := series(midnight.Add(time.Minute), time.Minute, 2, 4)
	if diff := cmp.Diff(want, r.Merge(midnight, midnight.Add(time.Hour), nil)); diff != "" {
		t.Errorf("minutes, with a gap and an unfinished one (-want +got):\n%s", diff)
	}
	r.Close(midnight.Add(4*time.Minute + 1))
	want = series(midnight.Add(time.Minute), time.Minute, 2, 4, -1, 5)
	if diff := cmp.Diff(want, r.Merge(midnight, midnight.Add(time.Hour), nil)); diff != "" {
		t.Errorf("minutes with a gap (-want +got):\n%s", diff)
	}
	// What comes too late, or is no demand, is left out.
	r.Add(demand.Point{At: midnight.Add(5 * time.Minute), Value: 1})
	r.Add(demand.Point{At: midnight.Add(30 * time.Second), Value: 1000})
	r.Add(demand.Point{At: midnight.Add(5 * time.Minute), Value: math.NaN()})
	r.Close(midnight.Add(6 * time.Minute))
	want = series(midnight.Add(time.Minute), time.Minute, 2, 4, -1, 5, 1)
	if diff := cmp.Diff(want, r.Merge(midnight, midnight.Add(time.Hour), nil)); diff != "" {
		t.Errorf("late and wrong samples (-want +got):\n%s", diff)
	}
}

func TestRecordForgets(t *testing.T) {
	r := history.NewRecord(2)
	for i := range 10 * 24 {
		r.Add(demand.Point{At: midnight.Add(time.Duration(i) * time.Hour), Value: 1})
	}
	got := r.Merge(midnight, midnight.Add(11*24*time.Hour), nil)
	if n := len(got); n < 48 || n > 72 {
		t.Errorf("%d hours of a record that keeps two days and today", n)
	}
	if r.Day(today) != nil || r.Day(today+8) == nil {
		t.Error("an old day is in memory, or a recent one is not")
	}
}

// After a failover the old minutes are there, what is sampled since is fine,
// and nothing is told twice.
func TestMerge(t *testing.T) {
	r := history.NewRecord(28)
	for _, p := range series(midnight.Add(time.Minute), time.Minute, 1, 2, 3, 4, 5, 6) {
		r.FillPoint(p)
	}
	// From 00:03:10 on, with a hole in minutes five and six.
	fine := series(midnight.Add(3*time.Minute+10*time.Second), 25*time.Second, 40, 41, -1, -1, -1, -1, -1, 70)
	want := demand.Series{
		{At: midnight.Add(2 * time.Minute), Value: 2},
		{At: midnight.Add(3 * time.Minute), Value: 3},
		fine[0], fine[1],
		{At: midnight.Add(5 * time.Minute), Value: 5},
		{At: midnight.Add(6 * time.Minute), Value: 6},
		fine[2],
	}
	got := r.Merge(midnight.Add(time.Minute), midnight.Add(time.Hour), fine)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("merged (-want +got):\n%s", diff)
	}
	if got := r.Merge(midnight.Add(time.Minute), midnight.Add(3*time.Minute+20*time.Second), fine); len(got) != 3 {
		t.Errorf("a window that ends in the past: %v", got)
	}
}

func TestMergedSeriesIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := history.NewRecord(28)
		for day := range 2 {
			r.Fill(today+day, drawDay(t, "minutes"))
		}
		var fine demand.Series
		at := midnight
		for _, gap := range rapid.SliceOf(rapid.IntRange(1, 4000)).Draw(t, "gaps") {
			at = at.Add(time.Duration(gap) * time.Second)
			fine = append(fine, demand.Point{At: at, Value: 1})
		}
		from := midnight.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "from")) * time.Minute)
		to := from.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "window")) * time.Minute)
		got := r.Merge(from, to, fine)
		if _, err := demand.New(got); err != nil {
			t.Fatal(err)
		}
		if n := len(fine.Window(from, to)); len(got) < n {
			t.Fatalf("%d of %d fine samples are left", len(got), n)
		}
		if len(got.Window(from, to)) != len(got) {
			t.Fatal("a point outside of the window")
		}
	})
}

func FuzzDecode(f *testing.F) {
	var d history.Day
	for i := range 100 {
		d.Set(3*i, float64(i%7))
	}
	f.Add(d.Encode(today)[1:])
	f.Add([]byte{0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, body []byte) {
		// The checksum is put right, so that what is behind it is tried too.
		chunk := history.Sealed(append([]byte{history.Schema}, body...))
		for _, c := range [][]byte{body, chunk} {
			got, err := history.Decode(c, today)
			if err != nil {
				continue
			}
			again, err := history.Decode(got.Encode(today), today)
			if err != nil || *again != *got {
				t.Fatalf("read %x, wrote what reads otherwise: %v", c, err)
			}
		}
	})
}

func BenchmarkMerge28Days(b *testing.B) {
	r := history.NewRecord(28)
	for day := range 29 {
		var d history.Day
		for i := range history.Minutes {
			d.Set(i, float64(i%97))
		}
		r.Fill(today-28+day, &d)
	}
	to := midnight.Add(18 * time.Hour)
	var fine demand.Series
	for at := to.Add(-6 * time.Hour); !at.After(to); at = at.Add(5 * time.Second) {
		fine = append(fine, demand.Point{At: at, Value: 3})
	}
	b.ReportAllocs()
	for b.Loop() {
		if got := r.Merge(to.Add(-28*24*time.Hour), to, fine); len(got) < 40_000 {
			b.Fatal(len(got))
		}
	}
}

func BenchmarkDecodeDay(b *testing.B) {
	var d history.Day
	for i := range history.Minutes {
		d.Set(i, 100+80*math.Sin(float64(i)/229)+float64(i*7919%1000)/100)
	}
	chunk := d.Encode(today)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := history.Decode(chunk, today); err != nil {
			b.Fatal(err)
		}
	}
}
