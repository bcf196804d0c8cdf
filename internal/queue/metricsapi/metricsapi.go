// Package metricsapi reads a count from any HTTP endpoint that answers in
// JSON, as KEDA's metrics-api scaler does.
package metricsapi

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
	"github.com/gpupool/gpupool/internal/setting"
)

// Config is an endpoint and where in its answer the counts are.
type Config struct {
	URL     string
	Waiting string // GJSON path
	Running string // GJSON path; empty is unknown
	Oldest  string // GJSON path to seconds; empty is unknown
	Auth    dial.Auth
	TLS     dial.TLS
}

// Kind is the line of package sources.
func Kind() queue.Kind {
	return queue.KindOf(queue.Kind{
		Name: "metrics-api", Doc: "a number that an HTTP endpoint answers in JSON",
		Targets: []string{"target_value"}, Shared: dial.Keys,
		KEDA: dial.Names(dial.KEDA, dial.AuthKEDA, map[string]string{
			"url": "url", "value_location": "valueLocation", "target_value": "targetValue",
			"api_key": "apiKey", "key_param_name": "keyParamName",
		}),
	}, Declare, New)
}

// Declare reads the settings.
func Declare(r *setting.Reader) Config {
	c := Config{
		URL:     r.URL("url", "", "What to GET. It answers with JSON. A user or password in it is refused, and redirects are not followed.", setting.NotEmpty()),
		Waiting: r.String("value_location", "", "Where in the answer the waiting work is: a [GJSON path](https://github.com/tidwall/gjson/blob/master/SYNTAX.md) to one number, or text that is one, such as `queues.0.depth` or `queues.#(name==\"tasks\").depth`. Where there is nothing, the queue is missing.", setting.NotEmpty()),
		Running: r.String("running_location", "", "Where the running work is. Without it, it is unknown."),
		Oldest:  r.String("oldest_location", "", "Where the age of the oldest waiting item is, in seconds. Without it, it is unknown."),
		Auth:    dial.DeclareAuth(r),
	}
	c.Auth.Key = r.Secret("api_key", "Key that goes in a header.")
	c.Auth.Header = r.String("key_param_name", "X-API-KEY", "The header that `api_key` goes in.", setting.Rule[string]{Text: "name of a header", OK: headerName})
	c.TLS = dial.DeclareTLS(r)
	if c.Auth.Key != "" && (c.Auth.Username != "" || c.Auth.Token != "") {
		r.Reject("api_key", "stands beside another credential, and one request has one of them", "take one out")
	}
	return c
}

func headerName(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

// Source is one endpoint.
type Source struct {
	cfg    Config
	client *dial.Client
}

// New makes a source. It sends nothing.
func New(cfg Config) (*Source, error) {
	client, err := dial.NewClient(cfg.TLS, cfg.Auth)
	if err != nil {
		return nil, err
	}
	return &Source{cfg, client}, nil
}

// Read asks the endpoint.
func (s *Source) Read(ctx context.Context) (queue.Reading, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.cfg.URL, nil)
	if err != nil {
		return queue.Reading{}, queue.Fail(queue.ErrRefused, "the URL cannot be asked")
	}
	req.Header.Set("Accept", "application/json")
	_, body, secrets, err := s.client.Do(ctx, req)
	if err != nil {
		return queue.Reading{}, err
	}
	r, err := s.cfg.read(body)
	if err != nil {
		return queue.Reading{}, queue.Blot(err, secrets...)
	}
	return r, nil
}

// read finds the counts in an answer.
func (c Config) read(body []byte) (queue.Reading, error) {
	if !json.Valid(body) { // and not nested deeper than GJSON can stand
		return queue.Reading{}, queue.Fail(queue.ErrInvalid, fmt.Sprintf("the answer is no JSON: %.80q", body))
	}
	var r queue.Reading
	var err error
	if r.Waiting, err = number(body, c.Waiting); err != nil {
		return queue.Reading{}, err
	}
	if c.Running != "" {
		running, err := number(body, c.Running)
		if err != nil {
			return queue.Reading{}, err
		}
		r.Running = &running
	}
	if c.Oldest != "" {
		age, err := number(body, c.Oldest)
		if err != nil {
			return queue.Reading{}, err
		}
		r.Oldest = queue.Seconds(age)
	}
	return r, nil
}

// number finds one number.
func number(body []byte, path string) (float64, error) {
	v := gjson.GetBytes(body, path)
	var n float64
	switch v.Type {
	case gjson.Number:
		n = v.Num
	case gjson.String:
		var err error
		if n, err = strconv.ParseFloat(strings.TrimSpace(v.Str), 64); err != nil {
			return 0, queue.Fail(queue.ErrInvalid, fmt.Sprintf("at %s is the text %.60q, which is no number", path, v.Str))
		}
	default:
		if !v.Exists() {
			return 0, queue.Fail(queue.ErrMissing, fmt.Sprintf("the answer has nothing at %s", path))
		}
		return 0, queue.Fail(queue.ErrInvalid, fmt.Sprintf("at %s is %.60q, which is no number", path, v.Raw))
	}
	if math.IsNaN(n) || math.IsInf(n, 0) || n < 0 {
		return 0, queue.Fail(queue.ErrInvalid, fmt.Sprintf("at %s is %v, which is no count", path, n))
	}
	return n, nil
}

// Close closes the connections.
func (s *Source) Close() error { return s.client.Close() }
