// Package promrange asks a Prometheus server for one series over a range of
// time. Anything that speaks its HTTP API will do: Prometheus, Thanos, Mimir,
// VictoriaMetrics.
package promrange

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/httplimit"
)

// Config says whom to ask, and what.
type Config struct {
	URL   string // of the server, http or https; a user and password in it are used and never printed
	Query string // PromQL that gives one series
	Step  time.Duration

	Token     string            // bearer token, if not empty; never printed
	Timeout   time.Duration     // of one request; 30 s
	Transport http.RoundTripper // http.DefaultTransport
}

const (
	maxPoints = 10_000   // of one answer; Prometheus refuses more than 11,000
	maxAnswer = 16 << 20 // bytes
)

// Ask returns the samples of the series at from, from+Step and so on, up to
// to: those that are numbers, in the order of time, asked for in as many
// requests as it takes. Steps without a sample are not there.
func Ask(ctx context.Context, c Config, from, to time.Time) ([]demand.Point, error) {
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	var points []demand.Point
	for ; !from.After(to); from = from.Add(maxPoints * c.Step) {
		end := from.Add((maxPoints - 1) * c.Step)
		if end.After(to) {
			end = to
		}
		piece, err := c.ask(ctx, client, from, end)
		if err != nil {
			return nil, fmt.Errorf("prometheus %s: %w", Redacted(c.URL), err)
		}
		for _, p := range piece {
			if v := float64(p.Value); !math.IsNaN(v) {
				points = append(points, demand.Point{At: p.Timestamp.Time(), Value: v})
			}
		}
	}
	return points, nil
}

// Redacted is a URL without its password, or nothing of it where it cannot be
// parsed.
func Redacted(s string) string {
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
	transport = httplimit.Transport{Base: transport, Max: maxAnswer}
	if c.Token != "" {
		transport = bearer{transport, c.Token}
	}
	client, err := api.NewClient(api.Config{Address: c.URL, RoundTripper: transport})
	if err != nil {
		return nil, fmt.Errorf("prometheus %s: %w", Redacted(c.URL), err)
	}
	return v1.NewAPI(client), nil
}

// bearer sends a token with each request.
type bearer struct {
	base  http.RoundTripper
	token string
}

func (b bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+b.token)
	return b.base.RoundTrip(req)
}

// ask returns the samples of one request.
func (c Config) ask(ctx context.Context, client v1.API, from, to time.Time) ([]model.SamplePair, error) {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	value, _, err := client.QueryRange(ctx, c.Query, v1.Range{Start: from, End: to, Step: c.Step})
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
