// Package postgresql reads a queue's depth from a table, with a query of the
// operator's own.
package postgresql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
	"github.com/gpupool/gpupool/internal/secret"
	"github.com/gpupool/gpupool/internal/setting"
)

// Config is a database and a query.
type Config struct {
	Host     string // or a directory with a socket
	Port     int
	Username string
	Password secret.Ref // empty is none
	Database string
	SSLMode  string // VerifyFull or Disable
	TLS      dial.TLS
	Query    string
}

// The values of Config.SSLMode.
const (
	VerifyFull = "verify-full"
	Disable    = "disable"
)

// Kind is the line of package sources.
func Kind() queue.Kind {
	return queue.KindOf(queue.Kind{
		Name: "postgresql", Doc: "the one row that a query gives PostgreSQL",
		Targets: []string{"target_query_value"}, Shared: dial.Keys,
		KEDA: dial.Names(dial.KEDA, map[string]string{
			"host": "host", "port": "port", "username": "userName", "password": "password", "db_name": "dbName",
			"sslmode": "sslmode", "query": "query", "target_query_value": "targetQueryValue",
		}),
	}, Declare, New)
}

// Declare reads the settings.
func Declare(r *setting.Reader) Config {
	return Config{
		Host:     r.String("host", "", "The server: a name, an address, or the directory of its socket.", setting.NotEmpty()),
		Port:     r.Int("port", 5432, "Its port.", setting.Between(1, 65535)),
		Username: r.String("username", "", "User. Let it read this table and nothing else.", setting.NotEmpty()),
		Password: r.Secret("password", "Its password. Without it, none is sent."),
		Database: r.String("db_name", "", "Database.", setting.NotEmpty()),
		SSLMode:  r.OneOf("sslmode", VerifyFull, "verify-full: speak TLS, verified as the settings below say. disable: speak no TLS. Sockets never speak it.", VerifyFull, Disable),
		Query:    r.String("query", "", "SQL that gives one row: of one number, which is what waits, or of columns named `waiting`, `running` and `oldest_seconds`, of which the first must be there. It runs in a transaction that reads only, and is ended by the server at `timeout`. No row means that the queue is missing.", setting.NotEmpty()),
		TLS:      dial.DeclareTLS(r),
	}
}

// Source is one query.
type Source struct {
	cfg     Config
	wire    dial.Wire
	conn    *pgx.Conn // nil until it is needed
	secrets *queue.Secrets
	closed  bool
}

// New makes a source. It sends nothing.
func New(cfg Config) (*Source, error) {
	if _, err := cfg.TLS.Config(""); err != nil {
		return nil, err
	}
	return &Source{cfg: cfg, secrets: new(queue.Secrets)}, nil
}

// maxMessage is the largest message of the protocol that is read, in bytes.
const maxMessage = 1 << 20

// connect returns the connection, or makes one.
func (s *Source) connect(ctx context.Context) (*pgx.Conn, error) {
	if s.closed {
		return nil, dial.ErrClosed
	}
	if s.conn != nil && !s.conn.IsClosed() {
		return s.conn, nil
	}
	cfg, err := s.cfg.pgx()
	if err != nil {
		return nil, err
	}
	if s.cfg.Password != "" {
		if cfg.Password, err = s.cfg.Password.Resolve(); err != nil {
			return nil, &credentialError{err}
		}
		s.secrets.Use(cfg.Password)
	}
	cfg.DialFunc = s.wire.DialContext
	s.conn, err = pgx.ConnectConfig(ctx, cfg)
	return s.conn, err
}

// pgx makes the library's configuration. What it takes from the environment
// is for other programs, so each key is said.
func (c Config) pgx() (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig("host=localhost port=5432 user=x dbname=x sslmode=disable passfile=/dev/null target_session_attrs=any")
	if err != nil {
		return nil, err
	}
	cfg.Host, cfg.Port, cfg.User, cfg.Password, cfg.Database = c.Host, uint16(c.Port), c.Username, "", c.Database //nolint:gosec // its range is checked
	cfg.Fallbacks, cfg.ValidateConnect, cfg.KerberosSrvName, cfg.SSLNegotiation = nil, nil, "", ""
	cfg.RuntimeParams = map[string]string{"application_name": "gpupool"}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing is prepared, for poolers such as PgBouncer
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		f := pgproto3.NewFrontend(r, w)
		f.SetMaxBodyLen(maxMessage)
		return f
	}
	if c.SSLMode == VerifyFull && !strings.HasPrefix(c.Host, "/") {
		if cfg.TLSConfig, err = c.TLS.Config(c.Host); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

// Read runs the query.
func (s *Source) Read(ctx context.Context) (queue.Reading, error) {
	defer s.wire.Call(ctx)()
	conn, err := s.connect(ctx)
	if err != nil {
		return queue.Reading{}, s.fail(ctx, err)
	}
	r, err := s.query(ctx, conn)
	if err != nil {
		err = s.fail(ctx, err)
		if errors.Is(err, queue.ErrUnreachable) || errors.Is(err, queue.ErrInvalid) {
			s.wire.Cut() // the next read begins anew
			s.hangUp()
		}
		return queue.Reading{}, err
	}
	return r, nil
}

func (s *Source) hangUp() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// query reads in a transaction that reads only and is rolled back.
func (s *Source) query(ctx context.Context, conn *pgx.Conn) (r queue.Reading, err error) {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		return r, err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // nothing was written
	if deadline, ok := ctx.Deadline(); ok {
		limit := max(time.Until(deadline).Milliseconds(), 1)
		if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = "+strconv.FormatInt(limit, 10)); err != nil {
			return r, err
		}
	}
	rows, err := tx.Query(ctx, s.cfg.Query)
	if err != nil {
		return r, err
	}
	defer rows.Close()
	defer func() {
		// Closing reads what is left, which may be without an end.
		if said := new(pgconn.PgError); err != nil && !errors.As(err, &said) && !errors.Is(err, queue.ErrMissing) {
			s.wire.Cut()
		}
	}()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return r, err
		}
		return r, queue.Fail(queue.ErrMissing, "the query gives no row")
	}
	var columns []string
	for _, f := range rows.FieldDescriptions() {
		columns = append(columns, f.Name)
	}
	values := make([]*float64, len(columns))
	targets := make([]any, len(columns))
	for i := range values {
		targets[i] = &values[i]
	}
	if err := rows.Scan(targets...); err != nil {
		return r, queue.Fail(queue.ErrInvalid, fmt.Sprintf("the query gives no number: %v", err))
	}
	if rows.Next() {
		return r, queue.Fail(queue.ErrInvalid, "the query gives more than one row; write sum(...) or count(*)")
	}
	if err := rows.Err(); err != nil {
		return r, err
	}
	return row(columns, values)
}

// row is what one row of numbers says. Nil is NULL.
func row(columns []string, values []*float64) (queue.Reading, error) {
	known := []string{"waiting", "running", "oldest_seconds"}
	found := make(map[string]*float64)
	for i, name := range columns {
		if len(columns) == 1 {
			name = known[0]
		}
		if _, twice := found[name]; twice || !slices.Contains(known, name) {
			return queue.Reading{}, queue.Fail(queue.ErrInvalid, fmt.Sprintf("the query gives columns %.100q; name them waiting, running and oldest_seconds, or give only one", columns))
		}
		found[name] = values[i]
		if v := values[i]; v != nil && (math.IsNaN(*v) || math.IsInf(*v, 0) || *v < 0) {
			return queue.Reading{}, queue.Fail(queue.ErrInvalid, fmt.Sprintf("%s is %v, which is no count", name, *v))
		}
	}
	if found["waiting"] == nil {
		return queue.Reading{}, queue.Fail(queue.ErrInvalid, "what waits is NULL, or not there; write coalesce(..., 0) if that means none")
	}
	r := queue.Reading{Waiting: *found["waiting"], Running: found["running"]}
	if age := found["oldest_seconds"]; age != nil {
		r.Oldest = queue.Seconds(*age)
	}
	return r, nil
}

type credentialError struct{ error }

// fail classifies an error. Those that have a class keep it.
func (s *Source) fail(ctx context.Context, err error) error {
	for _, class := range []error{queue.ErrMissing, queue.ErrInvalid} {
		if errors.Is(err, class) {
			return err
		}
	}
	class := dial.Class(ctx, err)
	var said *pgconn.PgError
	var credential *credentialError
	switch {
	case errors.As(err, &credential):
		class = queue.ErrAuth
	case errors.As(err, &said):
		class = codeClass(said.Code)
		err = fmt.Errorf("%s (SQLSTATE %s)", said.Message, said.Code)
	case class != nil:
	case strings.Contains(err.Error(), "conn closed"):
		class = queue.ErrUnreachable
	default:
		class = queue.ErrInvalid
	}
	return s.secrets.Fail(class, fmt.Sprintf("postgresql at %s: %v", net.JoinHostPort(s.cfg.Host, strconv.Itoa(s.cfg.Port)), err))
}

// codeClass is what a SQLSTATE means: appendix A of PostgreSQL's manual.
func codeClass(code string) error {
	switch {
	case strings.HasPrefix(code, "28"), code == "42501": // invalid authorization, insufficient privilege
		return queue.ErrAuth
	case code == "3D000", code == "42P01", code == "3F000": // no such database, table or schema
		return queue.ErrMissing
	case strings.HasPrefix(code, "08"), strings.HasPrefix(code, "53"), strings.HasPrefix(code, "57"), strings.HasPrefix(code, "58"):
		return queue.ErrUnreachable // connection, resources, operator, system
	}
	return queue.ErrRefused
}

// String names what is read: printing the fields would read them while the
// connection's goroutines write.
func (s *Source) String() string {
	return fmt.Sprintf("database %q at %s", s.cfg.Database, net.JoinHostPort(s.cfg.Host, strconv.Itoa(s.cfg.Port)))
}

// GoString is String.
func (s *Source) GoString() string { return s.String() }

// Close closes the connection.
func (s *Source) Close() error {
	s.closed = true
	if s.conn != nil && !s.conn.IsClosed() {
		s.hangUp()
	}
	s.wire.Close()
	return nil
}
