// Package prometheus reads a queue's depth from anything that speaks the
// query API of Prometheus: https://prometheus.io/docs/prometheus/latest/querying/api/.
package prometheus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
	"github.com/gpupool/gpupool/internal/setting"
)

// Config is a server and what to ask it.
type Config struct {
	Server  string // URL
	Query   string // PromQL: what waits
	Running string // PromQL: what runs; empty is unknown
	Auth    dial.Auth
	TLS     dial.TLS
}

// Kind is the line of package sources.
func Kind() queue.Kind {
	return queue.KindOf(queue.Kind{
		Name: "prometheus", Doc: "the one sample that a PromQL query gives",
		Targets: []string{"threshold"}, Shared: dial.Keys,
		KEDA: dial.Names(dial.KEDA, dial.AuthKEDA, map[string]string{
			"server_address": "serverAddress", "query": "query", "threshold": "threshold",
		}),
	}, Declare, New)
}

// Declare reads the settings.
func Declare(r *setting.Reader) Config {
	return Config{
		Server:  r.URL("server_address", "", "The server, with its path prefix if it has one. A user or password in it is refused.", setting.NotEmpty()),
		Query:   r.String("query", "", "PromQL for the work that waits: an instant query that gives exactly one sample, so `sum(...)` over several. No sample means that the queue is missing: beware of `missing_as_zero`, since an exporter that is down gives none either.", setting.NotEmpty()),
		Running: r.String("running_query", "", "The same for the work that runs. Without it, it is unknown."),
		Auth:    dial.DeclareAuth(r),
		TLS:     dial.DeclareTLS(r),
	}
}

// Source is one query.
type Source struct {
	cfg    Config
	client *dial.Client
	api    v1.API
	seen   *seen
}

// New makes a source. It sends nothing.
func New(cfg Config) (*Source, error) {
	client, err := dial.NewClient(cfg.TLS, cfg.Auth)
	if err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, client: client, seen: &seen{client: client}}
	client.HTTP.Transport = &through{base: client.HTTP.Transport, seen: s.seen}
	ac, err := api.NewClient(api.Config{Address: cfg.Server, Client: client.HTTP})
	if err != nil {
		return nil, err
	}
	s.api = v1.NewAPI(ac)
	return s, nil
}

// seen is what the last request was answered with. Errors of the library do
// not always say it.
type seen struct {
	client  *dial.Client
	status  int
	secrets []string
}

type through struct {
	base http.RoundTripper
	seen *seen
}

// RoundTrip adds the credential.
func (t *through) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	secrets, err := t.seen.client.Authorize(req)
	if err != nil {
		return nil, err
	}
	t.seen.secrets = secrets
	resp, err := t.base.RoundTrip(req)
	if err == nil {
		t.seen.status = resp.StatusCode
	}
	return resp, err
}

// CloseIdleConnections lets http.Client reach the idle connections.
func (t *through) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// Read asks the server.
func (s *Source) Read(ctx context.Context) (queue.Reading, error) {
	waiting, err := s.ask(ctx, s.cfg.Query)
	if err != nil {
		return queue.Reading{}, err
	}
	r := queue.Reading{Waiting: waiting}
	if s.cfg.Running != "" {
		running, err := s.ask(ctx, s.cfg.Running)
		if err != nil {
			return queue.Reading{}, err
		}
		r.Running = &running
	}
	return r, nil
}

func (s *Source) ask(ctx context.Context, query string) (float64, error) {
	defer s.client.Wire.Call(ctx)()
	s.seen.status = 0
	v, _, err := s.api.Query(ctx, query, time.Time{}) // the server's now
	if err != nil {
		return 0, s.fail(ctx, query, err)
	}
	return sample(query, v)
}

func (s *Source) fail(ctx context.Context, query string, err error) error {
	if errors.Is(err, queue.ErrAuth) {
		return queue.Fail(queue.ErrAuth, "the credential cannot be read", s.seen.secrets...)
	}
	class := dial.Class(ctx, err)
	if class == nil && s.seen.status != 0 {
		class = dial.StatusClass(s.seen.status)
	}
	var said *v1.Error
	if class == nil {
		class = queue.ErrInvalid
		if errors.As(err, &said) && said.Type == v1.ErrBadData {
			class = queue.ErrRefused
		}
	}
	if errors.As(err, &said) && said.Detail != "" {
		return queue.Fail(class, fmt.Sprintf("query %.80q: HTTP %d: %v: %s", query, s.seen.status, said, said.Detail), s.seen.secrets...)
	}
	return queue.Fail(class, fmt.Sprintf("query %.80q: %v", query, err), s.seen.secrets...)
}

// sample is the one value of an answer.
func sample(query string, v model.Value) (float64, error) {
	var n float64
	switch v := v.(type) {
	case *model.Scalar:
		n = float64(v.Value)
	case model.Vector:
		switch len(v) {
		case 0:
			return 0, queue.Fail(queue.ErrMissing, fmt.Sprintf("query %.80q gives no sample", query))
		case 1:
			if v[0].Histogram != nil {
				return 0, queue.Fail(queue.ErrInvalid, fmt.Sprintf("query %.80q gives a histogram", query))
			}
			n = float64(v[0].Value)
		default:
			return 0, queue.Fail(queue.ErrInvalid, fmt.Sprintf("query %.80q gives %d samples, such as %s and %s; write sum(...) around it", query, len(v), v[0].Metric, v[1].Metric))
		}
	default:
		return 0, queue.Fail(queue.ErrInvalid, fmt.Sprintf("query %.80q gives no instant value", query))
	}
	if math.IsNaN(n) || math.IsInf(n, 0) || n < 0 {
		return 0, queue.Fail(queue.ErrInvalid, fmt.Sprintf("query %.80q gives %v, which is no count", query, n))
	}
	return n, nil
}

// Close closes the connections.
func (s *Source) Close() error { return s.client.Close() }
