package promrange

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/common/model"
)

// Sample is one value of an instant query.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// maxSamples bounds the answer to an instant query.
const maxSamples = 10_000

// Vector returns what the query says at one moment: all samples that are
// numbers. Step is not used.
func Vector(ctx context.Context, c Config, at time.Time) ([]Sample, error) {
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	timeout := c.Timeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	value, _, err := client.Query(ctx, c.Query, at)
	if err != nil {
		return nil, fmt.Errorf("prometheus %s: %w", Redacted(c.URL), err)
	}
	vector, ok := value.(model.Vector)
	if !ok {
		return nil, fmt.Errorf("prometheus %s: query %q gives a %s, not a vector", Redacted(c.URL), c.Query, value.Type())
	}
	if len(vector) > maxSamples {
		return nil, fmt.Errorf("prometheus %s: query %q gives %d series, more than %d", Redacted(c.URL), c.Query, len(vector), maxSamples)
	}
	var out []Sample
	for _, s := range vector {
		v := float64(s.Value)
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		labels := make(map[string]string, len(s.Metric))
		for k, l := range s.Metric {
			labels[string(k)] = string(l)
		}
		out = append(out, Sample{labels, v})
	}
	return out, nil
}
