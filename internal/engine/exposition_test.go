package engine

import (
	"cmp"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// byPrometheus is an exposition as Prometheus' own library reads it.
func byPrometheus(text string) (map[string]*metric, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	metrics := map[string]*metric{}
	for name, family := range families {
		m := &metric{kind: strings.ToLower(family.GetType().String())}
		for _, one := range family.Metric {
			s := series{value: one.GetGauge().GetValue() + one.GetCounter().GetValue() + one.GetUntyped().GetValue()}
			for _, l := range one.Label {
				s.labels = append(s.labels, label{l.GetName(), l.GetValue()})
			}
			slices.SortFunc(s.labels, func(a, b label) int { return strings.Compare(a.name, b.name) })
			for _, b := range one.GetHistogram().GetBucket() {
				s.buckets = append(s.buckets, bucket{b.GetUpperBound(), cmp.Or(b.GetCumulativeCountFloat(), float64(b.GetCumulativeCount()))})
			}
			m.series = append(m.series, s)
		}
		metrics[name] = m
	}
	return metrics, nil
}

// asPrometheus holds what is read of a text against what Prometheus' library
// reads. What that refuses may be taken here.
func asPrometheus(t *testing.T, text string) {
	t.Helper()
	want, err := byPrometheus(text)
	if err != nil {
		return
	}
	got, err := parseExposition(text)
	if err != nil {
		t.Errorf("%q is refused: %v", text, err)
		return
	}
	maps.DeleteFunc(got, func(_ string, m *metric) bool { return len(m.series) == 0 })
	for _, m := range got {
		if m.kind == "gaugehistogram" {
			m.kind = "gauge_histogram"
		}
		m.places = nil
	}
	if diff := gocmp.Diff(want, got, gocmp.AllowUnexported(metric{}, series{}, label{}, bucket{}), cmpopts.EquateNaNs(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%q is read as something else (-Prometheus +here):\n%s", text, diff)
	}
}

// TestExpositionAsPrometheus: what servers say, and what they hardly ever do.
func TestExpositionAsPrometheus(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var lines strings.Builder
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "#") || strings.HasPrefix(line, "# TYPE ") {
				lines.Write(withoutExemplar([]byte(strings.TrimSuffix(line, "\n"))))
				lines.WriteByte('\n')
			}
		}
		if _, err := byPrometheus(lines.String()); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		asPrometheus(t, lines.String())
	}
	for _, text := range []string{
		"a 1\n", "a\t1\n", "a 1 1700000000000\n", "a{} 1\n", "a{b=\"c\"} 1\n", "a { b = \"c\" , d=\"e\" , } +Inf -5\n", "a{b=\"c\"}1\n",
		"a{b=\"\\\\\\\"\\n{}# ,=\"} NaN\n", "a{d=\"1\",b=\"2\"} 1e-3\na{b=\"2\",d=\"1\"} 2\n", "a{\"b.c\"=\"d\"} 1\n", "a{b=\"ä\"} 0x1\n",
		"# TYPE a GAUGE\na 1\n", "# TYPE a\tcounter\na 1\n", "# TYPE a unknown\na 1\n", "# TYPE a gaugehistogram\na_bucket{le=\"1\"} 1\n",
		"# TYPE a summary\na{quantile=\"0.5\"} 1\na_sum 2\na_count 3\na_bucket 4\n",
		"# TYPE a histogram\na_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 2.5\na_sum 2\na_count 3\na 4\na{le=\"7\"} 5\n",
		"# TYPE a histogram\na_count{x=\"1\"} 3\na_bucket{x=\"2\",le=\"1\"} 1\na_bucket{le=\"2\",x=\"1\"} 1\na_bucket{le=\"NaN\"} 1\na_bucket 1\n",
		"a_bucket{le=\"1\"} 1\n", "a_count 1\n# TYPE a histogram\na_count 2\na_sum 3\n", "# TYPE a gauge\na_count 1\n",
	} {
		asPrometheus(t, text)
	}
}

// TestNoExposition: what Prometheus' library refuses too.
func TestNoExposition(t *testing.T) {
	for _, text := range []string{
		"a\n", "a{\n", "a{b} 1\n", "a{b=c} 1\n", "a{b\"c\"} 1\n", "a{b=\"c\n", "a{b=\"c\"\n", "a{b=\"c\" d=\"e\"} 1\n", "a{=\"c\"} 1\n", "a{,} 1\n", "a{b=\"\\x\"} 1\n", "a{b=\"\\",
		"a{b=\"\xff\"} 1\n", "a{b=\"1\",b=\"1\"} 1\n", "a b\n", "a 1 2 3\n", "a 1 b\n", "a 0x1p1\n", "a 1_0\n", "{ 1\n",
		"# TYPE a thing\n", "# TYPE a gauge\n# TYPE a gauge\n", "a 1\n# TYPE a gauge\n",
		"# TYPE a histogram\na_bucket{le=\"x\"} 1\n", "# TYPE a histogram\na_bucket{le=\"1\"} -1\n",
	} {
		if _, err := byPrometheus(text); err == nil {
			t.Errorf("%q: Prometheus takes it", text)
		}
		if got, err := parseExposition(text); err == nil {
			t.Errorf("%q is taken as %+v", text, got)
		} else if len(err.Error()) > 300 {
			t.Errorf("%q: an error of %d bytes", text, len(err.Error()))
		}
	}
}

// FuzzExpositionAsPrometheus: what Prometheus takes is read as it reads it, as far
// as the lines are of the kind that are kept.
func FuzzExpositionAsPrometheus(f *testing.F) {
	f.Add("# TYPE a histogram\na_bucket{x=\"2\",le=\"1\"} 1 5\na_sum 1\n")
	f.Add("# TYPE a summary\na{quantile=\"0.5\",b=\"\\\"\"} NaN\n")
	f.Fuzz(func(t *testing.T, text string) {
		var kept strings.Builder
		for line := range strings.Lines(text) {
			line = strings.TrimRight(line, " \t\r\n")
			name := string(nameIn([]byte(line)))
			if name != "" && model.LegacyValidation.IsValidMetricName(name) {
				kept.Write(withoutExemplar([]byte(line)))
				kept.WriteByte('\n')
			}
		}
		asPrometheus(t, kept.String())
	})
}
