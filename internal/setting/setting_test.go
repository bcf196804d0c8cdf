package setting

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gpupool/gpupool/internal/secret"
)

type config struct {
	Name     string
	Mode     string
	Lead     time.Duration
	Max      int
	Headroom float64
	Target   Fraction
	Buffer   Size
	Budget   Watts
	Shadow   bool
	Queues   []string
	Consul   string
	Token    secret.Ref
}

// declare uses each type once.
func declare(r *Reader) config {
	return config{
		Name:     r.String("name", "", "What it is called.", NotEmpty()),
		Mode:     r.OneOf("mode", "hold", "What to do without data.", "hold", "fail_open", "error"),
		Lead:     r.Duration("lead_time", 5*time.Minute, "From power-on to ready.", Between(time.Second, time.Hour)),
		Max:      r.Int("max", 0, "Hosts at most.", Between(1, 1000)),
		Headroom: r.Float("headroom", 1.1, "Capacity over demand.", Between(1.0, 10.0)),
		Target:   r.Fraction("target", 0.8, "How full to run.", Between[Fraction](0.01, 1)),
		Buffer:   r.Size("buffer", 64<<20, "Memory for history.", AtLeast[Size](1<<10)),
		Budget:   r.Watts("budget", 0, "Of the rack.", AtLeast[Watts](0)),
		Shadow:   r.Bool("shadow", false, "Advise only."),
		Queues:   r.List("queues", nil, "Queues to read."),
		Consul:   r.URL("consul", "http://127.0.0.1:8500", "Where Consul is."),
		Token:    r.Secret("token", "Consul token."),
	}
}

func given(pairs ...string) map[string]Given {
	m := make(map[string]Given)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = Given{Text: pairs[i+1], Line: i/2 + 1}
	}
	return m
}

func TestRead(t *testing.T) {
	t.Setenv("TOKEN", "s3cret")
	defaults := config{
		Name: "h100", Mode: "hold", Lead: 5 * time.Minute, Max: 3, Headroom: 1.1, Target: 0.8,
		Buffer: 64 << 20, Consul: "http://127.0.0.1:8500",
	}
	for _, tc := range []struct {
		name  string
		given map[string]Given
		want  config
	}{
		{"defaults", given("name", "h100", "max", "3"), defaults},
		{
			"everything",
			given("name", " a ", "mode", "error", "lead_time", "90s", "max", "1000", "headroom", "2", "target", "85%",
				"buffer", "2GiB", "budget", "12.5kW", "shadow", "true", "queues", "redis, nats", "consul", "https://c:8501", "token", "env:TOKEN"),
			config{"a", "error", 90 * time.Second, 1000, 2, 0.85, 2 << 30, 12_500, true, []string{"redis", "nats"}, "https://c:8501", "env:TOKEN"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := NewReader(Place{Subject: "pool", File: "pools.hcl"}, tc.given)
			got := declare(r)
			r.Finish(nil)
			if err := r.Problems().Err(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Each mistake names its place, its key and its mend, and leaves the default.
func TestMistakes(t *testing.T) {
	base := []string{"name", "h100", "max", "3"}
	for _, tc := range []struct{ key, text, want string }{
		{"name", "  ", `"  " is not allowed; it must be not empty`},
		{"mode", "fail-open", `"fail-open" is none of hold, fail_open, error; did you mean "fail_open"?`},
		{"mode", "", `"" is none of hold, fail_open, error; known are error, fail_open, hold`},
		{"lead_time", "10", `"10" has no unit; write "10s", "10m" or "10h"`},
		{"lead_time", "0", `"0" has no unit; write "0s", "0m" or "0h"`},
		{"lead_time", "soon", `"soon" is no duration; write a number with a unit, such as "5m"`},
		{"lead_time", "2h", `"2h" is not allowed; it must be 1s to 1h`},
		{"max", "0", `"0" is not allowed; it must be 1 to 1000`},
		{"max", "3.5", `"3.5" is no whole number; write one, such as 1`},
		{"max", "99999999999999999999", `"99999999999999999999" is no whole number; write one, such as 1`},
		{"headroom", "NaN", `"NaN" is no number; write a number, such as 1.1`},
		{"headroom", "1e999", `"1e999" is no number; write a number, such as 1.1`},
		{"headroom", "0.5", `"0.5" is not allowed; it must be 1 to 10`},
		{"target", "85", `"85" has no percent sign; write a number with a percent sign, such as "80%"`},
		{"target", "x%", `"x%" is no number; write a number with a percent sign, such as "80%"`},
		{"target", "101%", `"101%" is not allowed; it must be 1% to 100%`},
		{"buffer", "64", `"64" is no size; write a whole number with a unit, such as "64MiB"`},
		{"buffer", "9999999999GiB", `"9999999999GiB" is no size; write a whole number with a unit, such as "64MiB"`},
		{"buffer", "-1MB", `"-1MB" is no size; write a whole number with a unit, such as "64MiB"`},
		{"buffer", "1000B", `"1000B" is not allowed; it must be at least 1KiB`},
		{"budget", "12000", `"12000" has no unit, which is W or kW; write a number with a unit, such as "800W"`},
		{"budget", "x kW", `"x kW" is no number; write a number with a unit, such as "800W"`},
		{"budget", "-1W", `"-1W" is not allowed; it must be at least 0W`},
		{"shadow", "yes", `"yes" is neither true nor false; write one of them`},
		{"queues", "a,,b", `"a,,b" has an empty part; separate words by one comma`},
		{"queues", "a,b,a", `"a,b,a" names "a" twice; name it once`},
		{"consul", "127.0.0.1:8500", `is no URL; write one, such as "http://127.0.0.1:8500"`},
		{"consul", "http://u:hunter2@c", `has a user name or password in it; give it by a setting of its own`},
		{"token", "hunter2", `a credential is written in clear; write a reference: "env:NAME" or "file:PATH"`},
		{"token", "env:SURELY_NOT_SET", `environment variable SURELY_NOT_SET is not set; set it for the process that reads this file, or use "file:PATH"`},
		{"lead-time", "5m", `there is no such setting; did you mean "lead_time"?`},
		{"pasword", "hunter2", `there is no such setting; known are budget, buffer, consul, headroom, lead_time, max, mode, name, queues, shadow, target, token`},
		{"name", strings.Repeat("x", 100), ""},
		{"name", strings.Repeat("x", 1<<20), `has 1048576 bytes; 16384 are allowed`},
		{"mode", strings.Repeat("x", 101), `"` + strings.Repeat("x", 60) + `..." is none of hold, fail_open, error; known are error, fail_open, hold`},
	} {
		t.Run(tc.key+"="+shorten(tc.text), func(t *testing.T) {
			m := given(base...)
			m[tc.key] = Given{Text: tc.text, Line: 7}
			r := NewReader(Place{Subject: `pool "h100"`, File: "pools.hcl"}, m)
			declare(r)
			r.Finish(nil)
			err := r.Problems().Err()
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			want := `pools.hcl:7: pool "h100": ` + tc.key + ": " + tc.want
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	r := NewReader(Place{Subject: "target-gpupool"}, given("lead_time", "10", "mode", "x", "secret_key", "hunter2", "ignored", "x"))
	got := declare(r)
	r.Reject("max", "is below min", "raise it")
	r.Finish(func(key string) bool { return key == "ignored" })
	want := `6 mistakes:
  target-gpupool: name: is required and not there; add it: text, not empty
  target-gpupool: max: is required and not there; add it: whole number, 1 to 1000
  target-gpupool: max: is below min; raise it
  target-gpupool: lead_time: "10" has no unit; write "10s", "10m" or "10h"
  target-gpupool: mode: "x" is none of hold, fail_open, error; known are error, fail_open, hold
  target-gpupool: secret_key: there is no such setting; known are budget, buffer, consul, headroom, lead_time, max, mode, name, queues, shadow, target, token`
	if err := r.Problems().Err(); err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
	if got.Lead != 5*time.Minute || got.Mode != "hold" {
		t.Errorf("a mistake did not leave the default: %+v", got)
	}
}

func TestErrDropsRepetitionsAndBoundsItself(t *testing.T) {
	var ps Problems
	for range 3 {
		ps = append(ps, Problem{File: "f", Line: 2, What: "wrong"})
	}
	if got := ps.Err().Error(); got != "f:2: wrong" {
		t.Errorf("got %q", got)
	}
	for i := range 1000 {
		ps = append(ps, Problem{File: "f", Line: i + 3, What: "wrong"})
	}
	if got := ps.Err().Error(); !strings.HasSuffix(got, "and 951 more") {
		t.Errorf("got ... %q", got[len(got)-40:])
	}
}

func TestMarkdown(t *testing.T) {
	r := NewReader(Place{Subject: "x"}, nil)
	declare(r)
	r.String("pipe", "a|b", "Either | or.")
	r.Int("hosts", 7, "How many.")
	r.DefaultIs("hosts", "all of them")
	got := Markdown(r.Fields())
	for _, want := range []string{
		"| `name` | text, not empty | required | What it is called. |\n",
		"| `mode` | one of hold, fail_open, error | `hold` | What to do without data. |\n",
		"| `lead_time` | duration, 1s to 1h | `5m` | From power-on to ready. |\n",
		"| `max` | whole number, 1 to 1000 | required | Hosts at most. |\n",
		"| `target` | percentage, 1% to 100% | `80%` | How full to run. |\n",
		"| `buffer` | size, at least 1KiB | `64MiB` | Memory for history. |\n",
		"| `queues` | comma-separated list | none | Queues to read. |\n",
		"| `hosts` | whole number | all of them | How many. |\n",
		"| `pipe` | text | `a\\|b` | Either \\| or. |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestShow(t *testing.T) {
	for want, v := range map[string]any{
		"1m30s": 90 * time.Second, "5m": 5 * time.Minute, "24h": 24 * time.Hour, "1h5m": 65 * time.Minute,
		"0s": time.Duration(0), "250ms": 250 * time.Millisecond, "10m": 10 * time.Minute, "10s": 10 * time.Second,
		"85%": Fraction(0.85), "7%": Fraction(0.07), "0B": Size(0), "800W": Watts(800), "12.5kW": Watts(12500), "1500B": Size(1500), "a,b": []string{"a", "b"}, "1.5": 1.5, "1000000": 1e6,
	} {
		if got := show(v); got != want {
			t.Errorf("show(%v) = %q, want %q", v, got, want)
		}
	}
}

// What is shown as a default can be given as a value and means the same.
func FuzzShownValuesParse(f *testing.F) {
	f.Add(int64(90e9), int64(1<<20), 0.85)
	f.Fuzz(func(t *testing.T, d, size int64, part float64) {
		if d == math.MinInt64 || size < 0 || math.IsNaN(part) || math.Abs(part) > 1e6 {
			return // cannot be written
		}
		r := NewReader(Place{Subject: "x"}, given("d", show(time.Duration(d)), "s", show(Size(size)), "p", show(Fraction(part))))
		gotD, gotS, gotP := r.Duration("d", 1, ""), r.Size("s", 1, ""), r.Fraction("p", 1, "")
		if err := r.Problems().Err(); err != nil {
			t.Fatal(err)
		}
		if gotD != time.Duration(d) || gotS != Size(size) || math.Abs(float64(gotP)-part) > 1e-9*math.Max(1, math.Abs(part)) {
			t.Errorf("got %v %v %v, want %v %v %v", gotD, gotS, gotP, time.Duration(d), Size(size), part)
		}
	})
}

func FuzzParsersNeverPanic(f *testing.F) {
	for _, s := range []string{"", "5m", "64MiB", "85%", "a,b", "http://x", "env:X", "\xff"} {
		f.Add("lead_time", s)
		f.Add("buffer", s)
	}
	f.Fuzz(func(t *testing.T, key, text string) {
		r := NewReader(Place{Subject: "x", File: "f"}, map[string]Given{key: {Text: text, Line: 1}})
		declare(r)
		r.Finish(nil)
		_ = r.Problems().Err()
	})
}
