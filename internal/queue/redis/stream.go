package redis

import (
	"context"
	"fmt"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
	"github.com/gpupool/gpupool/internal/setting"
)

// StreamConfig is a stream to count.
type StreamConfig struct {
	Server
	Stream string // key
	Group  string // consumer group; empty counts all entries of the stream
}

// StreamKind is the line of package sources.
func StreamKind() queue.Kind {
	return queue.KindOf(queue.Kind{
		Name: "redis-streams", Doc: "the entries of a Redis stream that a consumer group has not done",
		Targets: []string{"lag_count", "stream_length"}, Shared: dial.Keys,
		KEDA: serverKEDA(map[string]string{
			"stream": "stream", "consumer_group": "consumerGroup", "lag_count": "lagCount", "stream_length": "streamLength",
		}),
	}, DeclareStream, NewStream)
}

// DeclareStream reads the settings of a stream.
func DeclareStream(r *setting.Reader) StreamConfig {
	return StreamConfig{
		Server: declareServer(r),
		Stream: r.String("stream", "", "Key of the stream.", setting.NotEmpty()),
		Group:  r.String("consumer_group", "", "The group whose entries are counted: its lag waits, and what is pending (read, not acknowledged) runs. Needs Redis 7, which is the first to tell the lag. Without a group, all entries of the stream wait."),
	}
}

// Stream counts the entries of a stream.
type Stream struct {
	client *client
	cfg    StreamConfig
}

// NewStream makes a source. It sends nothing.
func NewStream(cfg StreamConfig) (*Stream, error) {
	c, err := open(cfg.Server, cfg.Stream)
	if err != nil {
		return nil, err
	}
	return &Stream{c, cfg}, nil
}

// Read counts.
func (s *Stream) Read(ctx context.Context) (queue.Reading, error) {
	defer s.client.wire.Call(ctx)()
	if s.cfg.Group == "" {
		return s.length(ctx)
	}
	// The library's own command takes a lag that is not told for 0.
	groups, err := s.client.redis.Do(ctx, "XINFO", "GROUPS", s.cfg.Stream).Slice()
	if err != nil {
		return queue.Reading{}, s.client.fail(ctx, fmt.Sprintf("groups of stream %q", s.cfg.Stream), err)
	}
	lag, pending, err := group(groups, s.cfg.Group)
	if err != nil {
		return queue.Reading{}, fmt.Errorf("redis: stream %q: %w", s.cfg.Stream, err)
	}
	return queue.Reading{Waiting: lag, Running: &pending}, nil
}

func (s *Stream) length(ctx context.Context) (queue.Reading, error) {
	info, err := s.client.redis.Exists(ctx, s.cfg.Stream).Result()
	if err != nil {
		return queue.Reading{}, s.client.fail(ctx, fmt.Sprintf("stream %q", s.cfg.Stream), err)
	}
	if info == 0 {
		return queue.Reading{}, queue.Fail(queue.ErrMissing, fmt.Sprintf("redis: stream %q", s.cfg.Stream))
	}
	n, err := s.client.redis.XLen(ctx, s.cfg.Stream).Result()
	if err != nil {
		return queue.Reading{}, s.client.fail(ctx, fmt.Sprintf("length of stream %q", s.cfg.Stream), err)
	}
	return queue.Reading{Waiting: float64(n)}, nil
}

// group finds a group in the answer to XINFO GROUPS, which has a flat list of
// names and values for each: https://redis.io/docs/latest/commands/xinfo-groups/.
func group(groups []any, name string) (lag, pending float64, err error) {
	for _, g := range groups {
		flat, ok := g.([]any)
		if !ok {
			return 0, 0, queue.Fail(queue.ErrInvalid, "a group is no list")
		}
		fields := make(map[string]any)
		for i := 0; i+1 < len(flat); i += 2 {
			if key, ok := flat[i].(string); ok {
				fields[key] = flat[i+1]
			}
		}
		if fields["name"] != name {
			continue
		}
		p, ok := fields["pending"].(int64)
		if !ok || p < 0 {
			return 0, 0, queue.Fail(queue.ErrInvalid, fmt.Sprintf("group %q has no count of pending entries", name))
		}
		l, ok := fields["lag"].(int64)
		if !ok || l < 0 {
			return 0, 0, queue.Fail(queue.ErrInvalid, fmt.Sprintf("Redis cannot tell the lag of group %q: it is older than version 7, or entries were deleted, or the group was made in the middle of the stream; XGROUP SETID with ENTRIESREAD mends the last", name))
		}
		return float64(l), float64(p), nil
	}
	return 0, 0, queue.Fail(queue.ErrMissing, fmt.Sprintf("group %q", name))
}

// Close closes the connection.
func (s *Stream) Close() error { return s.client.close() }
