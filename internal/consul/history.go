package consul

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/history"
)

// Days is what is kept of one series, by the number of the day.
type Days map[int]*history.Day

// historyTries is how often a chunk is read and written again when somebody
// else wrote in between.
const historyTries = 5

// History reads the days of a series from the day first on. A chunk that cannot
// be read, be it corrupt or of another version of gpupool, is left out and
// named in left, with the mend; keys that are no days are passed over. series
// is a plain key segment.
func (c *Client) History(ctx context.Context, series string, first int) (days Days, left []error, err error) {
	prefix, err := c.historyKey(series)
	if err != nil {
		return nil, nil, err
	}
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	pairs, _, err := c.api.KV().List(prefix, (&api.QueryOptions{}).WithContext(reqCtx))
	if err != nil {
		return nil, nil, c.failed(ctx, "list", prefix, err)
	}
	days = make(Days, len(pairs))
	for _, pair := range pairs {
		day, ok := history.ParseDate(strings.TrimPrefix(pair.Key, prefix))
		if !ok || day < first {
			continue
		}
		d, err := history.Decode(pair.Value, day)
		if err != nil {
			left = append(left, c.corrupt(pair.Key, err))
			continue
		}
		days[day] = d
	}
	return days, left, nil
}

// AddHistory puts minutes of one day where the store has gaps, and returns the
// day as the store has it then. Whoever writes first has a minute for good, so
// two writers of one series lose nothing of each other. Where the store has all
// of it already, nothing is written. A chunk that cannot be read is left as it
// is: the error wraps [ErrCorrupt] and names it.
func (c *Client) AddHistory(ctx context.Context, series string, day int, d *history.Day) (*history.Day, error) {
	prefix, err := c.historyKey(series)
	if err != nil {
		return nil, err
	}
	key := prefix + history.Date(day)
	for range historyTries {
		merged, rev, err := c.chunk(ctx, key, day)
		if err != nil {
			return nil, err
		}
		if merged.Fill(d) == 0 {
			return merged, nil
		}
		_, refused, err := c.txn(ctx, key, cas(key, merged.Encode(day), rev))
		switch {
		case err != nil:
			return nil, err
		case refused == nil:
			return merged, nil
		}
	}
	return nil, fmt.Errorf("write %s in Consul at %s, %d times: %w", key, c.addr, historyTries, ErrStale)
}

// chunk reads one day, an empty one of revision 0 where there is none.
func (c *Client) chunk(ctx context.Context, key string, day int) (*history.Day, uint64, error) {
	pair, err := c.get(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound):
		return new(history.Day), 0, nil
	case err != nil:
		return nil, 0, err
	}
	d, err := history.Decode(pair.Value, day)
	if err != nil {
		return nil, 0, c.corrupt(key, err)
	}
	return d, pair.ModifyIndex, nil
}

// PruneHistory removes the chunks of all series that are older than the day
// first, those of series that nobody samples any more among them, and returns
// how many that were. Keys that are no days of a series are left alone.
func (c *Client) PruneHistory(ctx context.Context, first int) (int, error) {
	prefix := c.prefix + "history/"
	keys, err := c.historyKeys(ctx, prefix)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, key := range keys {
		series, date, _ := strings.Cut(strings.TrimPrefix(key, prefix), "/")
		if day, ok := history.ParseDate(date); !ok || day >= first || !segmentRule.MatchString(series) {
			continue
		}
		if err := c.remove(ctx, key); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func (c *Client) historyKeys(ctx context.Context, prefix string) ([]string, error) {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	keys, _, err := c.api.KV().Keys(prefix, "", (&api.QueryOptions{}).WithContext(reqCtx))
	if err != nil {
		return nil, c.failed(ctx, "list", prefix, err)
	}
	return keys, nil
}

func (c *Client) remove(ctx context.Context, key string) error {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	if _, err := c.api.KV().Delete(key, (&api.WriteOptions{}).WithContext(reqCtx)); err != nil {
		return c.failed(ctx, "remove", key, err)
	}
	return nil
}

// historyKey is the prefix of the chunks of a series.
func (c *Client) historyKey(series string) (string, error) {
	if !segmentRule.MatchString(series) {
		return "", fmt.Errorf("series %.128q: want 1 to 128 letters, digits, '.', '_', '~' or '-', not starting with '.'", series)
	}
	return c.prefix + "history/" + series + "/", nil
}
