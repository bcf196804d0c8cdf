package metricsapi_test

import (
	"crypto/subtle"
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
	"github.com/gpupool/gpupool/internal/queue/metricsapi"
	"github.com/gpupool/gpupool/internal/queue/queuetest"
)

const password = "api-Pass1"

// endpoint tells of queues in JSON.
type endpoint struct {
	mu     sync.Mutex
	queues map[string][2]int // waiting and running
}

func parse(src []byte) (*queue.Set, error) {
	return queue.Parse("queues.hcl", src, []queue.Kind{metricsapi.Kind()})
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, given, _ := r.BasicAuth()
	if user != "gpupool" || subtle.ConstantTimeCompare([]byte(given), []byte(password)) != 1 {
		http.Error(w, "who are you, "+given+"?", http.StatusUnauthorized)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	q, found := e.queues[strings.TrimPrefix(r.URL.Path, "/")]
	if !found {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"queues": [{"name": "other"}, {"name": "it", "waiting": %d, "running": "%d"}]}`, q[0], q[1])
}

func TestContract(t *testing.T) {
	e := &endpoint{queues: make(map[string][2]int)}
	s := httptest.NewServer(e)
	t.Cleanup(s.Close) // after the parallel cases
	queuetest.Run(t, queuetest.Rig{
		Kind: metricsapi.Kind(), Secret: password, WrongSecret: "wrong-Pass1", Frames: []string{"net/http.(*persistConn)", "net/http.(*Transport)"},
		Lacks: map[string]string{"restarted": "the server is the test's own; \"connection lost\" and \"nothing there\" are the same to a client without state"},
		Server: queuetest.Server{
			Addr: strings.TrimPrefix(s.URL, "http://"),
			Settings: func(addr, queue, password string) map[string]string {
				return map[string]string{
					"url": "http://" + addr + "/" + queue, "username": "gpupool", "password": password,
					"value_location": `queues.#(name=="it").waiting`, "running_location": "queues.1.running",
				}
			},
			SettingsTLS: func(m map[string]string) map[string]string {
				m = maps.Clone(m)
				m["url"] = strings.Replace(m["url"], "http://", "https://", 1)
				return m
			},
			Put: func(_ *testing.T, queue string, items, begun int) {
				e.mu.Lock()
				defer e.mu.Unlock()
				e.queues[queue] = [2]int{items - begun, begun}
			},
		},
	})
}

// read reads a queue that an answer tells of.
func read(t testing.TB, answer http.HandlerFunc, settings string) string {
	t.Helper()
	s := httptest.NewServer(answer)
	defer s.Close()
	set, err := parse(fmt.Appendf(nil, "queue \"q\" {\n source \"metrics-api\" {\n url = %q\n %s\n }\n}", s.URL, settings))
	if err != nil {
		return err.Error()
	}
	defer set.Close()
	return queuetest.Show(set.Queues[0].Read(t.Context(), queuetest.Now))
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct{ path, body, want string }{
		{"n", `{"n": 5}`, "5 waiting"},
		{"n", `{"n": "5.5"}`, "5.5 waiting"},
		{"n", `{"n": 0}`, "0 waiting"},
		{"@this", `7`, "7 waiting"},
		{"a.#", `{"a": [1, 2, 3]}`, "3 waiting"},
		{"n", `{"n": -1}`, "no count"},
		{"n", `{"n": 1e999}`, "no count"},
		{"n", `{"n": "NaN"}`, "no count"},
		{"n", `{"n": "many"}`, "no number"},
		{"n", `{"n": null}`, "no number"},
		{"n", `{"n": true}`, "no number"},
		{"n", `{"n": [1]}`, "no number"},
		{"n", `{"m": 1}`, queue.ErrMissing.Error()},
		{"n", `{"n": 1`, "no JSON"},
		{"n", ``, "no JSON"},
		{"n", strings.Repeat("[", 1<<20), "no JSON"},
		{"n", `{"n": 1, "pad": "` + strings.Repeat("x", 5<<20) + `"}`, "more than 4194304 bytes"},
	} {
		got := read(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, c.body) }, fmt.Sprintf("value_location = %q", c.path))
		if !strings.Contains(got, c.want) {
			t.Errorf("%s in %.40s: %s, want %q", c.path, c.body, got, c.want)
		}
	}
	got := read(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"n": 1, "r": 2, "age": 90.5}`) },
		"value_location = \"n\"\n running_location = \"r\"\n oldest_location = \"age\"\n target_value = 0.5")
	if want := "1 waiting and 2 running, needs 6, active true, oldest 1m30.5s"; got != want {
		t.Errorf("all three: %s, want %s", got, want)
	}
}

func TestStatuses(t *testing.T) {
	for status, want := range map[int]error{
		200: nil, 204: queue.ErrInvalid, 301: queue.ErrRefused, 400: queue.ErrRefused, 401: queue.ErrAuth, 403: queue.ErrAuth,
		404: queue.ErrMissing, 429: queue.ErrUnreachable, 500: queue.ErrUnreachable, 503: queue.ErrUnreachable,
	} {
		got := read(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			fmt.Fprint(w, 1)
		}, `value_location = "@this"`)
		if want == nil && got != "1 waiting and unknown running, needs 1, active true" || want != nil && !strings.Contains(got, want.Error()) {
			t.Errorf("HTTP %d: %s, want %v", status, got, want)
		}
	}
}

// Each credential goes where it should.
func TestCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for settings, want := range map[string]string{
		"username = \"u\"\n password = \"file:F\"":      "Basic dTphcGktUGFzczE=",
		`bearer_token = "file:F"`:                       "Bearer " + password,
		`api_key = "file:F"`:                            password,
		"api_key = \"file:F\"\n key_param_name = \"K\"": password,
	} {
		header := "Authorization"
		switch {
		case strings.Contains(settings, "key_param"):
			header = "K"
		case strings.Contains(settings, "api_key"):
			header = "X-API-KEY"
		}
		var got string
		read(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Get(header) },
			"value_location = \"@this\"\n"+strings.ReplaceAll(settings, "file:F", "file:"+file))
		if got != want {
			t.Errorf("%s: %s is %q, want %q", settings, header, got, want)
		}
	}
}
