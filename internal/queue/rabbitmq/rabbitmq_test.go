package rabbitmq_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/queuetest"
	"github.com/gpupool/gpupool/internal/queue/rabbitmq"
)

const (
	password = "rabbit-Pass1"
	account  = "rabbitmq" // who runs the server
)

func parse(src []byte) (*queue.Set, error) {
	return queue.Parse("queues.hcl", src, []queue.Kind{rabbitmq.Kind()})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type server struct {
	*queuetest.Process
	amqp, http string // host:port
}

// start runs a real RabbitMQ with its management plugin. Debian keeps what
// starts it as oneself beside the rest of it.
func start(t *testing.T) *server {
	t.Helper()
	scripts, _ := filepath.Glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server")
	script := queuetest.Program(t, append(scripts, "rabbitmq-server")...)
	s := &server{amqp: queuetest.Loopback(queuetest.FreePort(t)), http: queuetest.Loopback(queuetest.FreePort(t))}
	_, amqpPort, _ := net.SplitHostPort(s.amqp)
	_, httpPort, _ := net.SplitHostPort(s.http)
	dir := queuetest.Dir(t, account)
	conf := filepath.Join(dir, "rabbitmq.conf")
	plugins := filepath.Join(dir, "enabled_plugins")
	for path, text := range map[string]string{
		conf: fmt.Sprintf(`
listeners.tcp.1 = %s
management.tcp.ip = %s
management.tcp.port = %s
default_user = gpupool
default_pass = %s
collect_statistics_interval = 200
management.sample_retention_policies.global.minute = 1
management.sample_retention_policies.basic.minute = 1
management.sample_retention_policies.detailed.10 = 1
log.console.level = warning
`, s.amqp, queuetest.Host(), httpPort, password),
		plugins: "[rabbitmq_management].\n",
	} {
		must(t, os.WriteFile(path, []byte(text), 0o644)) //nolint:gosec // another user reads it
	}
	// The names of Erlang's nodes are kept by a daemon of its own.
	epmd := queuetest.FreePort(t)
	env := []string{
		"HOME=" + dir, fmt.Sprintf("ERL_EPMD_PORT=%d", epmd), "ERL_EPMD_ADDRESS=127.0.0.1",
		fmt.Sprintf("RABBITMQ_NODENAME=queuetest-%s@localhost", amqpPort), "RABBITMQ_CONFIG_FILE=" + conf, "RABBITMQ_CONF_ENV_FILE=" + filepath.Join(dir, "none"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + plugins, "RABBITMQ_MNESIA_BASE=" + filepath.Join(dir, "mnesia"), "RABBITMQ_LOG_BASE=" + filepath.Join(dir, "log"),
		"RABBITMQ_LOGS=-", "RABBITMQ_PID_FILE=" + filepath.Join(dir, "pid"), fmt.Sprintf("RABBITMQ_DIST_PORT=%d", queuetest.FreePort(t)),
		`RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none`,
	}
	queuetest.Start(t, queuetest.Spec{
		Args: []string{queuetest.Program(t, "epmd"), "-address", "127.0.0.1", "-port", fmt.Sprint(epmd)}, Env: env, User: account,
		Ready: queuetest.Listening(fmt.Sprintf("127.0.0.1:%d", epmd)),
	})
	s.Process = queuetest.Start(t, queuetest.Spec{
		Args: []string{script}, Env: env, User: account,
		Ready: func() error {
			if err := queuetest.Listening(s.amqp)(); err != nil {
				return err
			}
			req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+s.http+"/api/overview", nil)
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
				return errors.New(resp.Status)
			}
			return nil
		},
	})
	return s
}

// put makes a classic queue. What was begun stays so until the test of the
// server is over.
func (s *server) put(t, whole *testing.T, name string, items, begun int) {
	t.Helper()
	s.fill(t, whole, name, amqp091.QueueTypeClassic, items, begun)
}

func (s *server) fill(t, whole *testing.T, name, kind string, items, begun int) {
	t.Helper()
	conn, err := amqp091.Dial(fmt.Sprintf("amqp://gpupool:%s@%s/", password, s.amqp))
	must(t, err)
	whole.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	must(t, err)
	_, err = ch.QueueDeclare(name, kind == amqp091.QueueTypeQuorum, false, false, false, amqp091.Table{amqp091.QueueTypeArg: kind})
	must(t, err)
	must(t, ch.Confirm(false))
	for range items {
		c, err := ch.PublishWithDeferredConfirm("", name, false, false, amqp091.Publishing{Body: []byte("job")})
		must(t, err)
		c.Wait()
	}
	for range begun {
		_, ok, err := ch.Get(name, false)
		must(t, err)
		if !ok {
			t.Fatal("nothing to begin")
		}
	}
}

// TestRabbitMQ starts one server for all, since that takes long.
func TestRabbitMQ(t *testing.T) {
	s := start(t)
	const slow = "RabbitMQ takes many seconds to stop and start; \"connection lost\" and \"nothing there\" are what a client sees of it"
	rig := func(prefix, addr, scheme string, lacks map[string]string, frames ...string) queuetest.Rig {
		lacks["restarted"] = slow
		return queuetest.Rig{
			Kind: rabbitmq.Kind(), Secret: password, WrongSecret: "wrong-Pass1", Frames: frames, Lacks: lacks,
			Server: queuetest.Server{
				Addr: addr,
				Settings: func(addr, queue, password string) map[string]string {
					return map[string]string{"host": scheme + "://" + addr, "queue_name": prefix + queue, "username": "gpupool", "password": password}
				},
				SettingsTLS: func(m map[string]string) map[string]string {
					m = maps.Clone(m)
					m["host"] = strings.Replace(m["host"], scheme+"://", scheme+"s://", 1)
					return m
				},
				Put: func(ct *testing.T, queue string, items, begun int) { s.put(ct, t, prefix+queue, items, begun) },
			},
		}
	}
	t.Run("amqp", func(t *testing.T) {
		queuetest.Run(t, rig("a-", s.amqp, "amqp", map[string]string{
			"running": "AMQP tells of ready messages only",
		}, "internal/queue/rabbitmq.(*amqp)", "internal/queue/dial."))
	})
	t.Run("management", func(t *testing.T) {
		queuetest.Run(t, rig("m-", s.http, "http", map[string]string{}, "internal/queue/rabbitmq.(*management)"))
	})
	t.Run("settings", func(t *testing.T) { settings(t, s) })
}

func settings(t *testing.T, s *server) {
	t.Setenv("RABBIT_PASSWORD", password)
	s.put(t, t, "tasks", 6, 2)
	s.put(t, t, "odd/name %2F", 3, 0)
	s.fill(t, t, "replicated", amqp091.QueueTypeQuorum, 5, 2)
	read := func(host, name, more string) string {
		set, err := parse(fmt.Appendf(nil, `
queue "q" {
  source "rabbitmq" {
    host       = %q
    username   = "gpupool"
    password   = "env:RABBIT_PASSWORD"
    queue_name = %q
    %s
  }
}`, host, name, more))
		must(t, err)
		defer set.Close()
		return queuetest.Show(set.Queues[0].Read(t.Context(), queuetest.Now))
	}
	for _, c := range []struct{ host, name, more, want string }{
		{"http://" + s.http, "tasks", "value = 3", "4 waiting and 2 running, needs 2, active true"},
		{"http://" + s.http, "tasks", "exclude_unacknowledged = true", "4 waiting and unknown running, needs 4, active true"},
		{"http://" + s.http, "odd/name %2F", "", "3 waiting"},
		{"http://" + s.http, "replicated", "", "3 waiting and 2 running"},
		{"http://" + s.http, "tasks", `vhost_name = "elsewhere"`, queue.ErrMissing.Error()},
		{"amqp://" + s.amqp, "tasks", "", "4 waiting and unknown running"},
		{"amqp://" + s.amqp, "odd/name %2F", "", "3 waiting"},
		{"amqp://" + s.amqp, "replicated", "", "3 waiting and unknown running"},
		{"amqp://" + s.amqp, "none", "missing_as_zero = true", "0 waiting"},
		{"amqp://" + s.amqp, "tasks", `vhost_name = "elsewhere"`, queue.ErrAuth.Error()},
	} {
		queuetest.Eventually(t, c.want, func() string { return read(c.host, c.name, c.more) })
	}

	// The rate is that of publishing, whatever lies in the queue.
	conn, err := amqp091.Dial(fmt.Sprintf("amqp://gpupool:%s@%s/", password, s.amqp))
	must(t, err)
	defer conn.Close()
	ch, err := conn.Channel()
	must(t, err)
	queuetest.Eventually(t, "active true", func() string {
		for range 20 {
			must(t, ch.PublishWithContext(t.Context(), "", "tasks", false, false, amqp091.Publishing{Body: []byte("job")}))
		}
		time.Sleep(100 * time.Millisecond)
		return read("http://"+s.http, "tasks", `mode = "MessageRate"`)
	})
	if got := read("http://"+s.http, "odd/name %2F", "mode = \"MessageRate\"\n missing_as_zero = true"); strings.Contains(got, "error") {
		t.Errorf("the rate of a quiet queue: %s", got)
	}
}
