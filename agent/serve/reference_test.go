package serve_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpupool/gpupool/agent/serve"
	"github.com/gpupool/gpupool/internal/setting"
)

var update = flag.Bool("update", false, "write the generated part of the reference page")

// TestReference keeps docs/reference/agent-metrics.md in step with the tables.
func TestReference(t *testing.T) {
	var b strings.Builder
	kind := map[prometheus.ValueType]string{prometheus.GaugeValue: "gauge", prometheus.CounterValue: "counter"}
	b.WriteString("## Metrics\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, m := range serve.Metrics {
		var labels []string
		for _, l := range m.Labels {
			labels = append(labels, "`"+l+"`")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, kind[m.Type], strings.Join(labels, " "), m.Help)
	}
	b.WriteString("\n## Under dcgm-exporter's names\n\n| metric | type | meaning | here |\n|---|---|---|---|\n")
	for _, a := range serve.Aliases {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", a.Name, kind[a.Type], a.Help, a.Of)
	}
	if err := setting.CheckPage("../../docs/reference/agent-metrics.md", b.String(), *update); err != nil {
		t.Error(err)
	}
}

// TestNames holds the names and types against Prometheus' conventions.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range serve.Metrics {
		if seen[m.Name] || m.Help == "" || !strings.HasPrefix(m.Name, "gpupool_") {
			t.Errorf("%s is there twice, has no help, or is not ours by its name", m.Name)
		}
		seen[m.Name] = true
		if got := strings.HasSuffix(m.Name, "_total"); got != (m.Type == prometheus.CounterValue) {
			t.Errorf("%s: a counter ends in _total, and nothing else does", m.Name)
		}
		for _, unit := range []string{"_mhz", "_mib", "_percent", "_ms", "_mw", "_mj"} {
			if strings.Contains(m.Name, unit) {
				t.Errorf("%s is not in a base unit", m.Name)
			}
		}
	}
	for _, a := range serve.Aliases {
		if seen[a.Name] || !strings.HasPrefix(a.Name, "DCGM_FI_") {
			t.Errorf("%s is there twice, or is no name of dcgm-exporter", a.Name)
		}
		seen[a.Name] = true
	}
}
