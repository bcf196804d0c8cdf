package serve

import (
	"bytes"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What is said of the process is some seconds old at most, and is on each page.
func TestOthersAreKeptForSeconds(t *testing.T) {
	asked := 0.0
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "asked_total", Help: "Times."}, func() float64 {
		asked++
		return asked
	}))
	o := others{gatherer: registry}
	start := time.Now()
	for _, c := range []struct {
		after time.Duration
		want  string
	}{{0, "1"}, {othersFor - 1, "1"}, {othersFor, "2"}, {othersFor + time.Second, "2"}, {time.Hour, "3"}} {
		var body bytes.Buffer
		o.writeTo(&body, start.Add(c.after))
		if want := "# HELP asked_total Times.\n# TYPE asked_total counter\nasked_total " + c.want + "\n"; body.String() != want {
			t.Errorf("after %s it is %q, want %q", c.after, body.String(), want)
		}
	}
}
