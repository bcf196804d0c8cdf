package redis

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
	"github.com/gpupool/gpupool/internal/setting"
)

// ListConfig is a list, set, sorted set or hash to count.
type ListConfig struct {
	Server
	List    string // key
	Running string // key of what has begun; empty is unknown
}

// ListKind is the line of package sources.
func ListKind() queue.Kind {
	return queue.KindOf(queue.Kind{
		Name: "redis", Doc: "the elements of a Redis list, set, sorted set or hash",
		Targets: []string{"list_length"}, Shared: dial.Keys,
		KEDA: serverKEDA(map[string]string{"list_name": "listName", "list_length": "listLength"}),
	}, DeclareList, NewList)
}

// DeclareList reads the settings of a list.
func DeclareList(r *setting.Reader) ListConfig {
	return ListConfig{
		Server:  declareServer(r),
		List:    r.String("list_name", "", "Key of the list, set, sorted set or hash whose elements wait. Redis does not tell an empty one from one that never was, so neither is an error.", setting.NotEmpty()),
		Running: r.String("running_list_name", "", "Key of the one that workers move elements to while they work on them (`LMOVE`). Without it, running work is unknown."),
	}
}

// List counts the elements under a key.
type List struct {
	client *client
	cfg    ListConfig
}

// NewList makes a source. It sends nothing.
func NewList(cfg ListConfig) (*List, error) {
	keys := []string{cfg.List}
	if cfg.Running != "" {
		keys = append(keys, cfg.Running)
	}
	c, err := open(cfg.Server, keys...)
	if err != nil {
		return nil, err
	}
	return &List{c, cfg}, nil
}

// Read counts, in one transaction if it counts two keys, so that an element
// that moves from one to the other is counted once.
func (l *List) Read(ctx context.Context) (queue.Reading, error) {
	defer l.client.wire.Call(ctx)()
	counts, err := l.count(ctx, l.client.keys)
	if err != nil {
		return queue.Reading{}, err
	}
	r := queue.Reading{Waiting: counts[0]}
	if len(counts) > 1 {
		r.Running = &counts[1]
	}
	return r, nil
}

func (l *List) count(ctx context.Context, keys []string) ([]float64, error) {
	types := make([]*redis.StatusCmd, len(keys))
	_, err := l.client.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			types[i] = p.Type(ctx, key)
		}
		return nil
	})
	if err != nil {
		return nil, l.client.fail(ctx, fmt.Sprintf("type of %q", l.cfg.List), err)
	}
	lengths := make([]*redis.IntCmd, len(keys))
	var unfit error
	_, err = l.client.redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			switch kind := types[i].Val(); kind {
			case "list", "none":
				lengths[i] = p.LLen(ctx, key)
			case "zset":
				lengths[i] = p.ZCard(ctx, key)
			case "set":
				lengths[i] = p.SCard(ctx, key)
			case "hash":
				lengths[i] = p.HLen(ctx, key)
			default:
				unfit = queue.Fail(queue.ErrRefused, fmt.Sprintf("redis: %q is a %s, which has no elements to count (source \"redis-streams\" counts streams)", key, kind))
				return unfit
			}
		}
		return nil
	})
	if unfit != nil {
		return nil, unfit
	}
	if err != nil {
		return nil, l.client.fail(ctx, fmt.Sprintf("length of %q", l.cfg.List), err)
	}
	out := make([]float64, len(keys))
	for i, n := range lengths {
		out[i] = float64(n.Val())
	}
	return out, nil
}

// Close closes the connection.
func (l *List) Close() error { return l.client.close() }
