package history

import (
	"time"

	"github.com/gpupool/gpupool/internal/demand"
)

// Record is the minutes of one series for a number of days. It is not safe for
// concurrent use.
type Record struct {
	keep int // days, besides the one that is going on
	days map[int]*Day

	// The minute that is going on.
	day, minute int
	sum         float64
	n           int
}

// NewRecord returns an empty record that keeps so many days besides today.
func NewRecord(days int) *Record {
	return &Record{keep: days, days: make(map[int]*Day)}
}

// Add takes a sample in. Samples must come in the order of time: one of a
// minute that is over is left out, and so is one that cannot be demand.
func (r *Record) Add(p demand.Point) {
	day, minute := place(p.At)
	if r.n > 0 && before(day, minute, r.day, r.minute) || !new(Day).Set(0, p.Value) {
		return
	}
	if day != r.day || minute != r.minute {
		r.close()
	}
	r.day, r.minute = day, minute
	r.sum += p.Value
	r.n++
}

func before(day, minute, thanDay, thanMinute int) bool {
	return day < thanDay || day == thanDay && minute < thanMinute
}

// Close ends the minute that is going on if it is over by now.
func (r *Record) Close(now time.Time) {
	if r.n > 0 && now.After(endOf(r.day, r.minute)) {
		r.close()
	}
}

func (r *Record) close() {
	if r.n == 0 {
		return
	}
	own := r.own(r.day)
	if _, there := own.At(r.minute); !there {
		own.Set(r.minute, r.sum/float64(r.n))
	}
	r.sum, r.n = 0, 0
	for day := range r.days {
		if day < r.day-r.keep {
			delete(r.days, day)
		}
	}
}

func (r *Record) own(day int) *Day {
	d := r.days[day]
	if d == nil {
		d = new(Day)
		r.days[day] = d
	}
	return d
}

// Fill takes in minutes of a day that somebody else recorded, where the record
// has gaps.
func (r *Record) Fill(day int, d *Day) { r.own(day).Fill(d) }

// FillPoint takes in the mean of one minute, told as of its end.
func (r *Record) FillPoint(p demand.Point) {
	day, minute := place(p.At)
	var d Day
	if d.Set(minute, p.Value) {
		r.Fill(day, &d)
	}
}

// Day returns a copy of a day, nil if it has nothing.
func (r *Record) Day(day int) *Day {
	d := r.days[day]
	if d == nil {
		return nil
	}
	c := *d
	return &c
}

// Merge returns the series of (from, to]: fine samples as they are, and the
// minutes of the record in every minute that has no fine sample. fine may hold
// more than that; it is not changed. What comes before is in minutes, then,
// and what is recent as fine as it was sampled.
func (r *Record) Merge(from, to time.Time, fine demand.Series) demand.Series {
	fine = fine.Window(from, to)
	out := make(demand.Series, 0, len(fine)+r.count(from, to))
	first, _ := place(from)
	last, _ := place(to)
	first = max(first, last-r.keep-1)
	for day := first; day <= last; day++ {
		d := r.days[day]
		if d == nil {
			continue
		}
		for minute, code := range d.codes {
			if code == 0 {
				continue
			}
			end := endOf(day, minute)
			if !end.After(from) || end.After(to) {
				continue
			}
			n := len(out)
			for len(fine) > 0 && !fine[0].At.After(end) {
				out, fine = append(out, fine[0]), fine[1:]
			}
			if len(out) > n && out[len(out)-1].At.After(end.Add(-time.Minute)) {
				continue // it was sampled
			}
			out = append(out, demand.Point{At: end, Value: value(code)})
		}
	}
	return append(out, fine...)
}

// count is how many minutes of the record lie in the days from one time to
// another, at most.
func (r *Record) count(from, to time.Time) int {
	first, _ := place(from)
	last, _ := place(to)
	n := 0
	for day := range r.days {
		if day >= first && day <= last {
			n += Minutes
		}
	}
	return n
}
