package htmlreport

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"golang.org/x/net/html"

	"github.com/gpupool/gpupool/internal/sim"
)

func render(t testing.TB, r *sim.Report, o Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, r, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestOutline pins what the report consists of, as a reader of headings,
// figures and tables meets it; see testdata/outline.
func TestOutline(t *testing.T) {
	datadriven.RunTest(t, "testdata/outline", func(t *testing.T, d *datadriven.TestData) string {
		r := sample()
		o := Options{Command: "gpupool simulate --front --html report.html"}
		if d.HasArg("bare") { // what a report has at least
			r.Bound, r.Config, r.Assumptions, o.Command = sim.Bound{}, sim.Config{}, nil, ""
			for i := range r.Policies {
				p := &r.Policies[i]
				p.Timeline, p.Front, p.Forecast, p.CostRatio = nil, nil, nil, 0
			}
		}
		root, err := html.Parse(bytes.NewReader(render(t, r, o)))
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		outline(&b, root)
		return b.String()
	})
}

// outline writes the page's landmarks, one a line.
func outline(b *strings.Builder, n *html.Node) {
	line := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	switch {
	case n.Type != html.ElementNode:
	case n.Data == "title" && n.Parent.Data == "head":
		line("title: %s", text(n))
	case n.Data == "h1" || n.Data == "h2" || n.Data == "h3":
		line("%s: %s", n.Data, text(n))
	case n.Data == "summary":
		_, open := attr(n.Parent, "open")
		line("  policy (open: %t): %s", open, text(n))
	case n.Data == "svg":
		if role, _ := attr(n, "role"); role == "img" {
			label, _ := attr(n, "aria-label")
			line("  figure: %s", label)
		}
		return
	case n.Data == "figcaption":
		line("  caption: %s", text(n))
	case n.Data == "li" || n.Data == "dt":
		line("  %s: %s", n.Data, text(n))
	case n.Data == "tr":
		var cells []string
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			cells = append(cells, text(c))
		}
		line("  row: %s", strings.Join(cells, " | "))
	case n.Data == "pre":
		line("  command: %s", text(n))
	case n.Data == "script":
		kind, _ := attr(n, "type")
		line("script %s", kind)
		return
	}
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		outline(b, c)
	}
}

func attr(n *html.Node, name string) (string, bool) {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val, true
		}
	}
	return "", false
}

func text(n *html.Node) string {
	var b strings.Builder
	var walk func(*html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.TextNode {
			b.WriteString(n.Data + " ")
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
	}
	walk(n)
	return strings.Join(strings.Fields(b.String()), " ")
}

// TestVerdict reads the headline for reports as an operator meets them; see
// testdata/verdict. Each line of input is a policy: its name, cost, share on
// time and share on time on its worst day.
func TestVerdict(t *testing.T) {
	datadriven.RunTest(t, "testdata/verdict", func(t *testing.T, d *datadriven.TestData) string {
		r := &sim.Report{SLO: 0.99, SLOWaitS: 60, LeadS: 300, WarmupS: 86400, Trace: sim.TraceInfo{Days: 7}}
		if d.HasArg("bound") {
			var bound string
			d.ScanArgs(t, "bound", &bound)
			r.Bound.GPUHours, _ = strconv.ParseFloat(bound, 64)
		}
		for line := range strings.Lines(d.Input) {
			var p sim.PolicyReport
			if _, err := fmt.Sscan(line, &p.Name, &p.Cost, &p.Attainment, &p.WorstDay); err != nil {
				d.Fatalf(t, "%q: %v", line, err)
			}
			p.GPUHours = p.Cost / 2
			if r.Bound.GPUHours > 0 {
				p.CostRatio = p.GPUHours / r.Bound.GPUHours
			}
			r.Policies = append(r.Policies, p)
		}
		v := judge(r)
		return v.headline() + "\n" + strings.Join(v.Says, "\n") + "\n"
	})
}

// TestSelfContained looks for anything that would make a browser ask for
// another address.
func TestSelfContained(t *testing.T) {
	out := render(t, sample(), Options{Command: "gpupool simulate"})
	root, err := html.Parse(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	var walk func(*html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.ElementNode {
			switch n.Data {
			case "link", "img", "iframe", "object", "embed", "base", "image":
				t.Errorf("the page has a <%s>", n.Data)
			}
			for _, a := range n.Attr {
				switch a.Key {
				case "src", "srcset", "action", "poster":
					t.Errorf("<%s> has %s=%q", n.Data, a.Key, a.Val)
				case "href":
					if !strings.HasPrefix(a.Val, "#") {
						t.Errorf("<%s> refers to %q", n.Data, a.Val)
					}
				}
			}
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
	}
	walk(root)
	for _, s := range []string{"http:", "https:", "@import", "url(//", "ZgotmplZ", "NaN", "Infinity", "%!"} {
		if bytes.Contains(out, []byte(s)) {
			t.Errorf("the page contains %q", s)
		}
	}
	if !bytes.Contains(out, []byte("default-src &#39;none&#39;")) {
		t.Error("the page does not forbid the browser to load anything")
	}
}

// TestHostileText checks the bytes; TestInBrowser checks what a browser makes
// of them.
func TestHostileText(t *testing.T) {
	r, command := hostile()
	out := render(t, r, Options{Command: command})
	if n := bytes.Count(out, []byte("<script")); n != 2 {
		t.Errorf("the page has %d scripts, want its own two", n)
	}
	if bytes.Contains(out, []byte("<img")) || bytes.Contains(out, []byte("</title></style>")) {
		t.Error("a name broke out of its place")
	}
}

func TestSameBytes(t *testing.T) {
	a, b := render(t, sample(), Options{}), render(t, sample(), Options{})
	if !bytes.Equal(a, b) {
		t.Error("the same report gave two different files")
	}
}

// TestSize draws sixty days of minutes of thirteen policies that never rest,
// which is the worst for thinning.
func TestSize(t *testing.T) {
	r := sample()
	like := r.Policies[3]
	r.Policies = nil
	n := 60 * 24 * 60
	for k := range 13 {
		p := like
		p.Name = fmt.Sprintf("policy-%d", k)
		l := &sim.Timeline{StepS: 60, Need: make([]float64, n), Ready: make([]float64, n), Billed: make([]float64, n), Waiting: make([]float64, n)}
		for i := range n {
			// Knuth's multiplicative hash: cheap, and noise enough.
			h := uint32(i) * 2654435761
			l.Need[i] = float64(h>>16%40000) / 1000
			h = uint32(i*16+k) * 2654435761
			l.Ready[i] = float64(h >> 8 % 40)
			l.Billed[i] = l.Ready[i] + float64(h>>20%9)
			l.Waiting[i] = float64(h >> 4 % 5000)
		}
		p.Timeline = l
		r.Policies = append(r.Policies, p)
	}
	r.Trace.Days = 60
	switch out := render(t, r, Options{}); {
	case len(out) < 1<<20:
		t.Errorf("sixty days of noise make %d bytes only: this does not strain the thinning", len(out))
	case len(out) > 2<<20:
		t.Errorf("sixty days of noise make %d bytes, want at most %d", len(out), 2<<20)
	}
}

func TestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*sim.Report)
		says  string
	}{
		"no policy":           {func(r *sim.Report) { r.Policies = nil }, "no policy"},
		"not a number":        {func(r *sim.Report) { r.Policies[1].Cost = math.NaN() }, `policy "hpa": a figure is not a number`},
		"an endless front":    {func(r *sim.Report) { r.Policies[1].Front[2].GPUHours = math.Inf(1) }, "of its front"},
		"timelines unlike":    {func(r *sim.Report) { l := r.Policies[1].Timeline; l.Ready = l.Ready[1:] }, "10080, 10079"},
		"steps unlike":        {func(r *sim.Report) { r.Policies[1].Timeline.StepS = 5 }, "where another's is 60 s"},
		"no step":             {func(r *sim.Report) { r.Policies[0].Timeline.StepS = 0 }, "must be above 0"},
		"a hole in timelines": {func(r *sim.Report) { r.Policies[2].Timeline.Waiting[7] = math.NaN() }, "a value of its timeline"},
	} {
		t.Run(name, func(t *testing.T) {
			r := sample()
			c.spoil(r)
			var b bytes.Buffer
			err := Write(&b, r, Options{})
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want one with %q", err, c.says)
			}
			if b.Len() > 0 {
				t.Errorf("%d bytes were written before the error", b.Len())
			}
		})
	}
	full := errors.New("disk full")
	if err := Write(failing{full}, sample(), Options{}); !errors.Is(err, full) {
		t.Errorf("error %v, want that of the writer", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestRealRun draws what the simulator itself makes, of traces from a quarter
// of an hour to twelve days.
func TestRealRun(t *testing.T) {
	var specs []sim.Spec
	for _, name := range []string{simple, "static-peak"} {
		s, ok := sim.Lookup(name)
		if !ok {
			t.Fatalf("there is no policy %s", name)
		}
		specs = append(specs, s)
	}
	for _, days := range []float64{0.01, 0.3, 1, 12} {
		trace := sim.Generate(sim.Shape{Days: days, Mean: 300, Day: 0.5, Noise: 3}, 1)
		r, err := sim.Simulate(sim.Config{Peak: 4, Timeline: 5 * time.Minute}, trace, sim.Options{Policies: specs, Front: days < 0.5})
		if err != nil {
			t.Fatal(err)
		}
		out := render(t, r, Options{})
		if !bytes.Contains(out, []byte("On time")) || bytes.Contains(out, []byte("ZgotmplZ")) {
			t.Errorf("%g days: the report is not whole", days)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	r := sample()
	for b.Loop() {
		render(b, r, Options{})
	}
}
