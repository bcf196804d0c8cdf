package notice

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// service answers paths with what a test says. A path that it does not know is
// not found.
type service struct {
	mu      sync.Mutex
	answers map[string]string
	header  [2]string // that requests must have, token paths aside
	asked   []string
}

func (s *service) set(path, answer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[path] = answer
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := r.Method + " " + r.URL.RequestURI()
	s.asked = append(s.asked, path)
	answer, ok := s.answers[path]
	switch {
	case r.Method == http.MethodGet && r.Header.Get(s.header[0]) != s.header[1]:
		w.WriteHeader(http.StatusUnauthorized)
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	default:
		_, _ = io.WriteString(w, answer)
	}
}

func start(t *testing.T, header, value string) (*service, string) {
	t.Helper()
	s := &service{answers: map[string]string{}, header: [2]string{header, value}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s, server.URL
}

func look(t *testing.T, s Source) []Notice {
	t.Helper()
	all, err := s.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func parse(t *testing.T, setting string) Source {
	t.Helper()
	s, err := Parse(setting)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAWS(t *testing.T) {
	s, url := start(t, "X-aws-ec2-metadata-token", "one")
	s.set("PUT /latest/api/token", "one")
	source := parse(t, "aws:"+url)
	if got := look(t, source); len(got) != 0 {
		t.Errorf("all is well: %+v", got)
	}
	const data = "GET /latest/meta-data/"
	s.set(data+"events/recommendations/rebalance", `{"noticeTime": "2026-11-22T10:00:00Z"}`)
	if got := look(t, source); len(got) != 1 || !got[0].Likely {
		t.Errorf("a recommendation: %+v", got)
	}
	s.set(data+"spot/instance-action", `{"action": "terminate", "time": "2026-11-22T10:02:00Z"}`)
	s.set(data+"events/maintenance/scheduled", `[
		{"NotBefore": "21 Jan 2027 09:00:43 GMT", "Code": "system-reboot", "EventId": "instance-event-1", "State": "active"},
		{"NotBefore": "21 Jan 2027 09:00:43 GMT", "Code": "system-reboot", "EventId": "instance-event-0", "State": "completed"}]`)
	got := look(t, source)
	if len(got) != 3 || got[0].By != at(t, "2026-11-22T10:02:00Z") || got[0].What != "EC2 will terminate this spot instance" || got[0].Likely ||
		got[1].By != at(t, "2027-01-21T09:00:43Z") || got[1].ID != "instance-event-1" {
		t.Errorf("an interruption and a reboot: %+v", got)
	}
	tokens := 0
	for _, path := range s.asked {
		if strings.HasPrefix(path, "PUT") {
			tokens++
		}
	}
	if tokens != 1 {
		t.Errorf("%d tokens were asked for", tokens)
	}
	// A token that runs out early is renewed, once.
	s.mu.Lock()
	s.header[1], s.answers["PUT /latest/api/token"] = "two", "two"
	s.mu.Unlock()
	if got := look(t, source); len(got) != 3 {
		t.Errorf("with a new token: %+v", got)
	}
	s.mu.Lock()
	s.header[1] = "three"
	s.mu.Unlock()
	if _, err := source.Look(t.Context()); !errors.Is(err, errAnswer) || !strings.Contains(err.Error(), "401") {
		t.Errorf("no token helps: %v", err)
	}
}

func TestGCP(t *testing.T) {
	const base = "GET /computeMetadata/v1/instance/"
	s, url := start(t, "Metadata-Flavor", "Google")
	s.set(base+"preempted", "FALSE\n")
	s.set(base+"maintenance-event", "NONE")
	source := parse(t, "gcp:"+url)
	if got := look(t, source); len(got) != 0 {
		t.Errorf("all is well: %+v", got)
	}
	s.set(base+"maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
	if got := look(t, source); len(got) != 0 {
		t.Errorf("a live migration: %+v", got)
	}
	s.set(base+"preempted", "TRUE")
	s.set(base+"maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
	got := look(t, source)
	if len(got) != 2 || time.Until(got[0].By) > 30*time.Second || time.Until(got[0].By) < 20*time.Second || time.Until(got[1].By) < 59*time.Minute {
		t.Errorf("preempted: %+v", got)
	}
	if again := look(t, source); again[0] != got[0] {
		t.Errorf("the same word is another notice: %+v", again)
	}
	s.set(base+"preempted", "<html>")
	if _, err := source.Look(t.Context()); !errors.Is(err, errAnswer) {
		t.Errorf("not the metadata server: %v", err)
	}
}

func TestAzure(t *testing.T) {
	s, url := start(t, "Metadata", "true")
	const events = "GET /metadata/scheduledevents?api-version=2020-07-01"
	s.set("GET /metadata/instance/compute?api-version=2020-07-01&format=json", `{"name": "gpu-7", "vmSize": "Standard_NC24ads_A100_v4"}`)
	s.set(events, `{"DocumentIncarnation": 1, "Events": []}`)
	source := parse(t, "azure:"+url)
	if got := look(t, source); len(got) != 0 {
		t.Errorf("all is well: %+v", got)
	}
	s.set(events, `{"Events": [
		{"EventId": "a", "EventType": "Preempt", "Resources": ["GPU-7"], "NotBefore": "Mon, 19 Oct 2026 18:29:47 GMT"},
		{"EventId": "b", "EventType": "Preempt", "Resources": ["gpu-8"], "NotBefore": "Mon, 19 Oct 2026 18:29:47 GMT"},
		{"EventId": "c", "EventType": "Freeze", "Resources": ["gpu-7"], "NotBefore": ""},
		{"EventId": "d", "EventType": "Reboot", "Resources": ["gpu-7"], "NotBefore": ""}]}`)
	got := look(t, source)
	if len(got) != 2 || got[0].ID != "a" || got[0].By != at(t, "2026-10-19T18:29:47Z") || got[1].ID != "d" || !got[1].By.IsZero() {
		t.Errorf("%+v", got)
	}
	s.set(events, `{"Events": [{"EventId": "a", "EventType": "Preempt", "Resources": ["gpu-7"], "NotBefore": "soon"}]}`)
	if _, err := source.Look(t.Context()); !errors.Is(err, errAnswer) || !strings.Contains(err.Error(), `NotBefore of event "a"`) {
		t.Errorf("a bad time: %v", err)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leave")
	source := parse(t, "file:"+path)
	if got := look(t, source); len(got) != 0 {
		t.Errorf("no file: %+v", got)
	}
	for text, want := range map[string]Notice{
		"":   {ID: path, What: "an operator takes this host away"},
		"{}": {ID: path, What: "an operator takes this host away"},
		`{"by": "2026-11-22T12:00:00+01:00", "what": "the rack\nmoves"}`: {ID: path, By: at(t, "2026-11-22T11:00:00Z"), What: "the rack moves"},
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := look(t, source); len(got) != 1 || got[0] != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
	if err := os.WriteFile(path, []byte("tomorrow"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Look(t.Context()); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), `write {"by"`) {
		t.Errorf("not a notice: %v", err)
	}
	if _, err := parse(t, "file:"+t.TempDir()).Look(t.Context()); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a folder: %v", err)
	}
}

func TestHook(t *testing.T) {
	s, url := start(t, "Accept-Nothing", "")
	source := parse(t, url+"/leave")
	if got := look(t, source); len(got) != 0 {
		t.Errorf("not found: %+v", got)
	}
	s.set("GET /leave", `{"what": "power is cut at noon"}`)
	if got := look(t, source); len(got) != 1 || got[0].What != "power is cut at noon" {
		t.Errorf("%+v", got)
	}
	s.set("GET /leave", strings.Repeat(" ", maxAnswer+1))
	if _, err := source.Look(t.Context()); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("an endless answer: %v", err)
	}
	away := httptest.NewServer(http.RedirectHandler(url+"/leave", http.StatusFound))
	t.Cleanup(away.Close)
	if _, err := parse(t, away.URL+"/x").Look(t.Context()); !errors.Is(err, errAnswer) || !strings.Contains(err.Error(), "302") {
		t.Errorf("a redirect: %v", err)
	}
}

func TestSettingsThatAreNone(t *testing.T) {
	for setting, want := range map[string]string{
		"oracle":           "want aws, gcp, azure, file:PATH or http://HOST/PATH",
		"file:leave":       "must begin with a slash",
		"http:leave":       "is no URL",
		"http://me:pw@h/x": "has a credential in it",
	} {
		if _, err := Parse(setting); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", setting, err, want)
		}
	}
}

// said is a source that a test speaks through.
type said struct {
	mu  sync.Mutex
	now []Notice
	err error
}

func (s *said) set(err error, now ...Notice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.err = now, err
}

func (s *said) Look(context.Context) ([]Notice, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, s.err
}

// What a source said stands while it cannot be asked.
func TestWatchForgetsNothingForAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); synctest.Wait() }()
		spot, own := new(said), new(said)
		w := New(Config{Sources: map[string]Source{"aws": spot, "file:/x": own}, Log: slog.New(slog.DiscardHandler)})
		go w.Run(ctx)
		pass(time.Second)
		if got := w.Now(); len(got) != 0 {
			t.Errorf("all is well: %+v", got)
		}
		later, sooner := Notice{ID: "b", By: time.Now().Add(time.Hour)}, Notice{ID: "a", By: time.Now().Add(time.Minute)}
		spot.set(nil, later)
		own.set(nil, sooner)
		pass(6 * time.Second)
		select {
		case <-w.Changed():
		default:
			t.Error("no word of the change")
		}
		if got := w.Now(); len(got) != 2 || got[0] != sooner {
			t.Errorf("the earliest first: %+v", got)
		}
		spot.set(errors.New("no route"))
		own.set(nil)
		pass(6 * time.Second)
		if got := w.Now(); len(got) != 1 || got[0] != later || w.Errors()["aws"] == nil {
			t.Errorf("aws cannot be asked: %+v, %v", got, w.Errors())
		}
		spot.set(nil, make([]Notice, maxNotices+1)...)
		pass(6 * time.Second)
		if got := w.Now(); len(got) != 1 || !strings.Contains(w.Errors()["aws"].Error(), "more than 32") {
			t.Errorf("a flood: %d, %v", len(got), w.Errors())
		}
		spot.set(nil)
		pass(6 * time.Second)
		if got := w.Now(); len(got) != 0 || len(w.Errors()) != 0 {
			t.Errorf("well again: %+v, %v", got, w.Errors())
		}
	})
}

func FuzzWord(f *testing.F) {
	f.Add([]byte(`{"by": "2026-11-22T12:00:00+01:00", "what": "the rack moves"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := parseWord("x", text)
		if (err == nil) != (len(all) == 1) || err == nil && (all[0].What == "" || len([]rune(all[0].What)) > 200 || strings.ContainsAny(all[0].What, "\n\r")) {
			t.Errorf("%+v, %v", all, err)
		}
	})
}
