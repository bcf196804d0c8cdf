package consul

import (
	"context"
	"strings"
)

// Pools lists the names of the pools that have records, sorted.
func (c *Client) Pools(ctx context.Context) ([]string, error) {
	prefix := c.prefix + "pools/"
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	keys, _, err := c.api.KV().Keys(prefix, "/", consistent(reqCtx))
	if err != nil {
		return nil, c.failed(ctx, "list", prefix, err)
	}
	var names []string
	for _, key := range keys {
		name := strings.TrimSuffix(strings.TrimPrefix(key, prefix), "/")
		if segmentRule.MatchString(name) {
			names = append(names, name)
		}
	}
	return names, nil
}
