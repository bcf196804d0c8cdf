package consul_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/history"
)

const today = 20779 // 2026-11-22

// minutesOf is a day with one value in some minutes.
func minutesOf(v float64, minutes ...int) *history.Day {
	d := new(history.Day)
	for _, m := range minutes {
		d.Set(m, v)
	}
	return d
}

func TestHistory(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	c := client(t, agent)
	ctx := t.Context()

	if days, left, err := c.History(ctx, "demand_gpus.h100", today-28); err != nil || len(days) != 0 || len(left) != 0 {
		t.Errorf("history of nothing: %v, %v, %v", days, left, err)
	}
	// Two writers take turns. Each minute is there, and the first writer of one stays.
	for i, d := range []*history.Day{minutesOf(1, 10, 11), minutesOf(2, 11, 12), minutesOf(3, 12, 13)} {
		got, err := c.AddHistory(ctx, "demand_gpus.h100", today, d)
		if err != nil || got.Len() != 2+i {
			t.Fatalf("write %d: %v, %v", i, got, err)
		}
	}
	for _, day := range []int{today - 29, today - 28} {
		if _, err := c.AddHistory(ctx, "demand_gpus.h100", day, minutesOf(7, 0)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.AddHistory(ctx, "of.nobody.any.more", day, minutesOf(7, 0)); err != nil {
			t.Fatal(err)
		}
	}
	days, left, err := c.History(ctx, "demand_gpus.h100", today-28)
	if err != nil || len(left) != 0 || len(days) != 2 {
		t.Fatalf("read %d days, %v, %v", len(days), left, err)
	}
	for minute, want := range map[int]float64{10: 1, 11: 1, 12: 2, 13: 3} {
		if v, ok := days[today].At(minute); !ok || v != want {
			t.Errorf("minute %d is %v, %v, want %v", minute, v, ok, want)
		}
	}

	// Nothing new writes nothing.
	key := "gpupool/v1/history/demand_gpus.h100/2026-11-22"
	before := index(t, agent, key)
	if _, err := c.AddHistory(ctx, "demand_gpus.h100", today, minutesOf(9, 10, 11)); err != nil || index(t, agent, key) != before {
		t.Errorf("known minutes were written again: %v", err)
	}

	// Old days of every series go, and nothing else does.
	put(t, agent, "gpupool/v1/history/demand_gpus.h100/notes", "mine")
	if n, err := c.PruneHistory(ctx, today-28); err != nil || n != 2 {
		t.Errorf("pruned %d chunks, %v; want 2", n, err)
	}
	keys, _, err := agent.Client().KV().Keys("gpupool/v1/history/", "", nil)
	if want := 4; err != nil || len(keys) != want {
		t.Errorf("left are %q, want %d", keys, want)
	}
}

func index(t *testing.T, agent *consultest.Agent, key string) uint64 {
	t.Helper()
	pair, _, err := agent.Client().KV().Get(key, nil)
	if err != nil || pair == nil {
		t.Fatalf("%s: %v, %v", key, pair, err)
	}
	return pair.ModifyIndex
}

// Two autoscalers that sample the same pool, as after a failover that was none,
// do not lose minutes of each other.
func TestHistoryOfTwoWriters(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	var wg sync.WaitGroup
	const each = 40
	for writer := range 2 {
		c := client(t, agent)
		wg.Go(func() {
			for i := range each {
				d := minutesOf(float64(writer), 3*i+writer, 3*i+2)
				for {
					_, err := c.AddHistory(t.Context(), "s", today, d)
					if err == nil {
						break
					}
					if !errors.Is(err, consul.ErrStale) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	days, _, err := client(t, agent).History(t.Context(), "s", today)
	if err != nil || days[today] == nil || days[today].Len() != 3*each {
		t.Errorf("the day has %v minutes, %v; want %d", days[today], err, 3*each)
	}
}

// A chunk that this version cannot read is named, left out and left alone; the
// other days are there.
func TestCorruptHistory(t *testing.T) {
	t.Parallel()
	agent := consultest.Start(t)
	c := client(t, agent)
	if _, err := c.AddHistory(t.Context(), "s", today-1, minutesOf(4, 1)); err != nil {
		t.Fatal(err)
	}
	chunk := minutesOf(4, 1).Encode(today - 1)
	key := "gpupool/v1/history/s/2026-11-22"
	for _, value := range []string{
		"",
		"garbage",
		`{"schema":7}`,
		"\x02" + string(chunk[1:]), // a later version's
		string(chunk),              // of another day
		string(chunk[:len(chunk)-2]),
		strings.Repeat("\x01", 300<<10),
	} {
		put(t, agent, key, value)
		days, left, err := c.History(t.Context(), "s", today-28)
		if err != nil || len(days) != 1 || days[today-1] == nil {
			t.Errorf("%.20q: %d days, %v", value, len(days), err)
		}
		if len(left) != 1 || !errors.Is(left[0], consul.ErrCorrupt) || !strings.Contains(left[0].Error(), "consul kv delete "+key) {
			t.Errorf("%.20q: left out %v", value, left)
		}
		_, err = c.AddHistory(t.Context(), "s", today, minutesOf(1, 5))
		if !errors.Is(err, consul.ErrCorrupt) || !strings.Contains(err.Error(), key) {
			t.Errorf("%.20q: a write over it gives %v", value, err)
		}
		if pair, _, err := agent.Client().KV().Get(key, nil); err != nil || string(pair.Value) != value {
			t.Errorf("%.20q: it was overwritten: %v", value, err)
		}
	}
}

func TestHistoryErrors(t *testing.T) {
	t.Parallel()
	c, err := consul.New(consul.Config{Address: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []func(series string) error{
		func(series string) error { _, _, err := c.History(t.Context(), series, 0); return err },
		func(series string) error {
			_, err := c.AddHistory(t.Context(), series, today, minutesOf(1, 1))
			return err
		},
	} {
		if err := call("../../kv"); err == nil || !strings.Contains(err.Error(), "series") {
			t.Errorf("a series that is no key: %v", err)
		}
		if err := call("s"); !errors.Is(err, consul.ErrUnreachable) {
			t.Errorf("no Consul: %v", err)
		}
	}
	if _, err := c.PruneHistory(t.Context(), today); !errors.Is(err, consul.ErrUnreachable) {
		t.Errorf("no Consul: %v", err)
	}
}

// BenchmarkHistory reads 28 days of one series from a real Consul.
func BenchmarkHistory(b *testing.B) {
	agent := consultest.Start(b)
	c, err := consul.New(consul.Config{Address: agent.Addr})
	if err != nil {
		b.Fatal(err)
	}
	for day := range 28 {
		d := new(history.Day)
		for i := range history.Minutes {
			d.Set(i, float64(i%97)+float64(i%5)/5)
		}
		value := d.Encode(today - day)
		key := fmt.Sprintf("gpupool/v1/history/s/%s", history.Date(today-day))
		if _, err := agent.Client().KV().Put(&api.KVPair{Key: key, Value: value}, nil); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		days, left, err := c.History(b.Context(), "s", today-28)
		if err != nil || len(left) > 0 || len(days) != 28 {
			b.Fatal(len(days), left, err)
		}
	}
}
