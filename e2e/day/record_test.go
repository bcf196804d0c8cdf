package day

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"
)

// gateway is what work goes through on its way to the replicas: it knows how
// much there is, and how much that makes for each replica of target-value.
type gateway struct {
	url   string
	nomad *nomadapi.Client
	began atomic.Pointer[time.Time]
	asked atomic.Int64
}

func newGateway(t *testing.T, nomad *nomadapi.Client) *gateway {
	g := &gateway{nomad: nomad}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	g.url = server.URL
	return g
}

// begin lets the first day begin; before it there is what there is at night.
func (w *world) begin(began time.Time) { w.gateway.began.Store(&began) }

func (g *gateway) demand(now time.Time) float64 {
	if began := g.began.Load(); began != nil {
		return demand(now.Sub(*began))
	}
	return few
}

func (g *gateway) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	g.asked.Add(1)
	status, _, err := g.nomad.Jobs().ScaleStatus("target-value", (&nomadapi.QueryOptions{}).WithContext(r.Context()))
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadGateway)
		return
	}
	now := g.demand(time.Now())
	_ = json.NewEncoder(out).Encode(map[string]float64{
		"demand": now,
		"load":   now / float64(max(status.TaskGroups["replicas"].Running, 1)),
	})
}

// moment is how things stood.
type moment struct {
	at            time.Duration // since the start of the first day
	demand        float64
	ready, wanted [2]int // of each policy
}

// history is how things stood, one moment after the other.
type history []moment

const each = 500 * time.Millisecond

// watch writes down how things stand until that time of the days.
func (w *world) watch(began time.Time, until time.Duration) (r history) {
	w.Helper()
	failed := 0
	for next := time.Now(); next.Sub(began) < until; next = next.Add(each) {
		time.Sleep(time.Until(next))
		now := time.Now()
		m := moment{at: now.Sub(began), demand: w.gateway.demand(now)}
		var err error
		for i, name := range policies {
			if err == nil {
				m.ready[i], err = w.ready(w.ctx, name)
			}
			if err == nil {
				m.wanted[i], err = w.wanted(name)
			}
		}
		if err == nil {
			r = append(r, m)
		} else if failed++; failed > 20 {
			w.Fatal(err)
		}
	}
	return r
}

// morning is how one policy fared from midnight until the work of the day is
// under way.
type morning struct {
	night int           // replicas wanted in the middle of the night
	rose  time.Duration // from the rise of demand on to when two more were wanted; below 0: before it
	late  time.Duration // in which less was ready than demanded
	short float64       // replica-seconds that were missing
	paid  float64       // replica-seconds
}

func (r history) morning(day, policy int) morning {
	midnight := time.Duration(day) * season
	m := morning{rose: ramp + after}
	for i, now := range r {
		at := now.at - midnight
		if at < 0 || at > night+ramp+after || i == 0 {
			continue
		}
		if at < night*3/4 {
			m.night = now.wanted[policy]
		} else if now.wanted[policy] >= m.night+2 {
			m.rose = min(m.rose, at-night)
		}
		took := now.at - r[i-1].at
		m.paid += float64(now.wanted[policy]) * took.Seconds()
		if missing := now.demand - float64(now.ready[policy]); missing > 0 && at > night/2 {
			m.late += took
			m.short += missing * took.Seconds()
		}
	}
	return m
}

// writeFile writes the record as CSV, a line a second, for internal/sim/picture.
func (r history) writeFile(path string) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# day %g s, load %g s\n", season.Seconds(), load.Seconds())
	out := csv.NewWriter(&b)
	head := []string{"seconds", "demand"}
	for _, name := range policies {
		head = append(head, "ready "+name, "wanted "+name)
	}
	_ = out.Write(head)
	next := time.Duration(0)
	for _, m := range r {
		if m.at < next {
			continue
		}
		next = m.at.Truncate(time.Second) + time.Second
		_ = out.Write(strings.Fields(fmt.Sprintf("%.1f %.2f %d %d %d %d", m.at.Seconds(), m.demand, m.ready[0], m.wanted[0], m.ready[1], m.wanted[1])))
	}
	out.Flush()
	return os.WriteFile(path, b.Bytes(), 0o644)
}
