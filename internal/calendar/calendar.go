// Package calendar reads what an operator knows beforehand: floors and
// ceilings at times of the week or the year, in the time zone that people live
// in, with their holidays.
//
// A schedule is entries with semicolons between:
//
//	30 7 * * 1-5 for 10h: min 6, not on holidays; 0 22 * * * for 8h: max 2
//
// Each begins as a cron expression says (minute, hour, day, month, weekday;
// github.com/hashicorp/cronexpr), holds for a time, and has a floor (min), a
// ceiling (max) or both. It may be limited to days that are holidays ("on
// holidays") or that are not.
package calendar

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/cronexpr"
)

// Schedule is when there is a floor or a ceiling. The zero value has none.
type Schedule struct {
	zone     *time.Location
	holidays []string // dates
	entries  []entry
}

type entry struct {
	text     string
	begin    *cronexpr.Expression
	long     time.Duration
	floor    int
	ceiling  int // -1: none
	holidays int // 1: on holidays only, -1: on other days only, 0: on all
}

const (
	longest     = 7 * 24 * time.Hour // of one entry
	mostEntries = 200
	mostDates   = 1000
	most        = 1_000_000 // replicas
)

// Parse reads a schedule. The zone is an IANA name, empty for UTC; holidays are
// dates as 2026-12-25, with spaces or commas between. The error has all
// mistakes, joined.
func Parse(schedule, zone, holidays string) (*Schedule, error) {
	var errs []error
	s := &Schedule{zone: time.UTC}
	if zone != "" {
		z, err := time.LoadLocation(zone)
		if err != nil || strings.EqualFold(zone, "local") {
			errs = append(errs, fmt.Errorf("time zone %q: give an IANA name such as Europe/Berlin or America/New_York", zone))
		} else {
			s.zone = z
		}
	}
	for _, d := range strings.FieldsFunc(holidays, func(c rune) bool { return c == ' ' || c == ',' || c == '\n' || c == '\t' }) {
		if _, err := time.Parse(time.DateOnly, d); err != nil {
			errs = append(errs, fmt.Errorf("holiday %q: write it as 2026-12-25", d))
			continue
		}
		s.holidays = append(s.holidays, d)
	}
	for text := range strings.SplitSeq(schedule, ";") {
		if text = strings.Join(strings.Fields(text), " "); text == "" {
			continue
		}
		e, err := parse(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("schedule %q: %w", text, err))
			continue
		}
		s.entries = append(s.entries, e)
	}
	if len(s.entries) > mostEntries || len(s.holidays) > mostDates {
		errs = append(errs, fmt.Errorf("%d entries and %d holidays: at most %d and %d are taken", len(s.entries), len(s.holidays), mostEntries, mostDates))
	}
	return s, errors.Join(errs...)
}

const form = "write it as \"30 7 * * 1-5 for 10h: min 6, not on holidays\""

func parse(text string) (entry, error) {
	e := entry{text: text, ceiling: -1}
	head, rules, ok := strings.Cut(text, ": ")
	when, long, ok2 := strings.Cut(head, " for ")
	if !ok || !ok2 {
		return e, errors.New(form)
	}
	if len(strings.Fields(when)) != 5 {
		return e, fmt.Errorf("%q has not five fields: minute, hour, day of the month, month, weekday", when)
	}
	begin, err := cronexpr.Parse(when)
	if err != nil {
		return e, fmt.Errorf("%q is not a cron expression: %w", when, err)
	}
	e.begin = begin
	if e.long, err = time.ParseDuration(long); err != nil || e.long <= 0 || e.long > longest {
		return e, fmt.Errorf("%q is not a duration up to %s, such as 10h", long, longest)
	}
	floor := false
	for rule := range strings.SplitSeq(rules, ",") {
		rule = strings.TrimSpace(rule)
		n, isMin := number(rule, "min ")
		c, isMax := number(rule, "max ")
		switch {
		case isMin:
			e.floor, floor = n, true
		case isMax:
			e.ceiling = c
		case rule == "on holidays":
			e.holidays = 1
		case rule == "not on holidays":
			e.holidays = -1
		default:
			return e, fmt.Errorf("%q is none of: min N, max N, on holidays, not on holidays", rule)
		}
	}
	if !floor && e.ceiling < 0 {
		return e, errors.New("it has neither min nor max")
	}
	if floor && e.ceiling >= 0 && e.floor > e.ceiling {
		return e, fmt.Errorf("min %d is above max %d", e.floor, e.ceiling)
	}
	return e, nil
}

func number(rule, name string) (int, bool) {
	text, ok := strings.CutPrefix(rule, name)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 0 && n <= most
}

// Bounds are the floor and the ceiling at a time, and which entries they come
// from. A ceiling of -1 is none.
type Bounds struct {
	Floor, Ceiling       int
	FloorWhy, CeilingWhy string
}

// At is what holds now. A floor holds from one lead time before its entry
// begins, so that it is there when the entry begins.
func (s *Schedule) At(now time.Time, lead time.Duration) Bounds {
	b := Bounds{Ceiling: -1}
	if s == nil {
		return b
	}
	for _, e := range s.entries {
		if e.floor > b.Floor && s.holds(e, now, now.Add(lead)) {
			b.Floor, b.FloorWhy = e.floor, e.text
		}
		if e.ceiling >= 0 && (b.Ceiling < 0 || e.ceiling < b.Ceiling) && s.holds(e, now, now) {
			b.Ceiling, b.CeilingWhy = e.ceiling, e.text
		}
	}
	return b
}

// holds says whether the entry holds at some time from now to until.
func (s *Schedule) holds(e entry, now, until time.Time) bool {
	from := now.Add(-e.long).In(s.zone)
	for {
		at := e.begin.Next(from)
		if at.IsZero() || at.After(until) {
			return false
		}
		if holiday := slices.Contains(s.holidays, at.Format(time.DateOnly)); e.holidays == 0 || holiday == (e.holidays > 0) {
			return true
		}
		// No other begin on that day counts either.
		year, month, day := at.Date()
		from = time.Date(year, month, day+1, 0, 0, 0, 0, s.zone).Add(-time.Second)
	}
}
