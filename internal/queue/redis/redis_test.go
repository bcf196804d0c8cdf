package redis_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/queuetest"
	"github.com/gpupool/gpupool/internal/queue/redis"
)

const password = "redis-Pass1"

// server is a real Redis on loopback.
type server struct {
	*queuetest.Process
	addr string
	db   *goredis.Client
}

func parse(src []byte) (*queue.Set, error) {
	return queue.Parse("queues.hcl", src, []queue.Kind{redis.ListKind(), redis.StreamKind()})
}

func start(t testing.TB, args ...string) *server {
	t.Helper()
	s := &server{addr: queuetest.Loopback(queuetest.FreePort(t))}
	_, port, _ := strings.Cut(s.addr, ":")
	s.db = goredis.NewClient(&goredis.Options{Addr: s.addr, Password: password, PoolSize: 2})
	t.Cleanup(func() { _ = s.db.Close() })
	s.Process = queuetest.Start(t, queuetest.Spec{
		Args: append([]string{
			queuetest.Program(t, "redis-server"), "--bind", queuetest.Host(), "--port", port,
			"--requirepass", password, "--masterauth", password, "--save", "", "--dir", t.TempDir(),
		}, args...),
		Ready: func() error { return s.db.Ping(context.Background()).Err() },
	})
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func withTLS(settings map[string]string) map[string]string {
	settings = maps.Clone(settings)
	settings["tls"] = "true"
	return settings
}

var frames = []string{"go-redis", "internal/queue/redis.", "internal/queue/dial."}

func TestList(t *testing.T) {
	s := start(t)
	queuetest.Run(t, queuetest.Rig{
		Kind: redis.ListKind(), Secret: password, WrongSecret: "wrong-Pass1", Frames: frames,
		Lacks: map[string]string{"missing queue": "Redis does not tell an empty list from none"},
		Server: queuetest.Server{
			Addr: s.addr, SettingsTLS: withTLS, Restart: func() { s.Stop(); s.Run() },
			Settings: func(addr, queue, password string) map[string]string {
				return map[string]string{"address": addr, "password": password, "list_name": queue, "running_list_name": queue + "-running"}
			},
			Put: func(t *testing.T, queue string, items, begun int) {
				for i := range items {
					key := queue
					if i < begun {
						key += "-running"
					}
					must(t, s.db.RPush(t.Context(), key, i).Err())
				}
			},
		},
	})
}

func TestStream(t *testing.T) {
	s := start(t)
	queuetest.Run(t, queuetest.Rig{
		Kind: redis.StreamKind(), Secret: password, WrongSecret: "wrong-Pass1", Frames: frames,
		Server: queuetest.Server{
			Addr: s.addr, SettingsTLS: withTLS, Restart: func() { s.Stop(); s.Run() },
			Settings: func(addr, queue, password string) map[string]string {
				return map[string]string{"address": addr, "password": password, "stream": queue, "consumer_group": "workers"}
			},
			Put: func(t *testing.T, queue string, items, begun int) {
				ctx := t.Context()
				must(t, s.db.XGroupCreateMkStream(ctx, queue, "workers", "0").Err())
				for i := range items {
					must(t, s.db.XAdd(ctx, &goredis.XAddArgs{Stream: queue, Values: []any{"job", i}}).Err())
				}
				if begun > 0 {
					must(t, s.db.XReadGroup(ctx, &goredis.XReadGroupArgs{Group: "workers", Consumer: "a", Streams: []string{queue, ">"}, Count: int64(begun)}).Err())
				}
			},
		},
	})
}

// read parses a queue of one source, reads it and prints what came.
func read(t testing.TB, kind string, lines ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(file, []byte(password), 0o600))
	src := strings.ReplaceAll(fmt.Sprintf("queue \"q\" {\n source %q {\n%s\n }\n}", kind, strings.Join(lines, "\n")), "PASSWORD", "file:"+file)
	set, err := parse([]byte(src))
	if err != nil {
		return err.Error()
	}
	defer set.Close()
	return queuetest.Show(set.Queues[0].Read(t.Context(), queuetest.Now))
}

func TestWhatElements(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	must(t, s.db.SAdd(ctx, "set", "a", "b").Err())
	must(t, s.db.ZAdd(ctx, "zset", goredis.Z{Score: 1, Member: "a"}).Err())
	must(t, s.db.HSet(ctx, "hash", "a", 1, "b", 2, "c", 3).Err())
	must(t, s.db.Set(ctx, "text", "hello", 0).Err())
	must(t, s.db.XAdd(ctx, &goredis.XAddArgs{Stream: "stream", Values: []any{"a", 1}}).Err())
	must(t, s.db.XGroupCreate(ctx, "stream", "late", "$").Err())
	must(t, s.db.Do(ctx, "SELECT", 0).Err())
	other := goredis.NewClient(&goredis.Options{Addr: s.addr, Password: password, DB: 3})
	defer other.Close()
	must(t, other.RPush(ctx, "list", 1, 2, 3, 4).Err())
	must(t, s.db.Do(ctx, "ACL", "SETUSER", "reader", "on", ">"+password, "~zset", "+type", "+zcard", "+multi", "+exec", "+select").Err())

	at, pw := fmt.Sprintf("address = %q", s.addr), `password = "PASSWORD"`
	for _, c := range []struct {
		kind string
		more []string
		want string
	}{
		{"redis", []string{`list_name = "set"`}, "2 waiting"},
		{"redis", []string{`list_name = "zset"`}, "1 waiting"},
		{"redis", []string{`list_name = "hash"`}, "3 waiting"},
		{"redis", []string{`list_name = "none"`}, "0 waiting"},
		{"redis", []string{`list_name = "list"`, `database_index = 3`}, "4 waiting"},
		{"redis", []string{`list_name = "text"`}, "has no elements to count"},
		{"redis", []string{`list_name = "stream"`}, "redis-streams"},
		{"redis", []string{`list_name = "zset"`, `username = "reader"`}, "1 waiting"},
		{"redis", []string{`list_name = "set"`, `username = "reader"`}, queue.ErrAuth.Error()},
		{"redis-streams", []string{`stream = "stream"`}, "1 waiting"},
		{"redis-streams", []string{`stream = "none"`}, queue.ErrMissing.Error()},
		{"redis-streams", []string{`stream = "set"`}, "WRONGTYPE"},
		{"redis-streams", []string{`stream = "stream"`, `consumer_group = "late"`}, "0 waiting"},
		{"redis-streams", []string{`stream = "stream"`, `consumer_group = "none"`}, queue.ErrMissing.Error()},
		{"redis-streams", []string{`stream = "stream"`, `consumer_group = "none"`, `missing_as_zero = true`}, "0 waiting"},
		{"redis-streams", []string{`stream = "none"`, `missing_as_zero = true`}, "0 waiting"},
	} {
		if got := read(t, c.kind, append(c.more, at, pw)...); !strings.Contains(got, c.want) {
			t.Errorf("%s %v: %s, want %q", c.kind, c.more, got, c.want)
		}
	}

	// A lag that Redis lost track of is unknown, not zero.
	must(t, s.db.XAdd(ctx, &goredis.XAddArgs{Stream: "holes", ID: "1-1", Values: []any{"a", 1}}).Err())
	must(t, s.db.XAdd(ctx, &goredis.XAddArgs{Stream: "holes", ID: "2-1", Values: []any{"a", 1}}).Err())
	must(t, s.db.XAdd(ctx, &goredis.XAddArgs{Stream: "holes", ID: "3-1", Values: []any{"a", 1}}).Err())
	must(t, s.db.XDel(ctx, "holes", "2-1").Err())
	must(t, s.db.XGroupCreate(ctx, "holes", "g", "1-1").Err())
	if got := read(t, "redis-streams", at, pw, `stream = "holes"`, `consumer_group = "g"`); !strings.Contains(got, "cannot tell the lag") {
		t.Errorf("a lost lag: %s", got)
	}
}

// TestErrorsAreReturnedAndNotPrinted: what went wrong is in the error, for the
// caller to log once. The library's own logger takes the stderr that the process
// began with, so the source runs in a process of its own.
func TestErrorsAreReturnedAndNotPrinted(t *testing.T) {
	const env = "GPUPOOL_TEST_REDIS_ADDRESS"
	if addr := os.Getenv(env); addr != "" {
		fmt.Println(read(t, "redis", fmt.Sprintf("address = %q", addr), `list_name = "tasks"`))
		return
	}
	addr := queuetest.Loopback(queuetest.FreePort(t))
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), env+"="+addr)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	must(t, cmd.Run())
	if !strings.Contains(stdout.String(), queue.ErrUnreachable.Error()) || !strings.Contains(stdout.String(), addr) {
		t.Errorf("it returned %q, want %q and %s", stdout.String(), queue.ErrUnreachable, addr)
	}
	if stderr.String() != "" {
		t.Errorf("it printed %q", stderr.String())
	}
}

// A source that goes by Sentinels finds the master, and the next one after a
// failover.
func TestSentinel(t *testing.T) {
	master := start(t)
	_, port, _ := strings.Cut(master.addr, ":")
	replica := start(t, "--replicaof", queuetest.Host(), port, "--replica-announce-ip", queuetest.Host())
	must(t, master.db.RPush(t.Context(), "list", 1, 2, 3).Err())

	dir := t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `
		sentinel monitor gpu %s %s 1
		sentinel auth-pass gpu %s
		sentinel down-after-milliseconds gpu 1500
		sentinel failover-timeout gpu 2000
		requirepass sentinel-Pass1
	`, queuetest.Host(), port, password), 0o600))
	addr := queuetest.Loopback(queuetest.FreePort(t))
	_, sentinelPort, _ := strings.Cut(addr, ":")
	sentinel := goredis.NewSentinelClient(&goredis.Options{Addr: addr, Password: "sentinel-Pass1"})
	defer sentinel.Close()
	queuetest.Start(t, queuetest.Spec{
		Args: []string{queuetest.Program(t, "redis-server"), conf, "--sentinel", "--bind", queuetest.Host(), "--port", sentinelPort, "--dir", dir},
		Ready: func() error {
			replicas, err := sentinel.Replicas(context.Background(), "gpu").Result()
			if err == nil && (len(replicas) == 0 || replicas[0]["master-link-status"] != "ok") {
				err = fmt.Errorf("no replica: %v", replicas)
			}
			return err
		},
	})
	// A Sentinel that stood still for two seconds does nothing for thirty (TILT).
	must(t, sentinel.Process(t.Context(), goredis.NewStatusCmd(t.Context(), "SENTINEL", "DEBUG", "tilt-period", "1000")))
	t.Setenv("SENTINEL_PASSWORD", "sentinel-Pass1")
	t.Setenv("REDIS_PASSWORD", password)
	set, err := parse(fmt.Appendf(nil, `
queue "q" {
  source "redis" {
    address           = "127.0.0.1:1, %s"
    sentinel_master   = "gpu"
    sentinel_password = "env:SENTINEL_PASSWORD"
    password          = "env:REDIS_PASSWORD"
    list_name         = "list"
  }
}`, addr))
	must(t, err)
	defer set.Close()
	read := func() string { return queuetest.Show(set.Queues[0].Read(t.Context(), queuetest.Now)) }
	if got := read(); !strings.Contains(got, "3 waiting") {
		t.Fatalf("by the Sentinel: %s", got)
	}
	master.Stop()
	queuetest.Eventually(t, "4 waiting", func() string {
		_ = replica.db.RPush(t.Context(), "list", 4).Err() // fails until it is the master
		if n, _ := replica.db.LLen(t.Context(), "list").Result(); n > 4 {
			_ = replica.db.LTrim(t.Context(), "list", 0, 3).Err()
		}
		return read()
	})
}

// TestCluster: each key is read from the node that has it, also after it moved
// and after the first node that is named died.
func TestCluster(t *testing.T) {
	ctx := t.Context()
	halves := [][2]int{{0, 8191}, {8192, 16383}}
	nodes, buses := make([]*server, len(halves)), make([]string, len(halves))
	for i, half := range halves {
		buses[i] = fmt.Sprint(queuetest.FreePort(t))
		nodes[i] = start(t, "--cluster-enabled", "yes", "--cluster-port", buses[i], "--cluster-announce-ip", queuetest.Host())
		must(t, nodes[i].db.ClusterAddSlotsRange(ctx, half[0], half[1]).Err())
	}
	_, port, _ := strings.Cut(nodes[1].addr, ":")
	must(t, nodes[0].db.Do(ctx, "CLUSTER", "MEET", queuetest.Host(), port, buses[1]).Err())
	for _, n := range nodes {
		queuetest.Eventually(t, "cluster_state:ok cluster_slots_assigned:16384", func() string {
			info, _ := n.db.ClusterInfo(ctx).Result()
			lines := strings.Split(info, "\r\n")
			return strings.Join(lines[:min(2, len(lines))], " ")
		})
	}
	t.Setenv("REDIS_PASSWORD", password)
	set := func(kind, keys string) *queue.Set {
		t.Helper()
		set, err := parse(fmt.Appendf(nil, `queue "q" {
			source %q {
				cluster  = true
				address  = "127.0.0.1:1, %s, %s"
				password = "env:REDIS_PASSWORD"
				%s
			}
		}`, kind, nodes[0].addr, nodes[1].addr, keys))
		must(t, err)
		t.Cleanup(func() { _ = set.Close() })
		return set
	}
	show := func(s *queue.Set) string { return queuetest.Show(s.Queues[0].Read(ctx, queuetest.Now)) }
	want := func(what string, s *queue.Set, want string) {
		t.Helper()
		if got := show(s); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}

	// By CRC16: {a} is in slot 15495, {b} in 3300.
	must(t, nodes[1].db.RPush(ctx, "{a}:list", 1, 2, 3).Err())
	must(t, nodes[1].db.RPush(ctx, "{a}:running", 4).Err())
	must(t, nodes[0].db.XAdd(ctx, &goredis.XAddArgs{Stream: "{b}:stream", Values: []any{"x", 1}}).Err())
	list := set("redis", `list_name = "{a}:list"
		running_list_name = "{a}:running"`)
	want("a list on the second node", list, "3 waiting and 1 running")
	want("a stream on the first", set("redis-streams", `stream = "{b}:stream"`), "1 waiting")
	want("two keys of two nodes", set("redis", `list_name = "{a}:list"
		running_list_name = "{b}:running"`), "the keys are not in one slot")

	ids := make([]string, len(nodes))
	for i, n := range nodes {
		var err error
		ids[i], err = n.db.Do(ctx, "CLUSTER", "MYID").Text()
		must(t, err)
	}
	const slot = 15495
	must(t, nodes[0].db.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[1]).Err())
	must(t, nodes[1].db.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[0]).Err())
	host, to, _ := strings.Cut(nodes[0].addr, ":")
	must(t, nodes[1].db.Do(ctx, "MIGRATE", host, to, "", 0, 5000, "AUTH", password, "KEYS", "{a}:list", "{a}:running").Err())
	for _, n := range nodes {
		must(t, n.db.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", ids[0]).Err())
	}
	want("the list just moved", list, "MOVED")
	want("after it moved", list, "3 waiting and 1 running")
}

func TestClusterSettings(t *testing.T) {
	for lines, want := range map[string]string{
		`sentinel_master = "m"`: "a cluster has no Sentinels",
		`database_index = 2`:    "a cluster has no other",
	} {
		_, err := parse(fmt.Appendf(nil, `queue "q" {
			source "redis" {
				cluster   = true
				address   = "127.0.0.1:1"
				list_name = "l"
				%s
			}
		}`, lines))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", lines, err, want)
		}
	}
}
