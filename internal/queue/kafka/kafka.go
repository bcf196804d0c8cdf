// Package kafka reads how far a consumer group lags behind a Kafka topic.
package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
	"github.com/gpupool/gpupool/internal/secret"
	"github.com/gpupool/gpupool/internal/setting"
)

// Config is a consumer group and a topic.
type Config struct {
	Brokers     []string // host:port
	Group       string
	Topic       string
	OffsetReset string // Earliest or Latest
	SASL        string // None, Plaintext, SCRAM256 or SCRAM512
	Username    string
	Password    secret.Ref // empty with None
	UseTLS      bool
	TLS         dial.TLS
}

// The values of Config.OffsetReset and Config.SASL, in KEDA's words.
const (
	Earliest = "earliest"
	Latest   = "latest"

	None      = "none"
	Plaintext = "plaintext"
	SCRAM256  = "scram_sha256"
	SCRAM512  = "scram_sha512"
)

// Kind is the line of package sources.
func Kind() queue.Kind {
	return queue.KindOf(queue.Kind{
		Name: "kafka", Doc: "the records of a Kafka topic that a consumer group has not committed",
		Targets: []string{"lag_threshold"}, Shared: dial.Keys,
		KEDA: dial.Names(dial.KEDA, map[string]string{
			"bootstrap_servers": "bootstrapServers", "consumer_group": "consumerGroup", "topic": "topic", "lag_threshold": "lagThreshold",
			"offset_reset_policy": "offsetResetPolicy", "sasl": "sasl", "username": "username", "password": "password", "tls": "tls",
		}),
	}, Declare, New)
}

// Declare reads the settings.
func Declare(r *setting.Reader) Config {
	c := Config{
		Brokers:     r.List("bootstrap_servers", nil, "Brokers, `host:port`, separated by commas.", setting.Rule[[]string]{Text: "host:port", OK: dial.HostPorts}),
		Group:       r.String("consumer_group", "", "The group. Records that it has not committed wait: Kafka does not tell those that it works on from the others, so what runs is unknown.", setting.NotEmpty()),
		Topic:       r.String("topic", "", "The topic.", setting.NotEmpty()),
		OffsetReset: r.OneOf("offset_reset_policy", Earliest, "Where the group begins in partitions where it has committed nothing yet: that is `auto.offset.reset` of its consumers. earliest: all records of the partition wait. latest: none of them do, and each such partition counts as one record, so that a consumer is started that can commit. KEDA's default is latest.", Earliest, Latest),
		SASL:        r.OneOf("sasl", None, "How to log in.", None, Plaintext, SCRAM256, SCRAM512),
		Username:    r.String("username", "", "User."),
		Password:    r.Secret("password", "Its password."),
		UseTLS:      r.Bool("tls", false, "Speak TLS."),
		TLS:         dial.DeclareTLS(r),
	}
	if len(r.Problems()) > 0 {
		return c
	}
	if with := c.SASL != None; with != (c.Username != "") || with != (c.Password != "") {
		r.Reject("sasl", "does not fit username and password", "give all three, or none")
	}
	return c
}

// Source is one group on one topic.
type Source struct {
	cfg  Config
	tls  *tls.Config // nil is without
	wire dial.Wire

	secrets *queue.Secrets

	mu     sync.Mutex
	client *kgo.Client // nil until it is needed
	closed bool
}

// New makes a source. It sends nothing.
func New(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg, secrets: new(queue.Secrets)}
	if cfg.UseTLS {
		var err error
		if s.tls, err = cfg.TLS.Config(""); err != nil {
			return nil, err
		}
	}
	return s, kgo.ValidateOpts(s.options()...)
}

// connect makes a client. It connects when it is asked something.
func (s *Source) connect() (*kgo.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, dial.ErrClosed
	}
	if s.client != nil {
		return s.client, nil
	}
	client, err := kgo.NewClient(s.options()...)
	if err != nil {
		return nil, err
	}
	s.client = client
	return client, nil
}

func (s *Source) options() []kgo.Opt {
	options := []kgo.Opt{
		kgo.SeedBrokers(s.cfg.Brokers...), kgo.ClientID("gpupool"), kgo.DisableClientMetrics(),
		kgo.BrokerMaxReadBytes(dial.MaxAnswer), kgo.FetchMaxBytes(1 << 20), kgo.FetchMaxPartitionBytes(1 << 20),
		kgo.RequestRetries(0), kgo.RetryTimeout(time.Second),
		kgo.MetadataMinAge(100 * time.Millisecond), kgo.ConnIdleTimeout(2 * time.Minute), kgo.RequestTimeoutOverhead(time.Minute),
		kgo.Dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
			return s.wire.DialTLS(ctx, network, address, s.tls)
		}),
	}
	if m := s.mechanism(); m != nil {
		options = append(options, kgo.SASL(m))
	}
	return options
}

// mechanism reads the password at each login, so that a rotated one is picked
// up.
func (s *Source) mechanism() sasl.Mechanism {
	password := func() (string, error) {
		value, err := s.cfg.Password.Resolve()
		if err != nil {
			return "", &credentialError{err}
		}
		s.secrets.Use(value)
		return value, nil
	}
	login := func(context.Context) (scram.Auth, error) {
		p, err := password()
		return scram.Auth{User: s.cfg.Username, Pass: p}, err
	}
	switch s.cfg.SASL {
	case Plaintext:
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			p, err := password()
			return plain.Auth{User: s.cfg.Username, Pass: p}, err
		})
	case SCRAM256:
		return scram.Sha256(login)
	case SCRAM512:
		return scram.Sha512(login)
	}
	return nil
}

// Read asks for the ends of the partitions after the group's offsets, so that
// a record that is done between the two counts once more and none counts less.
func (s *Source) Read(ctx context.Context) (queue.Reading, error) {
	defer s.wire.Call(ctx)()
	if err := ctx.Err(); err != nil {
		return queue.Reading{}, s.fail(ctx, err)
	}
	client, err := s.connect()
	if err != nil {
		return queue.Reading{}, s.fail(ctx, err)
	}
	lag, err := s.lag(ctx, kadm.NewClient(client))
	if err != nil {
		err = s.fail(ctx, err)
		if !errors.Is(err, queue.ErrMissing) {
			s.hangUp() // the next read begins anew
		}
		return queue.Reading{}, err
	}
	return queue.Reading{Waiting: float64(lag)}, nil
}

func (s *Source) lag(ctx context.Context, client *kadm.Client) (int64, error) {
	committed, err := client.FetchOffsets(ctx, s.cfg.Group)
	if err != nil {
		return 0, err
	}
	starts, err := listed(client.ListStartOffsets(ctx, s.cfg.Topic))
	if err != nil {
		return 0, err
	}
	ends, err := listed(client.ListEndOffsets(ctx, s.cfg.Topic))
	if err != nil {
		return 0, err
	}
	partitions, found := ends[s.cfg.Topic]
	if !found || len(partitions) == 0 {
		return 0, kerr.UnknownTopicOrPartition
	}
	at := make(map[int32]int64)
	for p, o := range committed[s.cfg.Topic] {
		if o.Err != nil {
			return 0, o.Err
		}
		at[p] = o.At
	}
	var total int64
	for p, end := range partitions {
		total += s.cfg.behind(at, p, starts[s.cfg.Topic][p].Offset, end.Offset)
	}
	return total, nil
}

// behind is the lag of one partition, never below 0.
func (c Config) behind(committed map[int32]int64, partition int32, start, end int64) int64 {
	at, found := committed[partition]
	switch {
	case found && at >= 0:
		return max(end-max(at, start), 0) // what was deleted waits no more
	case c.OffsetReset == Latest:
		return 1
	}
	return max(end-start, 0)
}

// listed returns the first error of a list, if there is one.
func listed(l kadm.ListedOffsets, err error) (kadm.ListedOffsets, error) {
	if err == nil {
		err = l.Error()
	}
	return l, err
}

func (s *Source) hangUp() {
	s.mu.Lock()
	client := s.client
	s.client = nil
	s.mu.Unlock()
	s.wire.Cut()
	if client != nil {
		client.Close()
	}
}

type credentialError struct{ error }

// fail classifies an error.
func (s *Source) fail(ctx context.Context, err error) error {
	class := dial.Class(ctx, err)
	var said *kerr.Error
	var credential *credentialError
	var auth *kadm.AuthError
	switch {
	case errors.As(err, &credential), errors.As(err, &auth):
		class = queue.ErrAuth
	case errors.As(err, &said):
		switch said {
		case kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState,
			kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed:
			class = queue.ErrAuth
		case kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.GroupIDNotFound:
			class = queue.ErrMissing
		default:
			class = queue.ErrRefused
			if said.Retriable {
				class = queue.ErrUnreachable
			}
		}
	case class != nil:
	case errors.Is(err, kgo.ErrClientClosed), strings.Contains(err.Error(), "unable to dial"), strings.Contains(err.Error(), "broker closed"):
		class = queue.ErrUnreachable
	default:
		class = queue.ErrInvalid
	}
	return s.secrets.Fail(class, fmt.Sprintf("kafka at %s: group %q on topic %q: %v", strings.Join(s.cfg.Brokers, ","), s.cfg.Group, s.cfg.Topic, err))
}

// String names what is read: printing the fields would read them while the
// connection's goroutines write.
func (s *Source) String() string {
	return fmt.Sprintf("group %q on topic %q at %s", s.cfg.Group, s.cfg.Topic, strings.Join(s.cfg.Brokers, ","))
}

// GoString is String.
func (s *Source) GoString() string { return s.String() }

// Close closes the connections.
func (s *Source) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.hangUp()
	s.wire.Close()
	return nil
}
