// Package sdtest has Prometheus' own code read prometheus.yml, find agents through
// a real Consul and scrape them.
package sdtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	_ "github.com/prometheus/prometheus/discovery/consul" // consul_sd_configs
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"

	"github.com/gpupool/gpupool/agent/nvmltest"
	"github.com/gpupool/gpupool/internal/consul/consultest"
)

// TestPrometheusFindsTheAgents: with nothing but the address of Consul and the
// intervals changed, every agent is a target by the name of its node, as the
// dashboard and the alerts have it; one that dies stays one that is down, and one
// that ends is none any more.
func TestPrometheusFindsTheAgents(t *testing.T) {
	consul := consultest.Start(t)
	program := build(t)
	library := nvmltest.Build(t)
	state := filepath.Join(t.TempDir(), "state")
	if err := (nvmltest.State{"count": "2", "gpu1.power_mw": "412000"}).WriteFile(state); err != nil {
		t.Fatal(err)
	}
	agents := map[string]*exec.Cmd{}
	for _, node := range []string{"gpu-01", "gpu-02", "gpu-03"} {
		agents[node] = start(t, state, program, "-node", node, "-listen", freeAddress(t), "-consul", consul.Addr, "-nvml", library, "-period", "100ms")
	}
	p := prometheus(t, consul.Addr)

	p.eventually("the three are up, by their nodes' names", func() bool {
		return p.is(`{__name__="up", instance="gpu-01", job="gpupool-agent"}`, 1) &&
			p.is(`{__name__="up", instance="gpu-02", job="gpupool-agent"}`, 1) &&
			p.is(`{__name__="up", instance="gpu-03", job="gpupool-agent"}`, 1)
	})
	p.eventually("what the GPUs draw is there for each host", func() bool {
		return p.is(`{__name__="gpupool_gpu_power_watts", gpu="GPU-fa4e0001-0000-4000-8000-000000000000", instance="gpu-02", job="gpupool-agent"}`, 412)
	})
	want := []string{
		`{instance="127.0.0.1:9110", job="gpupool-target"}`, `{instance="127.0.0.1:9111", job="gpupool-apm"}`,
		`{instance="gpu-01", job="gpupool-agent"}`, `{instance="gpu-02", job="gpupool-agent"}`, `{instance="gpu-03", job="gpupool-agent"}`,
	}
	if got := p.targets(); !slices.Equal(got, want) {
		t.Errorf("the targets are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	if err := agents["gpu-01"].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := agents["gpu-02"].Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.eventually("the one that died is down", func() bool { return p.is(`{__name__="up", instance="gpu-01", job="gpupool-agent"}`, 0) })
	p.eventually("the one that ended is no target", func() bool { return !slices.Contains(p.targets(), want[3]) })
	if !slices.Contains(p.targets(), want[2]) {
		t.Error("the one that died is no target any more, so no alert would tell of it")
	}
}

// build builds the agent as `make bin` does.
func build(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", program, "./agent")
	cmd.Dir = "../../.."
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// start runs an agent until the test ends.
func start(t *testing.T, state, program string, args ...string) *exec.Cmd {
	t.Helper()
	var log strings.Builder
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), nvmltest.FileEnv+"="+state)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // some have ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%v said:\n%s", args[:2], log.String())
		}
	})
	return cmd
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// server is Prometheus without its storage: what it would have stored last, by
// the labels of the series.
type server struct {
	*testing.T
	scraper *scrape.Manager

	mu   sync.Mutex
	last map[string]float64
}

// prometheus runs one with prometheus.yml until the test ends.
func prometheus(t *testing.T, consul string) *server {
	t.Helper()
	text, err := os.ReadFile("../prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{"- server: 127.0.0.1:8500\n", "- server: " + consul + "\n        refresh_interval: 1s\n"},
		{"scrape_interval: 15s", "scrape_interval: 1s\n  scrape_timeout: 1s"},
	} {
		if strings.Count(string(text), change[0]) != 1 {
			t.Fatalf("prometheus.yml does not have %q once", change[0])
		}
		text = []byte(strings.ReplaceAll(string(text), change[0], change[1]))
	}
	cfg, err := config.Load(string(text), promslog.NewNopLogger())
	if err != nil {
		t.Fatalf("Prometheus refuses prometheus.yml: %v", err)
	}

	s := &server{T: t, last: map[string]float64{}}
	registry := client.NewRegistry()
	metrics, err := discovery.CreateAndRegisterSDMetrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	finder := discovery.NewManager(ctx, promslog.NewNopLogger(), registry, metrics, discovery.Updatert(100*time.Millisecond))
	s.scraper, err = scrape.NewManager(&scrape.Options{DiscoveryReloadInterval: model.Duration(100 * time.Millisecond)}, promslog.NewNopLogger(), nil, nil, s, registry)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.scraper.ApplyConfig(cfg); err != nil {
		t.Fatal(err)
	}
	finds := map[string]discovery.Configs{}
	for _, c := range cfg.ScrapeConfigs {
		finds[c.JobName] = c.ServiceDiscoveryConfigs
	}
	if err := finder.ApplyConfig(finds); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { _ = finder.Run() })                   // ends with ctx
	running.Go(func() { _ = s.scraper.Run(finder.SyncCh()) }) // ends when it is stopped
	t.Cleanup(func() {
		stop()
		s.scraper.Stop()
		running.Wait()
	})
	return s
}

// targets are the labels of all targets, sorted.
func (s *server) targets() (all []string) {
	for _, list := range s.scraper.TargetsActive() {
		for _, target := range list {
			all = append(all, target.Labels(labels.NewBuilder(labels.EmptyLabels())).String())
		}
	}
	slices.Sort(all)
	return all
}

// is says whether the last sample of a series has a value.
func (s *server) is(series string, want float64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	got, known := s.last[series]
	return known && got == want
}

func (s *server) eventually(what string, ok func() bool) {
	s.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.mu.Lock()
			defer s.mu.Unlock()
			up := ""
			for series, v := range s.last {
				if strings.Contains(series, `"up"`) {
					up += fmt.Sprintln(series, v)
				}
			}
			s.Fatalf("it never came to it that %s; there are\n%s\nwith the targets\n%s", what, up, strings.Join(s.targets(), "\n"))
		}
	}
}

// AppenderV2 makes the server what scraped samples are appended to.
func (s *server) AppenderV2(context.Context) storage.AppenderV2 { return appender{s} }

type appender struct{ to *server }

// Append keeps a sample.
func (a appender) Append(_ storage.SeriesRef, ls labels.Labels, _, _ int64, v float64, _ *histogram.Histogram, _ *histogram.FloatHistogram, _ storage.AppendV2Options) (storage.SeriesRef, error) {
	a.to.mu.Lock()
	defer a.to.mu.Unlock()
	if value.IsStaleNaN(v) {
		delete(a.to.last, ls.String())
	} else {
		a.to.last[ls.String()] = v
	}
	return storage.SeriesRef(ls.Hash()), nil
}

// Commit has nothing left to do.
func (appender) Commit() error { return nil }

// Rollback takes nothing back: a sample that was scraped was scraped.
func (appender) Rollback() error { return nil }
