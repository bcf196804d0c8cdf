package rabbitmq

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strings"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
)

// management asks the HTTP API of the management plugin:
// https://www.rabbitmq.com/docs/http-api-reference#get-apiqueuesvhostname.
type management struct {
	cfg    Config
	client *dial.Client
	url    string
}

func newManagement(cfg Config) (*management, error) {
	client, err := dial.NewClient(cfg.TLS, dial.Auth{Username: cfg.Username, Password: cfg.Password})
	if err != nil {
		return nil, err
	}
	base := strings.TrimSuffix(cfg.Host.String(), "/")
	return &management{cfg, client, base + "/api/queues/" + url.PathEscape(cfg.VHost) + "/" + url.PathEscape(cfg.Queue)}, nil
}

// Read asks for the queue.
func (m *management) Read(ctx context.Context) (queue.Reading, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url, nil)
	if err != nil {
		return queue.Reading{}, queue.Fail(queue.ErrRefused, err.Error())
	}
	_, body, secrets, err := m.client.Do(ctx, req)
	if err != nil {
		return queue.Reading{}, err
	}
	r, err := m.cfg.read(body)
	if err != nil {
		return queue.Reading{}, queue.Blot(err, secrets...)
	}
	return r, nil
}

// answer is what is read of a queue. The counts are absent until the server
// has counted for the first time.
type answer struct {
	Name    string   `json:"name"`
	Ready   *float64 `json:"messages_ready"`
	Unacked *float64 `json:"messages_unacknowledged"`
	Stats   struct {
		Publish struct {
			Rate *float64 `json:"rate"`
		} `json:"publish_details"`
	} `json:"message_stats"`
}

// read finds the counts in an answer.
func (c Config) read(body []byte) (queue.Reading, error) {
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return queue.Reading{}, queue.Fail(queue.ErrInvalid, fmt.Sprintf("the answer is none of RabbitMQ: %.80q", body))
	}
	if a.Name != c.Queue {
		return queue.Reading{}, queue.Fail(queue.ErrInvalid, fmt.Sprintf("the answer is about queue %.80q, not %q", a.Name, c.Queue))
	}
	for _, n := range []*float64{a.Ready, a.Unacked} {
		if n == nil {
			return queue.Reading{}, queue.Fail(queue.ErrInvalid, "the server has not counted yet, or its statistics are turned off (management_agent.disable_metrics_collector)")
		}
	}
	r := queue.Reading{Waiting: *a.Ready}
	if c.Mode == MessageRate {
		r.Waiting = 0 // a queue that was never published to has no rate
		if a.Stats.Publish.Rate != nil {
			r.Waiting = *a.Stats.Publish.Rate
		}
	} else if !c.ExcludeUnack {
		r.Running = a.Unacked
	}
	if !(r.Waiting >= 0) || math.IsInf(r.Waiting, 0) || r.Running != nil && !(*r.Running >= 0) {
		return queue.Reading{}, queue.Fail(queue.ErrInvalid, fmt.Sprintf("%v ready and %v unacknowledged messages are no counts", *a.Ready, *a.Unacked))
	}
	return r, nil
}

// Close closes the connections.
func (m *management) Close() error { return m.client.Close() }
