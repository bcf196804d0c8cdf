// Package nats counts what a NATS JetStream consumer has not done.
package nats

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
	"github.com/gpupool/gpupool/internal/secret"
	"github.com/gpupool/gpupool/internal/setting"
)

// Config is a consumer.
type Config struct {
	Addresses   []string // host:port
	Stream      string
	Consumer    string
	Domain      string // of JetStream; empty is that of the server
	Username    string
	Password    secret.Ref // empty is none
	Token       secret.Ref // empty is none
	Credentials string     // file with a JWT and a seed; empty is none
	UseTLS      bool
	TLS         dial.TLS
}

// Kind is the line of package sources.
func Kind() queue.Kind {
	return queue.KindOf(queue.Kind{
		Name: "nats-jetstream", Doc: "the messages that a NATS JetStream consumer has not acknowledged",
		Targets: []string{"lag_threshold"}, Shared: dial.Keys,
		KEDA: dial.Names(dial.KEDA, map[string]string{"stream": "stream", "consumer": "consumer", "lag_threshold": "lagThreshold"}),
	}, Declare, New)
}

// Declare reads the settings.
func Declare(r *setting.Reader) Config {
	c := Config{
		Addresses:   r.List("address", nil, "The servers for clients, `host:port`, separated by commas. KEDA asks the monitoring port instead (`natsServerMonitoringEndpoint`), which has no login.", setting.Rule[[]string]{Text: "host:port", OK: dial.HostPorts}),
		Stream:      r.String("stream", "", "The stream.", setting.NotEmpty()),
		Consumer:    r.String("consumer", "", "Its durable consumer. What it was not given yet waits, and what it was given and did not acknowledge runs.", setting.NotEmpty()),
		Domain:      r.String("domain", "", "JetStream domain of the stream."),
		Username:    r.String("username", "", "User."),
		Password:    r.Secret("password", "Its password."),
		Token:       r.Secret("token", "Token, where the server wants one."),
		Credentials: r.String("credentials_file", "", "File with a user's JWT and seed, where the server wants those. It is read at each connection."),
		UseTLS:      r.Bool("tls", false, "Speak TLS. Without it, a server that wants TLS is refused."),
		TLS:         dial.DeclareTLS(r),
	}
	if (c.Username == "") != (c.Password == "") {
		r.Reject("password", "is given without username, or username without it", "give both or none")
	}
	logins := 0
	for _, given := range []bool{c.Username != "", c.Token != "", c.Credentials != ""} {
		if given {
			logins++
		}
	}
	if logins > 1 {
		r.Reject("token", "of username, token and credentials_file there is more than one", "keep one of them")
	}
	return c
}

// Source is one consumer.
type Source struct {
	cfg  Config
	wire dial.Wire

	secrets *queue.Secrets

	mu     sync.Mutex
	conn   *nats.Conn // nil until it is needed
	denied error      // what the server said of our permissions
}

// New makes a source. It sends nothing.
func New(cfg Config) (*Source, error) {
	if _, err := cfg.TLS.Config(""); err != nil {
		return nil, err
	}
	return &Source{cfg: cfg, secrets: new(queue.Secrets)}, nil
}

// Read asks the leader of the consumer.
func (s *Source) Read(ctx context.Context) (queue.Reading, error) {
	defer s.wire.Call(ctx)()
	conn, err := s.connect(ctx)
	if err != nil {
		return queue.Reading{}, s.fail(ctx, err)
	}
	info, err := consumer(ctx, conn, s.cfg)
	if err != nil {
		err = s.fail(ctx, err)
		if !errors.Is(err, queue.ErrMissing) {
			conn.Close() // the next read begins anew
		}
		return queue.Reading{}, err
	}
	running := float64(info.NumAckPending)
	return queue.Reading{Waiting: float64(info.NumPending), Running: &running}, nil
}

func consumer(ctx context.Context, conn *nats.Conn, cfg Config) (*jetstream.ConsumerInfo, error) {
	js, err := jetstream.New(conn)
	if cfg.Domain != "" {
		js, err = jetstream.NewWithDomain(conn, cfg.Domain)
	}
	if err != nil {
		return nil, err
	}
	c, err := js.Consumer(ctx, cfg.Stream, cfg.Consumer)
	if err != nil {
		return nil, err
	}
	info := c.CachedInfo() // of just now
	if info == nil || info.Stream != cfg.Stream || info.Name != cfg.Consumer || info.NumAckPending < 0 {
		return nil, errNotAsked
	}
	return info, nil
}

var errNotAsked = errors.New("the answer is not about the consumer that was asked for")

// connect returns the connection, or makes one.
func (s *Source) connect(ctx context.Context) (*nats.Conn, error) {
	s.mu.Lock()
	old := s.conn
	s.denied = nil
	s.mu.Unlock()
	if old != nil && old.IsConnected() {
		return old, nil
	}
	if old != nil {
		old.Close()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o, err := s.options(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := o.Connect()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.conn = conn
	s.mu.Unlock()
	return conn, nil
}

func (s *Source) options(ctx context.Context) (nats.Options, error) {
	o := nats.GetDefaultOptions()
	o.Servers = s.cfg.Addresses
	o.Name = "gpupool"
	o.AllowReconnect = false
	o.NoRandomize = true
	o.IgnoreDiscoveredServers = true
	o.SkipHostLookup = true
	o.CustomDialer = &dialer{ctx, s}
	o.Timeout = time.Minute // the end of ctx cuts the connection
	if deadline, ok := ctx.Deadline(); ok {
		o.Timeout = max(time.Until(deadline), time.Millisecond)
	}
	o.AsyncErrorCB = func(_ *nats.Conn, _ *nats.Subscription, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if errors.Is(err, nats.ErrPermissionViolation) {
			s.denied = err
		}
	}
	for _, c := range []struct {
		ref  secret.Ref
		into *string
	}{{s.cfg.Password, &o.Password}, {s.cfg.Token, &o.Token}} {
		if c.ref == "" {
			continue
		}
		value, err := c.ref.Resolve()
		if err != nil {
			return o, &credentialError{err}
		}
		*c.into = value
		s.secrets.Use(value)
	}
	o.User = s.cfg.Username
	if s.cfg.Credentials != "" {
		if err := nats.UserCredentials(s.cfg.Credentials)(&o); err != nil {
			return o, &credentialError{err}
		}
	}
	if s.cfg.UseTLS {
		c, err := s.cfg.TLS.Config("")
		if err != nil {
			return o, err
		}
		o.Secure, o.TLSConfig = true, c
	}
	return o, nil
}

// credentialError is one about reading a credential.
type credentialError struct{ error }

// dialer makes the connections of one call. The library gives it no context.
type dialer struct {
	ctx context.Context
	s   *Source
}

// Dial opens a connection.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	c, err := d.s.wire.DialContext(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	return dial.Guard(c, &protocol{firstOnly: d.s.cfg.UseTLS}), nil
}

// fail classifies an error.
func (s *Source) fail(ctx context.Context, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	class := dial.Class(ctx, err)
	var credential *credentialError
	switch {
	case s.denied != nil:
		class, err = queue.ErrAuth, s.denied
	case class != nil:
	case errors.As(err, &credential), errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired),
		errors.Is(err, nats.ErrAuthRevoked), errors.Is(err, nats.ErrAccountAuthExpired), errors.Is(err, nats.ErrNkeysNotSupported),
		strings.Contains(strings.ToLower(err.Error()), "authorization"):
		class = queue.ErrAuth
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrConsumerNotFound):
		class = queue.ErrMissing
	case errors.Is(err, errNotAsked), errors.Is(err, nats.ErrSecureConnRequired), strings.Contains(err.Error(), "invalid character"),
		strings.Contains(err.Error(), "json"), strings.Contains(err.Error(), "parse error"), strings.Contains(err.Error(), "expected"):
		class = queue.ErrInvalid
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount),
		errors.Is(err, jetstream.ErrInvalidStreamName), errors.Is(err, jetstream.ErrInvalidConsumerName):
		class = queue.ErrRefused
	default:
		class = queue.ErrUnreachable // no servers, closed, timeout
		var said jetstream.JetStreamError
		if errors.As(err, &said) && said.APIError() != nil && said.APIError().Code < 500 {
			class = queue.ErrRefused
		}
	}
	return s.secrets.Fail(class, fmt.Sprintf("nats at %s: consumer %q of stream %q: %v", strings.Join(s.cfg.Addresses, ","), s.cfg.Consumer, s.cfg.Stream, err))
}

// String names what is read: printing the fields would read them while the
// connection's goroutines write.
func (s *Source) String() string {
	return fmt.Sprintf("consumer %q of stream %q at %s", s.cfg.Consumer, s.cfg.Stream, strings.Join(s.cfg.Addresses, ","))
}

// GoString is String.
func (s *Source) GoString() string { return s.String() }

// Close closes the connection.
func (s *Source) Close() error {
	s.wire.Close()
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
	return nil
}
