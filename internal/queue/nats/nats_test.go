package nats_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpupool/gpupool/internal/queue"
	source "github.com/gpupool/gpupool/internal/queue/nats"
	"github.com/gpupool/gpupool/internal/queue/queuetest"
)

const password = "nats-Pass1"

func parse(src []byte) (*queue.Set, error) {
	return queue.Parse("queues.hcl", src, []queue.Kind{source.Kind()})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type server struct {
	*queuetest.Process
	addr  string
	certs *queuetest.Certs
}

// start runs a real NATS server that takes clients with and without TLS.
func start(t *testing.T, more string) *server {
	t.Helper()
	s := &server{addr: queuetest.Loopback(queuetest.FreePort(t)), certs: queuetest.NewCerts(t)}
	dir := t.TempDir()
	conf := filepath.Join(dir, "nats.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `
listen: %q
jetstream { store_dir: %q, max_memory_store: 16MB, max_file_store: 64MB }
allow_non_tls: true
tls { cert_file: %q, key_file: %q }
%s
`, s.addr, filepath.Join(dir, "js"), s.certs.Cert, s.certs.Key, more), 0o600))
	s.Process = queuetest.Start(t, queuetest.Spec{
		Args:  []string{queuetest.Program(t, "nats-server"), "-c", conf},
		Ready: queuetest.Listening(s.addr),
	})
	return s
}

func (s *server) jetStream(t testing.TB, o ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect("nats://"+s.addr, append(o, nats.MaxReconnects(-1))...)
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	return js
}

func TestContract(t *testing.T) {
	s := start(t, fmt.Sprintf("authorization { user: gpupool, password: %q }", password))
	queuetest.Run(t, queuetest.Rig{
		Kind: source.Kind(), Secret: password, WrongSecret: "wrong-Pass1", Frames: []string{"nats.go.(*Conn)", "internal/queue/nats."},
		Server: queuetest.Server{
			Addr: s.addr, Certs: s.certs, Restart: func() { s.Stop(); s.Run() },
			Settings: func(addr, queue, password string) map[string]string {
				return map[string]string{"address": addr, "username": "gpupool", "password": password, "stream": queue, "consumer": "workers"}
			},
			SettingsTLS: func(m map[string]string) map[string]string {
				m = maps.Clone(m)
				m["tls"] = "true"
				return m
			},
			Put: func(t *testing.T, queue string, items, begun int) {
				nc, err := nats.Connect("nats://"+s.addr, nats.UserInfo("gpupool", password))
				must(t, err)
				defer nc.Close()
				js, err := jetstream.New(nc)
				must(t, err)
				ctx := t.Context()
				stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: queue, Subjects: []string{queue}})
				must(t, err)
				consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "workers", AckPolicy: jetstream.AckExplicitPolicy})
				must(t, err)
				for i := range items {
					_, err := js.Publish(ctx, queue, fmt.Append(nil, i))
					must(t, err)
				}
				for range begun {
					_, err := consumer.Next()
					must(t, err)
				}
			},
		},
	})
}

// What a user may not do, and what is not there, is told apart.
func TestRefusals(t *testing.T) {
	s := start(t, fmt.Sprintf(`
accounts {
  A {
    jetstream: enabled
    users: [
      { user: admin, password: %[1]q }
      { user: reader, password: %[1]q, permissions: { publish: ["$JS.API.CONSUMER.INFO.tasks.>"], subscribe: ["_INBOX.>"] } }
      { user: nobody, password: %[1]q, permissions: { publish: ["x"], subscribe: ["_INBOX.>"] } }
    ]
  }
  B { users: [{ user: plain, password: %[1]q }] }
}`, password))
	js := s.jetStream(t, nats.UserInfo("admin", password))
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "tasks", Subjects: []string{"tasks"}})
	must(t, err)
	_, err = stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "workers", AckPolicy: jetstream.AckExplicitPolicy})
	must(t, err)
	_, err = js.Publish(t.Context(), "tasks", nil)
	must(t, err)
	t.Setenv("NATS_PASSWORD", password)
	for _, c := range []struct{ user, stream, consumer, more, want string }{
		{"reader", "tasks", "workers", "lag_threshold = 2", "1 waiting and 0 running, needs 0.5, active true"},
		{"reader", "tasks", "none", "", queue.ErrMissing.Error()},
		{"admin", "none", "workers", "", queue.ErrMissing.Error()},
		{"nobody", "tasks", "workers", "timeout = \"500ms\"", queue.ErrAuth.Error()},
		{"plain", "tasks", "workers", "timeout = \"2s\"", queue.ErrRefused.Error()},
		{"admin", "a stream", "workers", "", queue.ErrRefused.Error()},
		{"stranger", "tasks", "workers", "", queue.ErrAuth.Error()},
		{"admin", "tasks", "workers", `domain = "elsewhere"`, "no responders"},
	} {
		set, err := parse(fmt.Appendf(nil, `
queue "q" {
  source "nats-jetstream" {
    address  = %q
    username = %q
    password = "env:NATS_PASSWORD"
    stream   = %q
    consumer = %q
    %s
  }
}`, s.addr, c.user, c.stream, c.consumer, c.more))
		must(t, err)
		if got := queuetest.Show(set.Queues[0].Read(t.Context(), queuetest.Now)); !strings.Contains(got, c.want) {
			t.Errorf("%s, %s, %s: %s, want %q", c.user, c.stream, c.consumer, got, c.want)
		}
		must(t, set.Close())
	}
}
