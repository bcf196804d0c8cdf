package offswitch

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/mtls"
	"github.com/gpupool/gpupool/internal/mtls/mtlstest"
)

var key = []byte("0123456789abcdef")

// host is a switch that counts what it was told.
type host struct {
	Switch
	offs int
	by   string
	busy string
	addr string
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := new(host)
	h.Switch = Switch{
		Node: "gpu-1", Key: func() ([]byte, error) { return key, nil },
		Busy: func() string { return h.busy },
		Off:  func(by string) error { h.offs++; h.by = by; return nil },
	}
	mux := http.NewServeMux()
	mux.Handle("POST "+Path, &h.Switch)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	h.addr = server.Listener.Addr().String()
	return h
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAnOrderIsCarriedOut(t *testing.T) {
	h := newHost(t)
	if err := (Sender{Key: key, By: "pool h100"}).Send(within(t), h.addr, "gpu-1"); err != nil {
		t.Fatal(err)
	}
	if h.offs != 1 || h.by != "pool h100" {
		t.Errorf("off %d times, by %q", h.offs, h.by)
	}
}

func TestOrdersThatAreRefused(t *testing.T) {
	h := newHost(t)
	for _, c := range []struct {
		name string
		send Sender
		node string
		busy string
		want error
		says string
	}{
		{"another key", Sender{Key: []byte("fedcba9876543210")}, "gpu-1", "", ErrKey, "not signed with this agent's key"},
		{"another host", Sender{Key: key}, "gpu-2", "", ErrRefused, `is for node "gpu-2", and this is "gpu-1"`},
		{"a host with work", Sender{Key: key}, "gpu-1", "2 GPUs are in use", ErrRefused, "must not go off: 2 GPUs are in use"},
	} {
		h.busy = c.busy
		if err := c.send.Send(within(t), h.addr, c.node); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v: %s", c.name, err, c.want, c.says)
		}
	}
	if h.offs != 0 {
		t.Errorf("off %d times", h.offs)
	}
}

// A recorded order is good for nothing: not a second time, not later, and not
// with another word in it.
func TestAnOrderIsGoodOnceAndSoon(t *testing.T) {
	h := newHost(t)
	now := time.Now()
	make := func(o order) ([]byte, string) {
		body, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return body, sign(key, body)
	}
	good := order{Node: "gpu-1", Until: now.Add(Life), Nonce: "a"}
	body, signature := make(good)
	if _, err := h.take(now, []byte(strings.Replace(string(body), "gpu-1", "gpu-2", 1)), signature); err == nil {
		t.Error("a changed order was taken")
	}
	if _, err := h.take(now.Add(Life+skew+time.Second), body, signature); err == nil || !strings.Contains(err.Error(), "it comes late, or the clocks differ") {
		t.Errorf("a late order: %v", err)
	}
	if status, err := h.take(now, body, signature); err != nil || status != http.StatusAccepted {
		t.Errorf("the order itself: %v", err)
	}
	if _, err := h.take(now.Add(time.Second), body, signature); err == nil || !strings.Contains(err.Error(), "given before") {
		t.Errorf("a second time: %v", err)
	}
	for name, o := range map[string]order{
		"good for a year": {Node: "gpu-1", Until: now.AddDate(1, 0, 0), Nonce: "b"},
		"no nonce":        {Node: "gpu-1", Until: now.Add(Life)},
		"no time":         {Node: "gpu-1", Nonce: "c"},
	} {
		body, signature := make(o)
		if _, err := h.take(now, body, signature); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := h.take(now, []byte("off!"), sign(key, []byte("off!"))); err == nil {
		t.Error("not an order: taken")
	}
	if h.offs != 1 {
		t.Errorf("off %d times", h.offs)
	}
	// What is over is forgotten.
	body, signature = make(order{Node: "gpu-1", Until: now.Add(time.Hour + Life), Nonce: "d"})
	if _, err := h.take(now.Add(time.Hour), body, signature); err != nil || len(h.used) != 1 {
		t.Errorf("%v; %d nonces are remembered", err, len(h.used))
	}
}

func TestAKeyThatCannotBeRead(t *testing.T) {
	h := newHost(t)
	for _, k := range []func() ([]byte, error){
		func() ([]byte, error) { return nil, errors.New("no file at /secret/place") },
		func() ([]byte, error) { return []byte("short"), nil },
	} {
		h.Key = k
		err := (Sender{Key: []byte("short")}).Send(within(t), h.addr, "gpu-1")
		if !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "/secret/place") || h.offs != 0 {
			t.Errorf("%v", err)
		}
	}
}

// What was never sent is told from what may have been carried out.
func TestUnreachableOrUnclear(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	if err := (Sender{Key: key}).Send(within(t), closed.Addr().String(), "gpu-1"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nothing listens: %v", err)
	}
	mute := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler) // the host went down with the answer
	}))
	t.Cleanup(mute.Close)
	if err := (Sender{Key: key}).Send(within(t), mute.Listener.Addr().String(), "gpu-1"); !errors.Is(err, ErrUnclear) {
		t.Errorf("no answer: %v", err)
	}
	none := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(none.Close)
	if err := (Sender{Key: key}).Send(within(t), none.Listener.Addr().String(), "gpu-1"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "-off-key") {
		t.Errorf("an agent without a key: %v", err)
	}
}

// TestOverTLS: an agent that refuses the certificate has not seen the order, which
// is told from one whose outcome is unclear.
func TestOverTLS(t *testing.T) {
	ca, other := mtlstest.NewCA(t, "ours"), mtlstest.NewCA(t, "another")
	own, operator, stranger := ca.Issue(t, t.TempDir(), "gpupool-agent"), ca.Issue(t, t.TempDir(), "operator"), other.Issue(t, t.TempDir(), "operator")
	h := newHost(t)
	config, err := mtls.Server(own, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == Path {
			h.ServeHTTP(w, r)
		}
	}))
	server.Listener = tls.NewListener(server.Listener, config)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)

	for _, c := range []struct {
		name  string
		files mtls.Files
		want  error
	}{
		{"the operator", operator, nil},
		{"nobody", mtls.Files{CA: own.CA}, ErrCertificate},
		{"a stranger", mtls.Files{CA: own.CA, Cert: stranger.Cert, Key: stranger.Key}, ErrCertificate},
		{"the operator, who knows another agent", mtls.Files{CA: stranger.CA, Cert: operator.Cert, Key: operator.Key}, ErrUnreachable},
	} {
		client, err := mtls.NewClient(c.files, "gpupool-agent", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		h.offs = 0
		err = Sender{Key: key, DialTLS: client.DialContext}.Send(within(t), server.Listener.Addr().String(), "gpu-1")
		if !errors.Is(err, c.want) || (h.offs == 1) != (c.want == nil) {
			t.Errorf("%s: %v, want %v; off %d times", c.name, err, c.want, h.offs)
		}
	}
}

func FuzzTake(f *testing.F) {
	f.Add([]byte(`{"node":"gpu-1","until":"2026-11-22T12:00:00Z","nonce":"a"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		offs := 0
		s := Switch{Node: "gpu-1", Key: func() ([]byte, error) { return key, nil }, Busy: func() string { return "" }, Off: func(string) error { offs++; return nil }}
		now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
		if _, err := s.take(now, body, sign(key, body)); (err == nil) != (offs == 1) {
			t.Errorf("%q: %v, off %d times", body, err, offs)
		}
	})
}
