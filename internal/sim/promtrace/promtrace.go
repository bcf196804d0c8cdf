// Package promtrace asks a Prometheus server for demand to replay. Anything
// that speaks its HTTP API will do: Prometheus, Thanos, Mimir, VictoriaMetrics.
package promtrace

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/gpupool/gpupool/internal/promrange"
	"github.com/gpupool/gpupool/internal/sim"
)

// Config is what to ask.
type Config struct {
	URL   string        // of the server, http or https; a user and password in it are used and never printed
	Query string        // PromQL that gives one series: requests of one minute
	Range time.Duration // how far back from End
	End   time.Time     // of the last minute

	Timeout   time.Duration     // of one request; 30 s
	Transport http.RoundTripper // http.DefaultTransport
}

const (
	step     = time.Minute
	maxRange = 366 * 24 * time.Hour
)

// Fetch returns the demand as a trace. Minutes without a sample are filled or
// refused as [sim.ReadTrace] does.
func Fetch(ctx context.Context, c Config) (sim.Trace, error) {
	if err := c.validate(); err != nil {
		return sim.Trace{}, err
	}
	end := c.End.Truncate(step)
	begin := end.Add(-c.Range.Truncate(step)).Add(step)
	points, err := promrange.Ask(ctx, promrange.Config{
		URL: c.URL, Query: c.Query, Step: step, Timeout: c.Timeout, Transport: c.Transport,
	}, begin, end)
	if err != nil {
		return sim.Trace{}, err
	}
	rows := sim.NewRows("prometheus " + c.Query)
	var start time.Time
	for _, p := range points { // a minute in which no request was counted is a hole, not a zero
		if start.IsZero() {
			start = p.At
		}
		if err := rows.Add(p.At.Sub(start).Seconds(), p.Value); err != nil {
			return sim.Trace{}, fmt.Errorf("%w at %s", err, p.At.UTC().Format(time.RFC3339))
		}
	}
	t, err := rows.Trace()
	if err != nil {
		return sim.Trace{}, err
	}
	t.Start = start.UTC()
	return t, nil
}

func (c Config) validate() error {
	var errs []error
	if u, err := url.Parse(c.URL); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		errs = append(errs, fmt.Errorf("prometheus URL %q: must be http:// or https:// and a host", promrange.Redacted(c.URL)))
	}
	if c.Query == "" {
		errs = append(errs, errors.New("the query is empty: it must give the requests of one minute"))
	}
	if c.Range < time.Hour || c.Range > maxRange {
		errs = append(errs, fmt.Errorf("range %s: must be 1h to %s", c.Range, maxRange))
	}
	return errors.Join(errs...)
}
