package sim

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadTrace(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []float64
	}{
		{"header and comments", "# a comment\noffset_s,arrivals\n0,5\n60,7\n", []float64{5, 7}},
		{"no header, four columns, spaces and CRLF", "0, 5, 1, 2\r\n60,7,1,2\r\n", []float64{5, 7}},
		{"a byte order mark", "\ufeffoffset_s,arrivals\n0,5\n60,7\n", []float64{5, 7}},
		{"it may begin anywhere", "3600,5\n3660,7\n", []float64{5, 7}},
		{"seconds add up to minutes", "0,1\n10,2\n20,3\n70,4\n", []float64{6, 4}},
		{"five minutes are spread", "0,5\n300,10\n", []float64{1, 1, 1, 1, 1, 2, 2, 2, 2, 2}},
		{"a hole is a line, not zeros", "0,10\n60,10\n120,10\n180,10\n240,10\n300,10\n360,10\n420,10\n540,30\n600,30\n", []float64{10, 10, 10, 10, 10, 10, 10, 10, 20, 30, 30}},
		{"a zero is a zero", "0,10\n60,0\n120,10\n", []float64{10, 0, 10}},
		{"JSON lines", `{"offset_s":0,"arrivals":5,"input_tokens":9}` + "\n" + `{"offset_s":60,"arrivals":7}`, []float64{5, 7}},
		{"JSON requests", `{"timestamp":0,"input_length":9,"output_length":1,"hash_ids":[1]}` + "\n" + `{"timestamp":1000}` + "\n" + `{"timestamp":125000}`, []float64{2, 0, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ReadTrace(strings.NewReader(c.text), "t.csv")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got.Arrivals); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(c.name, "hole") != (len(got.Notes) > 0) {
				t.Errorf("notes: %q", got.Notes)
			}
		})
	}
}

func TestReadTraceKeepsTokens(t *testing.T) {
	got, err := ReadTrace(strings.NewReader("0,2,100,10\n60,1,50,5\n"), "t.csv")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Tokens{{100, 10}, {50, 5}}, got.Tokens); diff != "" {
		t.Error(diff)
	}
}

func TestReadTraceNamesTheLine(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "t.csv:0: invalid trace: no rows"},
		{"only comments", "# nothing\n#\n", "t.csv:2: invalid trace: no rows"},
		{"one row", "0,1\n", "one row only"},
		{"word", "offset_s,arrivals\n0,5\n60,many\n", `t.csv:3: invalid trace: arrivals "many" is not a number`},
		{"NaN", "0,5\n60,NaN\n", "t.csv:2: invalid trace: arrivals is NaN: leave a missing row out"},
		{"infinite", "0,5\n60,Inf\n", "t.csv:2: invalid trace: arrivals is +Inf"},
		{"negative", "0,5\n60,-1\n", "t.csv:2: invalid trace: arrivals -1 is negative"},
		{"huge", "0,5\n60,1e12\n", "t.csv:2: invalid trace: arrivals 1e+12 is above 1e+09"},
		{"unsorted", "0,5\n120,5\n60,5\n", "t.csv:3: invalid trace: offset_s 60 comes after 120: sort the rows"},
		{"twice", "0,5\n60,5\n60,5\n", "t.csv:3: invalid trace: offset_s 60 is there twice"},
		{"columns", "offset_s,arrivals\n0,5,6\n", "t.csv:2: invalid trace: 3 columns where the first line has 2"},
		{"one column", "5\n", "t.csv:1: invalid trace: 1 columns: expected offset_s,arrivals[,input_tokens,output_tokens]"},
		{"header", "offset_s,requests\n0,5\n", `t.csv:1: invalid trace: column 2 is called "requests": expected "arrivals"`},
		{"long line", "0,5\n60," + strings.Repeat("1", maxLine) + "\n", "t.csv:2: invalid trace: the line is longer than"},
		{"binary", "\x00\x01\x02\n", "t.csv:1: invalid trace: 1 columns"},
		{"too long", "0,1\n60,1\n1e11,1\n", "t.csv:3: invalid trace: offset_s 1e+11 is above"},
		{"years", "0,1\n60,1\n99999999,1\n", "t.csv:3: invalid trace: offset_s 9.9999999e+07: the trace is longer than 732 days"},
		{"mostly hole", "0,1\n60,1\n6000,1\n", "that is more hole than demand"},
		{"no demand", "0,0\n60,0\n", "not one arrival"},
		{"broken JSON", "{\"offset_s\":0,\"arrivals\":1}\n{\"offset_s\":\n", "t.csv:2: invalid trace: not a JSON object"},
		{"JSON without time", "{\"arrivals\":1}\n", "t.csv:1: invalid trace: neither"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ReadTrace(strings.NewReader(c.text), "t.csv")
			if !errors.Is(err, ErrTrace) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v\nwant one with %q", err, c.want)
			}
		})
	}
}

// A year at one second is read row by row; only its minutes are kept.
func TestReadTraceOfManyRows(t *testing.T) {
	pr, pw := io.Pipe()
	const rows = 3_000_000
	go func() {
		var b strings.Builder
		for i := range rows {
			fmt.Fprintf(&b, "%d,1\n", i)
			if b.Len() > 1<<16 {
				io.WriteString(pw, b.String())
				b.Reset()
			}
		}
		io.WriteString(pw, b.String())
		pw.Close()
	}()
	got, err := ReadTrace(pr, "big")
	if err != nil || len(got.Arrivals) != rows/60 || got.Arrivals[7] != 60 {
		t.Errorf("%d minutes, error %v", len(got.Arrivals), err)
	}
}

func FuzzReadTrace(f *testing.F) {
	for _, s := range []string{"offset_s,arrivals\n0,5\n60,7\n", "0,5\n300,10\n", `{"timestamp":0}` + "\n" + `{"timestamp":61000}`,
		`{"offset_s":0,"arrivals":5}`, "0,5,1,2\n60,NaN,1,2\n", "1e9,1\n1e9,2", "0,1\n1e-300,1\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ReadTrace(strings.NewReader(text), "fuzz")
		if err != nil {
			if !errors.Is(err, ErrTrace) {
				t.Fatalf("error %v does not wrap ErrTrace", err)
			}
			return
		}
		if len(got.Arrivals) == 0 || len(got.Arrivals) > maxMinutes {
			t.Fatalf("%d minutes", len(got.Arrivals))
		}
		for i, a := range got.Arrivals {
			if math.IsNaN(a) || math.IsInf(a, 0) || a < 0 {
				t.Fatalf("minute %d has %v arrivals", i, a)
			}
		}
	})
}

func TestGeneratedDemandHasItsShape(t *testing.T) {
	s := Shape{Days: 14, Mean: 1000, Noise: 6}
	trace := Generate(s, 1)
	info := trace.Info()
	near(t, "mean", info.MeanPerMin, 1000, 10)
	near(t, "dispersion", trace.dispersion(), 6, 0.5)
	near(t, "dispersion of Poisson", Generate(Shape{Days: 14, Mean: 1000, Noise: 1}, 1).dispersion(), 1, 0.1)
	week := Week(1)
	if len(week.Arrivals) != 7*24*60 {
		t.Errorf("a week of %d minutes", len(week.Arrivals))
	}
	if cmp.Equal(week.Arrivals, Week(2).Arrivals) || !cmp.Equal(week.Arrivals, Week(1).Arrivals) {
		t.Error("the seed does not decide")
	}
}
