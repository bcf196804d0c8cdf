package e2e

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gpupool/gpupool/e2e/lab"
	"github.com/gpupool/gpupool/e2e/stage"
)

// startRedis starts a real one (Debian package redis-server) on loopback.
func startRedis(t *testing.T) *redis.Client {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal("no redis-server: make tools PACKAGES=test installs it")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(path, "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	client := redis.NewClient(&redis.Options{Addr: address})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// work is a worker in a line of shell: it takes a task, moves it to those that
// are worked on, takes two seconds for it, and counts it. Told to end, it ends
// after the task that it has.
const work = `trap 'over=1' TERM
c="redis-cli -p %s"
while [ -z "$over" ]; do
  t=$($c LMOVE tasks tasks-running LEFT RIGHT)
  if [ -z "$t" ]; then sleep 0.2; continue; fi
  sleep 2
  $c EVAL 'redis.call("LREM", "tasks-running", 1, ARGV[1]); return redis.call("INCR", "done")' 0 "$t" >/dev/null
done`

// TestQueue: tasks in a Redis list bring up workers, which bring up hosts, from
// nothing at all; when the list is empty all of it goes, without a task being
// lost; and a second time.
func TestQueue(t *testing.T) {
	tasks := startRedis(t)
	_, port, _ := net.SplitHostPort(tasks.Options().Addr)
	p := raiseWith(t, stage.Config{Boot: time.Second, ScaleInAfter: 5 * time.Second, Queues: fmt.Sprintf(`
queue "tasks" {
  source "redis" {
    address           = "127.0.0.1:%s"
    list_name         = "tasks"
    running_list_name = "tasks-running"
    list_length       = 2
  }
}
`, port)})
	p.ok(p.Submit(p.ctx, "workers.nomad.hcl", map[string]string{
		"command": fmt.Sprintf(work, port), "max": "4", "lead_time": "10s", "scale_in_after": "5s",
	}))

	done := 0
	for round, n := range []int{14, 4} {
		for i := range n {
			p.ok(tasks.RPush(p.ctx, "tasks", fmt.Sprintf("%d-%d", round, i)).Err())
		}
		begin := time.Now()
		p.ok(lab.Until(p.ctx, "a worker runs", func(ctx context.Context) (bool, error) {
			running, err := p.Running(ctx, "workers")
			time.Sleep(200 * time.Millisecond)
			return running > 0, err
		}))
		t.Logf("%d tasks to the first worker: %s", n, time.Since(begin).Round(100*time.Millisecond))
		done += n
		most := 0
		p.ok(lab.Until(p.ctx, "all tasks are done", func(ctx context.Context) (bool, error) {
			running, err := p.Running(ctx, "workers")
			if err != nil {
				return false, err
			}
			most = max(most, running)
			got, err := tasks.Get(ctx, "done").Result()
			if err != nil && err != redis.Nil {
				return false, err
			}
			count, _ := strconv.Atoi(got)
			time.Sleep(200 * time.Millisecond)
			return count == done, nil
		}))
		t.Logf("all done after %s, with up to %d workers", time.Since(begin).Round(100*time.Millisecond), most)
		if round == 0 && most < 2 {
			t.Errorf("%d tasks had %d workers at most", n, most)
		}
		p.ok(p.UntilRunning(p.ctx, "workers", 0))
		p.ok(p.UntilAllOff(p.ctx))
	}
	p.ok(p.NothingLost(p.ctx, "workers"))
	left, err := tasks.Keys(p.ctx, "tasks*").Result()
	p.ok(err)
	if len(left) > 0 {
		t.Errorf("left in Redis: %s", strings.Join(left, ", "))
	}
	if got, _ := tasks.Get(p.ctx, "done").Int(); got != done {
		t.Errorf("%d tasks were done, want %d", got, done)
	}
}
