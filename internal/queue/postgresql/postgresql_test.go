package postgresql_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/postgresql"
	"github.com/gpupool/gpupool/internal/queue/queuetest"
)

const (
	password = "pg-Pass1"
	account  = "postgres" // who runs the server, which refuses to be root
)

func parse(src []byte) (*queue.Set, error) {
	return queue.Parse("queues.hcl", src, []queue.Kind{postgresql.Kind()})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type server struct {
	*queuetest.Process
	addr, dir string
	certs     *queuetest.Certs
}

// program finds one that Debian keeps out of the PATH.
func program(t testing.TB, name string) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	return queuetest.Program(t, append([]string{name}, found...)...)
}

// start runs a real PostgreSQL that takes clients with and without TLS.
func start(t *testing.T) *server {
	t.Helper()
	s := &server{dir: queuetest.Dir(t, account), certs: queuetest.NewCerts(t)}
	s.addr = queuetest.Loopback(queuetest.FreePort(t))
	give := func(name string, content []byte) string { // to the server's account
		path := filepath.Join(s.dir, name)
		must(t, os.WriteFile(path, content, 0o600))
		if os.Geteuid() == 0 {
			uid, gid := queuetest.Account(t, account)
			must(t, os.Chown(path, int(uid), int(gid)))
		}
		return path
	}
	copied := func(from string) string {
		content, err := os.ReadFile(from)
		must(t, err)
		return give(filepath.Base(from), content)
	}
	data := filepath.Join(s.dir, "data")
	initdb := exec.Command(program(t, "initdb"), "-D", data, "-U", "gpupool", "-A", "scram-sha-256", "--pwfile", give("pw", []byte(password)), "--no-sync", "--locale=C", "-E", "UTF8")
	initdb.Dir = "/"
	if os.Geteuid() == 0 {
		uid, gid := queuetest.Account(t, account)
		initdb.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	}
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	_, port, _ := net.SplitHostPort(s.addr)
	s.Process = queuetest.Start(t, queuetest.Spec{
		Args: []string{
			program(t, "postgres"), "-D", data, "-h", queuetest.Host(), "-p", port, "-k", s.dir, "-F",
			"-c", "ssl=on", "-c", "ssl_cert_file=" + copied(s.certs.Cert), "-c", "ssl_key_file=" + copied(s.certs.Key),
			"-c", "shared_buffers=8MB", "-c", "max_connections=60", "-c", "autovacuum=off",
		},
		User: account, Stop: syscall.SIGINT,
		Ready: func() error {
			db, err := s.connect(context.Background())
			if err == nil {
				err = db.Close(context.Background())
			}
			return err
		},
	})
	return s
}

func (s *server) connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, fmt.Sprintf("postgres://gpupool:%s@%s/postgres?sslmode=disable", password, s.addr))
}

func (s *server) exec(t testing.TB, sql ...string) {
	t.Helper()
	db, err := s.connect(t.Context())
	must(t, err)
	defer db.Close(context.Background())
	for _, q := range sql {
		_, err := db.Exec(t.Context(), q)
		must(t, err)
	}
}

func TestContract(t *testing.T) {
	s := start(t)
	queuetest.Run(t, queuetest.Rig{
		Kind: postgresql.Kind(), Secret: password, WrongSecret: "wrong-Pass1", Frames: []string{"jackc/pgx", "internal/queue/postgresql.(*Source)"},
		Server: queuetest.Server{
			Addr: s.addr, Certs: s.certs, Restart: func() { s.Stop(); s.Run() },
			Settings: func(addr, queue, password string) map[string]string {
				host, port, _ := net.SplitHostPort(addr)
				return map[string]string{
					"host": host, "port": port, "username": "gpupool", "password": password, "db_name": "postgres", "sslmode": "disable",
					"query": fmt.Sprintf(`SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting, count(*) FILTER (WHERE state = 'running') AS running FROM %q`, queue),
				}
			},
			SettingsTLS: func(m map[string]string) map[string]string {
				m = maps.Clone(m)
				delete(m, "sslmode")
				return m
			},
			Put: func(t *testing.T, queue string, items, begun int) {
				s.exec(t, fmt.Sprintf(`CREATE TABLE %q (state text)`, queue),
					fmt.Sprintf(`INSERT INTO %q SELECT CASE WHEN i <= %d THEN 'running' ELSE 'waiting' END FROM generate_series(1, %d) i`, queue, begun, items))
			},
		},
	})
}

func TestQueries(t *testing.T) {
	s := start(t)
	s.exec(t, `CREATE TABLE tasks (state text, at timestamptz DEFAULT now() - interval '90 seconds')`, `INSERT INTO tasks SELECT 'waiting' FROM generate_series(1, 5)`,
		`CREATE ROLE stranger LOGIN PASSWORD '`+password+`'`, `CREATE ROLE locked NOLOGIN PASSWORD '`+password+`'`)
	t.Setenv("PG_PASSWORD", password)
	t.Setenv("PGUSER", "from-the-environment")
	t.Setenv("PGSSLMODE", "require")
	t.Setenv("PGOPTIONS", "-c nonsense=1")
	host, port, _ := net.SplitHostPort(s.addr)
	read := func(user, query, more string) string {
		if !strings.Contains(more, "host =") {
			more += fmt.Sprintf("\n    host = %q\n", host)
		}
		if !strings.Contains(more, "db_name =") {
			more += "\n    db_name = \"postgres\"\n"
		}
		set, err := parse(fmt.Appendf(nil, `
queue "q" {
  source "postgresql" {
    port     = %s
    username = %q
    password = "env:PG_PASSWORD"
    sslmode  = "disable"
    query    = %q
    %s
  }
}`, port, user, query, more))
		must(t, err)
		defer set.Close()
		return queuetest.Show(set.Queues[0].Read(t.Context(), queuetest.Now))
	}
	for _, c := range []struct{ user, query, more, want string }{
		{"gpupool", "SELECT count(*) FROM tasks", "target_query_value = 2", "5 waiting and unknown running, needs 2.5, active true"},
		{"gpupool", "SELECT count(*) FROM tasks", fmt.Sprintf("host = %q", s.dir), "5 waiting"},
		{"gpupool", "SELECT 5.5::numeric AS anything", "", "5.5 waiting"},
		{"gpupool", "SELECT 5::smallint", "", "5 waiting"},
		{"gpupool", "SELECT 2.5::real", "", "2.5 waiting"},
		{"gpupool", "SELECT count(*) AS waiting, 2 AS running, extract(epoch FROM now() - now() + interval '90 s') AS oldest_seconds FROM tasks", "", "5 waiting and 2 running, needs 7, active true, oldest 1m30s"},
		{"gpupool", "SELECT 1 AS waiting, NULL::int AS running, NULL::int AS oldest_seconds", "", "1 waiting and unknown running, needs 1, active true"},
		{"gpupool", "SELECT 1 AS waiting, 2 AS runing", "", "name them waiting, running"},
		{"gpupool", "SELECT 1 AS running", "", "1 waiting"},
		{"gpupool", "SELECT NULL::int", "", "is NULL"},
		{"gpupool", "SELECT 'many'", "", "gives no number"},
		{"gpupool", "SELECT true", "", "gives no number"},
		{"gpupool", "SELECT -1", "", "no count"},
		{"gpupool", "SELECT 'NaN'::float8", "", "no count"},
		{"gpupool", "SELECT 'Infinity'::numeric", "", "no"},
		{"gpupool", "SELECT 1 FROM tasks", "", "more than one row"},
		{"gpupool", "SELECT 1 WHERE false", "", queue.ErrMissing.Error()},
		{"gpupool", "SELECT 1 WHERE false", "missing_as_zero = true", "0 waiting"},
		{"gpupool", "SELECT count(*) FROM nothing", "", queue.ErrMissing.Error()},
		{"gpupool", "SELECT 1", `db_name = "nothing"`, queue.ErrMissing.Error()},
		{"gpupool", "SELEC 1", "", "syntax error"},
		{"gpupool", "SELECT 1; DROP TABLE tasks", "", queue.ErrRefused.Error()},
		{"gpupool", "DELETE FROM tasks RETURNING 1", "", "read-only transaction"},
		{"gpupool", "SELECT 1 FROM pg_sleep(100)", `timeout = "300ms"`, queue.ErrUnreachable.Error()},
		{"gpupool", "SELECT repeat('x', 3000000)", "", queue.ErrInvalid.Error()},
		{"stranger", "SELECT count(*) FROM tasks", "", queue.ErrAuth.Error()},
		{"locked", "SELECT 1", "", queue.ErrAuth.Error()},
		{"nobody", "SELECT 1", "", queue.ErrAuth.Error()},
	} {
		if got := read(c.user, c.query, c.more); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s %s: %s, want %q", c.user, c.query, c.more, got, c.want)
		}
	}
	if got := read("gpupool", "SELECT count(*) FROM tasks", ""); !strings.Contains(got, "5 waiting") {
		t.Errorf("after all that: %s", got)
	}
}
