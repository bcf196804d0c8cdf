package kafka_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/kafka"
	"github.com/gpupool/gpupool/internal/queue/queuetest"
)

const password = "kafka-Pass1"

func parse(src []byte) (*queue.Set, error) {
	return queue.Parse("queues.hcl", src, []queue.Kind{kafka.Kind()})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// broker is one that is embedded: it speaks Kafka's protocol, and is no
// Apache Kafka.
type broker struct {
	t       testing.TB
	port    int
	mu      sync.Mutex
	cluster *kfake.Cluster
}

func start(t testing.TB) *broker {
	t.Helper()
	b := &broker{t: t, port: queuetest.FreePort(t)}
	b.run()
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.cluster.Close()
	})
	return b
}

func (b *broker) run() {
	b.t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(b.port),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) { return net.Listen(network, b.addr()) }), kfake.EnableSASL(),
		kfake.Superuser("SCRAM-SHA-256", "gpupool", password), kfake.Superuser("PLAIN", "gpupool", password))
	must(b.t, err)
	// The embedded broker hangs up on a wrong password. Apache's answers
	// (KIP-152).
	cluster.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		login := req.(*kmsg.SASLAuthenticateRequest)
		if !bytes.HasPrefix(login.SASLAuthBytes, []byte("\x00gpupool\x00")) || bytes.HasSuffix(login.SASLAuthBytes, []byte("\x00"+password)) {
			return nil, nil, false // SCRAM, or right
		}
		resp := login.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
		resp.ErrorMessage = kmsg.StringPtr("Authentication failed: Invalid username or password")
		return resp, nil, true
	})
	b.mu.Lock()
	b.cluster = cluster
	b.mu.Unlock()
}

func (b *broker) restart() {
	b.mu.Lock()
	b.cluster.Close()
	b.mu.Unlock()
	b.run()
}

func (b *broker) addr() string { return queuetest.Loopback(b.port) }

func (b *broker) client(t testing.TB, more ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append(more, kgo.SeedBrokers(b.addr()), kgo.SASL(scram.Sha256(func(context.Context) (scram.Auth, error) {
		return scram.Auth{User: "gpupool", Pass: password}, nil
	})))...)
	must(t, err)
	return c
}

// put makes a topic with so many records on its partitions, of which a group
// has committed some. Committed below 0 is nothing.
func (b *broker) put(t testing.TB, topic string, partitions int32, records, committed int) {
	t.Helper()
	c := b.client(t, kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	defer c.Close()
	admin := kadm.NewClient(c)
	_, err := admin.CreateTopic(t.Context(), partitions, 1, nil, topic)
	must(t, err)
	for i := range records {
		must(t, c.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte(strconv.Itoa(i))}).FirstErr())
	}
	if committed < 0 {
		return
	}
	offsets := make(kadm.Offsets)
	for p := range partitions {
		offsets.AddOffset(topic, p, int64(committed)/int64(partitions), -1)
	}
	must(t, admin.CommitAllOffsets(t.Context(), "workers", offsets))
}

func TestContract(t *testing.T) {
	b := start(t)
	queuetest.Run(t, queuetest.Rig{
		Kind: kafka.Kind(), Secret: password, WrongSecret: "wrong-Pass1", Frames: []string{"kgo.(*Client)", "kgo.(*broker", "internal/queue/kafka."},
		Lacks: map[string]string{"running": "Kafka does not tell which records of the lag are being worked on"},
		Server: queuetest.Server{
			Addr: b.addr(), Restart: b.restart,
			Settings: func(addr, queue, password string) map[string]string {
				return map[string]string{
					"bootstrap_servers": addr, "consumer_group": "workers", "topic": queue,
					"sasl": "plaintext", "username": "gpupool", "password": password,
				}
			},
			SettingsTLS: func(m map[string]string) map[string]string {
				m = maps.Clone(m)
				m["tls"] = "true"
				return m
			},
			Put: func(t *testing.T, queue string, items, _ int) { b.put(t, queue, 1, items+2, 2) },
			// A broker tells clients where to go.
			Rewrite: func(answer []byte, wire string) {
				_, port, _ := net.SplitHostPort(wire)
				n, _ := strconv.Atoi(port)
				old := binary.BigEndian.AppendUint32([]byte(queuetest.Host()), uint32(b.port))
				for rest := answer; ; {
					i := bytes.Index(rest, old)
					if i < 0 {
						return
					}
					binary.BigEndian.PutUint32(rest[i+len(old)-4:], uint32(n))
					rest = rest[i+len(old):]
				}
			},
		},
	})
}

func TestOffsets(t *testing.T) {
	b := start(t)
	t.Setenv("KAFKA_PASSWORD", password)
	b.put(t, "spread", 4, 40, 8)
	b.put(t, "fresh", 2, 10, -1)
	b.put(t, "trimmed", 1, 10, 2)
	c := b.client(t)
	defer c.Close()
	offsets := make(kadm.Offsets)
	offsets.AddOffset("trimmed", 0, 5, -1)
	_, err := kadm.NewClient(c).DeleteRecords(t.Context(), offsets)
	must(t, err)
	for _, c := range []struct{ topic, more, want string }{
		{"spread", "lag_threshold = 4", "32 waiting and unknown running, needs 8, active true"},
		{"spread", "sasl = \"plaintext\"", "32 waiting"},
		{"fresh", "", "10 waiting"},
		{"fresh", `offset_reset_policy = "latest"`, "2 waiting"},
		{"trimmed", "", "5 waiting"},
		{"none", "", queue.ErrMissing.Error()},
		{"none", "missing_as_zero = true", "0 waiting"},
	} {
		if !strings.Contains(c.more, "sasl") {
			c.more += "\n    sasl = \"scram_sha256\""
		}
		set, err := parse(fmt.Appendf(nil, `
queue "q" {
  source "kafka" {
    bootstrap_servers = %q
    consumer_group    = "workers"
    topic             = %q
    username          = "gpupool"
    password          = "env:KAFKA_PASSWORD"
    %s
  }
}`, b.addr(), c.topic, c.more))
		must(t, err)
		if got := queuetest.Show(set.Queues[0].Read(t.Context(), queuetest.Now)); !strings.Contains(got, c.want) {
			t.Errorf("%s %s: %s, want %q", c.topic, c.more, got, c.want)
		}
		must(t, set.Close())
	}
}
