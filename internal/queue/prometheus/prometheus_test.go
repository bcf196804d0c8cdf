package prometheus_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/prometheus"
	"github.com/gpupool/gpupool/internal/queue/queuetest"
)

const (
	password = "prom-Pass1"
	hash     = "$2a$04$ohsqiS5p1ExsZaDZah6Xzu7Pa7yz9IJE1xFBaFZVveSsaULU1uAP2" // of password, by bcrypt at its least cost
)

// exporter is what the server scrapes.
type exporter struct {
	mu      sync.Mutex
	samples map[string]int
}

func parse(src []byte) (*queue.Set, error) {
	return queue.Parse("queues.hcl", src, []queue.Kind{prometheus.Kind()})
}

func (e *exporter) set(name, queue string, value int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.samples[fmt.Sprintf("%s{queue=%q}", name, queue)] = value
}

func (e *exporter) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for series, value := range e.samples {
		fmt.Fprintf(w, "%s %d\n", series, value)
	}
}

// start runs a real Prometheus that scrapes e.
func start(t *testing.T, e *exporter) *server {
	t.Helper()
	scraped := httptest.NewServer(e)
	t.Cleanup(scraped.Close)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := write("prometheus.yml", fmt.Sprintf(`
global: {scrape_interval: 100ms, scrape_timeout: 100ms}
scrape_configs:
  - job_name: exporter
    static_configs: [{targets: [%q]}]
`, strings.TrimPrefix(scraped.URL, "http://")))
	s := &server{addr: queuetest.Loopback(queuetest.FreePort(t))}
	s.Process = queuetest.Start(t, queuetest.Spec{
		Args: []string{
			queuetest.Program(t, "prometheus"), "--config.file", config, "--web.config.file", write("web.yml", "basic_auth_users: {gpupool: "+hash+"}\n"),
			"--web.listen-address", s.addr, "--storage.tsdb.path", filepath.Join(dir, "data"), "--log.level", "warn",
		},
		Ready: func() error {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.addr+"/-/ready", nil)
			if err != nil {
				return err
			}
			req.SetBasicAuth("gpupool", password)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("HTTP %d", resp.StatusCode)
			}
			return nil
		},
	})
	return s
}

type server struct {
	*queuetest.Process
	addr string
}

func TestContract(t *testing.T) {
	e := &exporter{samples: make(map[string]int)}
	s := start(t, e)
	queuetest.Run(t, queuetest.Rig{
		Kind: prometheus.Kind(), Secret: password, WrongSecret: "wrong-Pass1", Frames: []string{"internal/queue/prometheus."},
		Server: queuetest.Server{
			Addr: s.addr, Restart: func() { s.Stop(); s.Run() },
			Settings: func(addr, queue, password string) map[string]string {
				return map[string]string{
					"server_address": "http://" + addr, "username": "gpupool", "password": password,
					"query": fmt.Sprintf("waiting{queue=%q}", queue), "running_query": fmt.Sprintf("running{queue=%q}", queue),
				}
			},
			SettingsTLS: func(m map[string]string) map[string]string {
				m = maps.Clone(m)
				m["server_address"] = strings.Replace(m["server_address"], "http://", "https://", 1)
				return m
			},
			Put: func(_ *testing.T, queue string, items, begun int) {
				e.set("waiting", queue, items-begun)
				e.set("running", queue, begun)
			},
		},
	})
}

func TestQueries(t *testing.T) {
	e := &exporter{samples: make(map[string]int)}
	e.set("waiting", "a", 3)
	e.set("waiting", "b", 4)
	s := start(t, e)
	t.Setenv("PROM_PASSWORD", password)
	read := func(query, more string) string {
		set, err := parse(fmt.Appendf(nil, `
queue "q" {
  source "prometheus" {
    server_address = "http://%s"
    username       = "gpupool"
    password       = "env:PROM_PASSWORD"
    query          = %q
    %s
  }
}`, s.addr, query, more))
		if err != nil {
			return err.Error()
		}
		defer set.Close()
		return queuetest.Show(set.Queues[0].Read(t.Context(), queuetest.Now))
	}
	queuetest.Eventually(t, "7 waiting", func() string { return read("sum(waiting)", "threshold = 2") })
	for _, c := range []struct{ query, more, want string }{
		{"sum(waiting)", "threshold = 2", "7 waiting and unknown running, needs 3.5, active true"},
		{"scalar(sum(waiting))", "", "7 waiting"},
		{`waiting{queue="a"}`, "", "3 waiting"},
		{"waiting", "", "gives 2 samples"},
		{"nothing", "", queue.ErrMissing.Error()},
		{"nothing", "missing_as_zero = true", "0 waiting"},
		{"sum(waiting) / 0", "", "+Inf, which is no count"},
		{"scalar(nothing)", "", "NaN, which is no count"},
		{"-sum(waiting)", "", "-7, which is no count"},
		{"waiting[5m]", "", "gives no instant value"},
		{`"text"`, "", queue.ErrInvalid.Error()},
		{"sum(", "", queue.ErrRefused.Error()},
		{"sum(", "", "parse error"},
	} {
		if got := read(c.query, c.more); !strings.Contains(got, c.want) {
			t.Errorf("%s %s: %s, want %q", c.query, c.more, got, c.want)
		}
	}
}
