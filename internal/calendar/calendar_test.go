package calendar_test

import (
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/calendar"
)

const office = "30 7 * * 1-5 for 10h: min 6, not on holidays; 0 22 * * * for 8h: max 2; 0 0 * * * for 24h: max 3, on holidays; 0 0 1 * * for 2h: min 1, max 9"

func TestSchedule(t *testing.T) {
	s, err := calendar.Parse(office, "Europe/Berlin", "2026-12-25, 2026-12-28")
	if err != nil {
		t.Fatal(err)
	}
	berlin, _ := time.LoadLocation("Europe/Berlin")
	for _, c := range []struct {
		at      string // in Berlin
		lead    time.Duration
		floor   int
		ceiling int
	}{
		{"2026-11-23 07:29", 0, 0, -1},                // a Monday, a minute before
		{"2026-11-23 07:20", 10 * time.Minute, 6, -1}, // one lead time before
		{"2026-11-23 07:30", 0, 6, -1},
		{"2026-11-23 17:29", 0, 6, -1},
		{"2026-11-23 17:30", 0, 0, -1},
		{"2026-11-22 12:00", 0, 0, -1}, // a Sunday
		{"2026-11-23 21:59", time.Hour, 0, -1},
		{"2026-11-23 23:00", 0, 0, 2}, // over midnight
		{"2026-11-24 05:59", 0, 0, 2},
		{"2026-11-24 06:00", 0, 0, -1},
		{"2026-12-25 08:00", 0, 0, 3}, // a holiday, a Friday
		{"2026-12-28 08:00", 0, 0, 3},
		{"2026-12-29 08:00", 0, 6, -1},
		{"2026-12-01 00:30", 0, 1, 2},  // two ceilings: the lower
		{"2026-03-30 07:30", 0, 6, -1}, // the Monday after the clocks went forward
		{"2026-03-30 07:29", 0, 0, -1},
		{"2026-10-26 07:29", 0, 0, -1}, // and back
		{"2026-10-26 07:30", 0, 6, -1},
	} {
		at, err := time.ParseInLocation("2006-01-02 15:04", c.at, berlin)
		if err != nil {
			t.Fatal(err)
		}
		b := s.At(at.UTC(), c.lead)
		if b.Floor != c.floor || b.Ceiling != c.ceiling {
			t.Errorf("%s: %+v, want %d to %d", c.at, b, c.floor, c.ceiling)
		}
		if (b.Floor > 0) != (b.FloorWhy != "") || (b.Ceiling >= 0) != (b.CeilingWhy != "") {
			t.Errorf("%s: no reason: %+v", c.at, b)
		}
	}
}

func TestScheduleMistakes(t *testing.T) {
	_, err := calendar.Parse("7 for 1h: min 1; 0 7 * * 1 for 1h: least 4; 0 7 * * 1 for 9000h: min 4; 0 7 * * 9 for 1h: min 1; 0 7 * * 1 for 1h: min 5, max 4; 0 7 * * 1 for 1h: on holidays; always", "Berlin", "25.12.2026")
	if err == nil {
		t.Fatal("accepted")
	}
	for _, part := range []string{"five fields", "least 4", "9000h", "not a cron expression", "min 5 is above max 4", "neither min nor max", `"always"`, `"Berlin": give an IANA name`, "2026-12-25"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
	var none *calendar.Schedule
	if b := none.At(time.Now(), time.Hour); b.Floor != 0 || b.Ceiling != -1 {
		t.Errorf("no schedule: %+v", b)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(office, "Europe/Berlin", "2026-12-25")
	f.Add("* * * * * for 168h: min 1, on holidays", "", "")
	f.Fuzz(func(t *testing.T, schedule, zone, holidays string) {
		s, err := calendar.Parse(schedule, zone, holidays)
		if err != nil {
			return
		}
		b := s.At(time.Date(2026, 12, 24, 23, 59, 0, 0, time.UTC), time.Hour)
		if b.Floor < 0 || b.Ceiling < -1 {
			t.Errorf("%+v", b)
		}
	})
}
