package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// server answers each path in one way; others 404. Requests are counted.
type server struct {
	*httptest.Server
	asked atomic.Int64
}

func serve(t *testing.T, paths map[string]http.HandlerFunc) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		if h := paths[r.Method+" "+r.URL.RequestURI()]; h != nil {
			h(w, r)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) addr() string { return s.Listener.Addr().String() }

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func file(t *testing.T, name string) http.HandlerFunc {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text(string(body))
}

const listed = `{"object":"list","data":[{"id":"Qwen/Qwen3-8B"}]}`

func TestLook(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for _, tt := range []struct {
		name    string
		profile string
		paths   map[string]http.HandlerFunc
		want    string // health, whether it sleeps, models, whether there is a reading, and the error
	}{
		{"vLLM", "vllm", map[string]http.HandlerFunc{"GET /health": status(200), "GET /metrics": file(t, "vllm.txt"), "GET /v1/models": text(listed)},
			"is ready awake [Qwen/Qwen3-8B] read"},
		{"vLLM that sleeps", "vllm", map[string]http.HandlerFunc{"GET /health": status(200), "GET /metrics": file(t, "vllm-asleep.txt")},
			"is ready asleep [Qwen/Qwen3-8B] read"},
		{"an older vLLM that sleeps", "vllm", map[string]http.HandlerFunc{"GET /health": status(200), "GET /metrics": file(t, "vllm-0.8.txt"), "GET /is_sleeping": text(`{"is_sleeping":true}`)},
			"is ready asleep [Qwen/Qwen3-8B] read"},
		{"its sleep is no truth value", "vllm", map[string]http.HandlerFunc{"GET /health": status(200), "GET /metrics": file(t, "vllm-0.8.txt"), "GET /is_sleeping": text(`{"is_sleeping":"maybe"}`), "GET /v1/models": text(listed)},
			"is ready - [Qwen/Qwen3-8B] read"},
		{"the engine is dead", "vllm", map[string]http.HandlerFunc{"GET /health": status(503), "GET /metrics": file(t, "vllm-0.8.txt")},
			"is not ready - [Qwen/Qwen3-8B] read"},
		{"ready without a model", "vllm", map[string]http.HandlerFunc{"GET /health": status(200), "GET /v1/models": text(`{"data":[]}`)},
			"is not ready - [] GET /metrics answers 404"},
		{"the list of models is broken", "vllm", map[string]http.HandlerFunc{"GET /health": status(200), "GET /v1/models": text(`<html>`)},
			"is not ready - [] GET /metrics answers 404"},
		{"no metrics", "vllm", map[string]http.HandlerFunc{"GET /health": status(200), "GET /v1/models": text(listed)},
			"is ready - [Qwen/Qwen3-8B] GET /metrics answers 404"},
		{"metrics that hang", "vllm", map[string]http.HandlerFunc{"GET /health": status(200), "GET /v1/models": text(listed), "GET /metrics": hang},
			"is ready - [Qwen/Qwen3-8B] GET /metrics: no answer in time"},
		{"metrics without an end", "vllm", map[string]http.HandlerFunc{"GET /health": status(200), "GET /v1/models": text(listed), "GET /metrics": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				io.WriteString(w, "a_metric 1\n")
			}
		}}, "is ready - [Qwen/Qwen3-8B] GET /metrics: more than 50000 lines"},
		{"metrics a byte at a time", "vllm", map[string]http.HandlerFunc{"GET /health": status(200), "GET /v1/models": text(listed), "GET /metrics": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				io.WriteString(w, " ")
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}}, "is ready - [Qwen/Qwen3-8B] GET /metrics: context deadline exceeded"},
		{"it hangs", "vllm", map[string]http.HandlerFunc{"GET /health": hang}, "does not answer - [] GET /health: no answer in time"},
		{"a redirect", "vllm", map[string]http.HandlerFunc{"GET /health": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}, "GET /elsewhere": func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }},
			"fails - [] GET /metrics answers 404"},
		{"Ollama", "ollama", map[string]http.HandlerFunc{"GET /api/version": text(`{"version":"0.12"}`), "GET /api/ps": file(t, "ollama.json")},
			"is ready - [qwen3:8b]"},
		{"Ollama without a model", "ollama", map[string]http.HandlerFunc{"GET /api/version": text(`{"version":"0.12"}`), "GET /api/ps": file(t, "ollama-empty.json")},
			"is not ready - []"},
		{"llama.cpp while it loads", "llamacpp", map[string]http.HandlerFunc{"GET /health": status(503), "GET /metrics": status(503)},
			"is not ready - [] GET /metrics answers 503"},
		{"Triton", "triton", map[string]http.HandlerFunc{"GET /v2/health/ready": status(200), "GET /metrics": file(t, "triton.txt")},
			"is ready - [ensemble tensorrt_llm] read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, tt.paths)
			look := NewClient(ClientConfig{Timeout: 500 * time.Millisecond}).Look(t.Context(), Target{Profile: profile(t, tt.profile), Address: s.addr()})
			sleep := "-"
			if look.Asleep != nil {
				sleep = map[bool]string{true: "asleep", false: "awake"}[*look.Asleep]
			}
			got := fmt.Sprint(look.Health, " ", sleep, " ", look.Models)
			if look.Reading != nil {
				got += " read"
			}
			if look.Err != nil {
				got += " " + look.Err.Error()
			}
			if got != tt.want || (look.Err == nil) != (look.Flaw == "") {
				t.Errorf("saw %q (%s), want %q", got, look.Flaw, tt.want)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	look := NewClient(ClientConfig{}).Look(t.Context(), Target{Profile: profile(t, "vllm"), Address: l.Addr().String()})
	if look.Health != Closed || look.Err == nil {
		t.Errorf("saw %v, %v", look.Health, look.Err)
	}
}

// TestNoOtherHost: a server is asked on this host's addresses only, whatever
// name or address it has.
func TestNoOtherHost(t *testing.T) {
	s := serve(t, map[string]http.HandlerFunc{"GET /health": status(200)})
	c := NewClient(ClientConfig{Timeout: time.Second, Allowed: func(a netip.Addr) bool { return a != netip.MustParseAddr("127.0.0.1") }})
	look := c.Look(t.Context(), Target{Profile: profile(t, "tgi"), Address: s.addr()})
	if look.Health != Silent || s.asked.Load() != 0 || !strings.Contains(look.Err.Error(), ErrElsewhere.Error()) {
		t.Errorf("saw %v, %v after %d requests", look.Health, look.Err, s.asked.Load())
	}
	for a, want := range map[string]bool{"127.0.0.1": true, "127.9.9.9": true, "::1": true, "192.0.2.1": false, "169.254.169.254": false} {
		if got := new(local).is(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s is of this host: %v, want %v", a, got, want)
		}
	}
	for _, address := range []string{"127.0.0.1:1/../evil?", "user@127.0.0.1:1", "127.0.0.1:1#", "", "127.0.0.1:x"} {
		if _, err := c.get(t.Context(), address, "/health", nil); err == nil {
			t.Errorf("%q is an address", address)
		}
	}
	for _, path := range []string{"http://192.0.2.1/", "//192.0.2.1/"} {
		if _, err := c.get(t.Context(), s.addr(), path, nil); err == nil || s.asked.Load() != 0 {
			t.Errorf("%q is a path: %v", path, err)
		}
	}
}

func TestModelsAreAskedForOnce(t *testing.T) {
	s := serve(t, map[string]http.HandlerFunc{"GET /health": status(200), "GET /metrics": file(t, "vllm.txt"), "GET /v1/models": func(http.ResponseWriter, *http.Request) {
		t.Error("asked for the models, which are known")
	}})
	look := NewClient(ClientConfig{}).Look(t.Context(), Target{Profile: profile(t, "vllm"), Address: s.addr(), Models: []string{"m"}})
	if look.Health != Ready || len(look.Models) != 1 || look.Models[0] != "m" || s.asked.Load() != 2 {
		t.Errorf("saw %+v in %d requests", look, s.asked.Load())
	}
	brief := NewClient(ClientConfig{}).Look(t.Context(), Target{Profile: profile(t, "vllm"), Address: s.addr(), Models: []string{"m"}, Brief: true})
	if got := said(*brief.Reading); got != "waiting=2 running=7 kv_used=0.55 awake=1 Qwen/Qwen3-8B" {
		t.Errorf("in brief it says %q", got)
	}
}

// TestMute: a server that has no answer to whether it sleeps says so, and is not
// asked where the caller remembers that. One that is not ready yet, or has its
// endpoint and fails, is not taken at its word.
func TestMute(t *testing.T) {
	for _, tt := range []struct {
		health, sleeping http.HandlerFunc
		mute             bool
	}{
		{status(200), http.NotFound, true},
		{status(503), http.NotFound, false},
		{status(200), status(500), false},
		{status(200), text(`{"is_sleeping":false}`), false},
	} {
		s := serve(t, map[string]http.HandlerFunc{"GET /health": tt.health, "GET /metrics": file(t, "vllm-0.8.txt"), "GET /is_sleeping": tt.sleeping})
		target := Target{Profile: profile(t, "vllm"), Address: s.addr(), Models: []string{"m"}}
		c := NewClient(ClientConfig{})
		if look := c.Look(t.Context(), target); look.Mute != tt.mute || s.asked.Load() != 3 {
			t.Errorf("mute is %t after %d requests, want %t after 3", look.Mute, s.asked.Load(), tt.mute)
		}
		target.Mute = true
		if look := c.Look(t.Context(), target); look.Asleep != nil || s.asked.Load() != 5 {
			t.Errorf("asleep is %v after %d requests, want nothing known after 5", look.Asleep, s.asked.Load())
		}
	}
}

func TestSleepAndWake(t *testing.T) {
	var did []string
	note := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			did = append(did, r.URL.RequestURI()+string(body))
			w.WriteHeader(code)
		}
	}
	s := serve(t, map[string]http.HandlerFunc{
		"POST /sleep?level=1": note(200), "POST /wake_up": note(200),
		"POST /release_memory_occupation": note(200), "POST /resume_memory_occupation": note(500),
		"POST /v1/completions": note(201),
	})
	c := NewClient(ClientConfig{})
	for _, name := range []string{"vllm", "sglang", "triton"} {
		target := Target{Profile: profile(t, name), Address: s.addr()}
		sleep, wake := c.Sleep(t.Context(), target), c.Wake(t.Context(), target)
		did = append(did, fmt.Sprint(sleep), fmt.Sprint(wake))
		if name == "triton" && (!errors.Is(sleep, ErrCannotSleep) || !errors.Is(wake, ErrCannotSleep)) {
			t.Errorf("Triton: %v, %v", sleep, wake)
		}
	}
	if err := c.WarmUp(t.Context(), Target{Address: s.addr()}, "/v1/completions", `{"prompt":"hi"}`); err != nil {
		t.Error(err)
	}
	want := `/sleep?level=1 /wake_up <nil> <nil> /release_memory_occupation{} /resume_memory_occupation{} <nil> POST /resume_memory_occupation answers 500`
	if got := strings.Join(did, " "); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, `/v1/completions{"prompt":"hi"}`) {
		t.Errorf("did\n%s\nwant\n%s", got, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.WarmUp(ctx, Target{Address: s.addr()}, "/v1/completions", ""); err == nil {
		t.Error("a request was sent after the end")
	}
}

// TestActsTakeTheirTime: weights are moved, and a warm-up is worked on, for longer
// than any look may take.
func TestActsTakeTheirTime(t *testing.T) {
	const timeout = 20 * time.Millisecond
	slow := func(w http.ResponseWriter, _ *http.Request) { time.Sleep(10 * timeout) }
	s := serve(t, map[string]http.HandlerFunc{
		"POST /sleep?level=1": slow, "POST /wake_up": slow, "POST /v1/completions": slow, "GET /health": slow,
	})
	c := NewClient(ClientConfig{Timeout: timeout})
	target := Target{Profile: profile(t, "vllm"), Address: s.addr()}
	for what, err := range map[string]error{
		"sleep": c.Sleep(t.Context(), target), "wake": c.Wake(t.Context(), target),
		"warm-up": c.WarmUp(t.Context(), target, "/v1/completions", `{"prompt":"hi"}`),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if look := c.Look(t.Context(), target); look.Health != Silent {
		t.Errorf("a look that takes longer than it may finds that the server %s", look.Health)
	}
}

func TestDetect(t *testing.T) {
	c := NewClient(ClientConfig{})
	for _, tt := range []struct{ path, file, want string }{
		{"/metrics", "vllm.txt", "vllm"},
		{"/prometheus/metrics", "trtllm.txt", "trtllm"},
		{"/metrics", "nim.txt", ""}, // names without a prefix
		{"/elsewhere", "vllm.txt", ""},
	} {
		s := serve(t, map[string]http.HandlerFunc{"GET " + tt.path: file(t, tt.file)})
		if p, known := c.Detect(t.Context(), s.addr()); p.Name != tt.want || known != (tt.want != "") {
			t.Errorf("%s at %s is taken for %q, want %q", tt.file, tt.path, p.Name, tt.want)
		}
	}
}

// BenchmarkLook is what one look at one vLLM costs the agent.
func BenchmarkLook(b *testing.B) {
	body, err := os.ReadFile("testdata/vllm.txt")
	if err != nil {
		b.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }))
	defer s.Close()
	c := NewClient(ClientConfig{})
	for _, brief := range []bool{false, true} {
		target := Target{Profile: profile(b, "vllm"), Address: s.Listener.Addr().String(), Models: []string{"m"}, Brief: brief}
		b.Run(fmt.Sprintf("brief=%v", brief), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if l := c.Look(b.Context(), target); l.Reading == nil {
					b.Fatal(l.Err)
				}
			}
		})
	}
}
