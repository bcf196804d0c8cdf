// Package promtrace asks a Prometheus server for demand to replay. Anything
// that speaks its HTTP API will do: Prometheus, Thanos, Mimir, VictoriaMetrics.
package promtrace

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/gpupool/gpupool/internal/httplimit"
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
	step      = time.Minute
	maxRange  = 366 * 24 * time.Hour
	maxPoints = 10_000   // of one answer; Prometheus refuses more than 11,000
	maxAnswer = 16 << 20 // bytes
)

// Fetch returns the demand as a trace. Minutes without a sample are filled or
// refused as [sim.ReadTrace] does.
func Fetch(ctx context.Context, c Config) (sim.Trace, error) {
	if err := c.validate(); err != nil {
		return sim.Trace{}, err
	}
	client, err := c.client()
	if err != nil {
		return sim.Trace{}, err
	}
	end := c.End.Truncate(step)
	begin := end.Add(-c.Range.Truncate(step)).Add(step)
	name := "prometheus " + c.Query
	rows := sim.NewRows(name)
	var start time.Time
	for from := begin; !from.After(end); from = from.Add(maxPoints * step) {
		to := from.Add((maxPoints - 1) * step)
		if to.After(end) {
			to = end
		}
		points, err := c.ask(ctx, client, from, to)
		if err != nil {
			return sim.Trace{}, fmt.Errorf("prometheus %s: %w", redacted(c.URL), err)
		}
		for _, p := range points {
			v := float64(p.Value)
			if math.IsNaN(v) {
				continue // no request was counted: a hole, not a zero
			}
			at := p.Timestamp.Time()
			if start.IsZero() {
				start = at
			}
			if err := rows.Add(at.Sub(start).Seconds(), v); err != nil {
				return sim.Trace{}, fmt.Errorf("%w at %s", err, at.UTC().Format(time.RFC3339))
			}
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
		errs = append(errs, fmt.Errorf("prometheus URL %q: must be http:// or https:// and a host", redacted(c.URL)))
	}
	if c.Query == "" {
		errs = append(errs, errors.New("the query is empty: it must give the requests of one minute"))
	}
	if c.Range < time.Hour || c.Range > maxRange {
		errs = append(errs, fmt.Errorf("range %s: must be 1h to %s", c.Range, maxRange))
	}
	return errors.Join(errs...)
}

// redacted is the URL without its password, or nothing of it where it cannot
// be parsed.
func redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "(unreadable)"
	}
	return u.Redacted()
}

func (c Config) client() (v1.API, error) {
	transport := c.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	client, err := api.NewClient(api.Config{Address: c.URL, RoundTripper: httplimit.Transport{Base: transport, Max: maxAnswer}})
	if err != nil {
		return nil, fmt.Errorf("prometheus %s: %w", redacted(c.URL), err)
	}
	return v1.NewAPI(client), nil
}

// ask returns the samples of one range.
func (c Config) ask(ctx context.Context, client v1.API, from, to time.Time) ([]model.SamplePair, error) {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	value, _, err := client.QueryRange(ctx, c.Query, v1.Range{Start: from, End: to, Step: step})
	if err != nil {
		return nil, err
	}
	matrix, ok := value.(model.Matrix)
	if !ok {
		return nil, fmt.Errorf("query %q gives a %s, not a series", c.Query, value.Type())
	}
	switch len(matrix) {
	case 0:
		return nil, nil
	case 1:
		return matrix[0].Values, nil
	}
	return nil, fmt.Errorf("query %q gives %d series: sum them up, as in sum(…)", c.Query, len(matrix))
}
