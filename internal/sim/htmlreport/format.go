package htmlreport

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/sim"
)

// percent writes a share with two decimals. It never rounds up: "100.00%" is
// every single one.
func percent(v float64) string {
	return strconv.FormatFloat(math.Floor(v*1e4+1e-9)/100, 'f', 2, 64) + "%"
}

// percentShort is percent without zeros at the end, for what somebody chose.
func percentShort(v float64) string {
	s := strings.TrimSuffix(strconv.FormatFloat(v*100, 'f', 4, 64), "%")
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".") + "%"
}

// number writes v with so many decimals and commas between thousands.
func number(v float64, decimals int) string {
	s := strconv.FormatFloat(v, 'f', decimals, 64)
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	whole, rest, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		rest = "." + rest
	}
	if strings.Trim(whole+rest, "0.,") == "" {
		sign = ""
	}
	return sign + whole + rest
}

// amount is a sum of money, hours or energy: with decimals where it is small.
func amount(v float64) string {
	switch a := math.Abs(v); {
	case a == 0 || a >= 100:
		return number(v, 0)
	case a >= 10:
		return number(v, 1)
	case a >= 1:
		return number(v, 2)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// short is a number with three figures and, from ten thousand on, a
// thousand's letter.
func short(v float64) string {
	for _, u := range []struct {
		over, scale float64
		name        string
	}{{1e9, 1e9, "G"}, {1e6, 1e6, "M"}, {1e4, 1e3, "k"}} {
		if v >= u.over {
			s := strconv.FormatFloat(v/u.scale, 'f', decimals(v/u.scale), 64)
			if strings.Contains(s, ".") {
				s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
			}
			return s + u.name
		}
	}
	if v < 100 {
		return strconv.FormatFloat(v, 'g', 3, 64)
	}
	return number(v, 0)
}

// decimals is how many make three figures.
func decimals(v float64) int {
	switch {
	case v >= 100:
		return 0
	case v >= 10:
		return 1
	}
	return 2
}

// seconds writes a time as people say it: 0s, 40ms, 3.2s, 5m, 1h30m, 18d.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d <= 0:
		return "0s"
	case d < 100*time.Millisecond:
		d = d.Round(time.Millisecond)
	case d < 10*time.Second:
		d = d.Round(100 * time.Millisecond)
	case d < time.Hour:
		d = d.Round(time.Second)
	case d < 48*time.Hour:
		d = d.Round(time.Minute)
	default:
		return strconv.FormatFloat(d.Hours()/24, 'g', 3, 64) + "d"
	}
	out := d.String()
	if strings.HasSuffix(out, "m0s") {
		out = strings.TrimSuffix(out, "0s")
	}
	if strings.HasSuffix(out, "h0m") {
		out = strings.TrimSuffix(out, "0m")
	}
	return out
}

// spoken is seconds in words, for a sentence.
func spoken(s float64) string {
	unit := func(v float64, name string) string {
		out := strconv.FormatFloat(v, 'g', 3, 64) + " " + name
		if v != 1 {
			out += "s"
		}
		return out
	}
	switch whole := func(of float64) bool { return s >= of && math.Mod(s, of) == 0 }; {
	case whole(3600):
		return unit(s/3600, "hour")
	case whole(60):
		return unit(s/60, "minute")
	case s < 600:
		return unit(s, "second")
	}
	return seconds(s)
}

// days writes a length in days, hours or minutes, whichever reads best.
func days(d float64) string {
	say := func(v float64, unit string) string {
		s := strconv.FormatFloat(v, 'g', 3, 64)
		if s == "1" {
			return s + " " + unit
		}
		return s + " " + unit + "s"
	}
	switch {
	case d >= 2:
		return say(d, "day")
	case d*24 >= 2:
		return say(d*24, "hour")
	}
	return say(d*24*60, "minute")
}

// clock tells times of a trace. A trace that does not know its dates counts
// days, because the calendar that the simulator assumes for it would mislead.
type clock struct {
	start   time.Time
	counted bool
}

func clockOf(t sim.TraceInfo) clock {
	return clock{start: t.Start.UTC(), counted: t.Start.Equal(sim.DefaultStart)}
}

// day is a day's name where there is little room.
func (c clock) day(t time.Time) string {
	if c.counted {
		return "day " + strconv.Itoa(c.number(t))
	}
	return t.Format("Mon 2")
}

// date is a day's name in weeks and months.
func (c clock) date(t time.Time) string {
	if c.counted {
		return c.day(t)
	}
	return t.Format("2 Jan")
}

// long is a day's name in a sentence.
func (c clock) long(t time.Time) string {
	if c.counted {
		return "day " + strconv.Itoa(c.number(t)) + ", a " + t.Format("Monday")
	}
	return t.Format("Monday, 2 January 2006")
}

// number counts days from 1.
func (c clock) number(t time.Time) int { return int(t.Sub(c.start)/(24*time.Hour)) + 1 }
