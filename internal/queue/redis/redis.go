// Package redis counts the work in Redis: the elements of a list, set, sorted
// set or hash, and the entries of a stream that a consumer group has not done.
// Valkey and KeyDB speak the same protocol.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
	"github.com/gpupool/gpupool/internal/secret"
	"github.com/gpupool/gpupool/internal/setting"
)

// Server says how to reach Redis.
type Server struct {
	Addresses []string // of the server, of its Sentinels, or of some nodes of a cluster
	Sentinel  string   // name of the master that the Sentinels watch; empty is none
	Cluster   bool     // the server is a cluster
	Username  string
	Password  secret.Ref // empty is none

	SentinelUsername string
	SentinelPassword secret.Ref // empty is none

	Database int
	UseTLS   bool
	TLS      dial.TLS
}

func declareServer(r *setting.Reader) Server {
	s := Server{
		Addresses: r.List("address", nil, "The server, `host:port`. With `sentinel_master`, its Sentinels, or with `cluster`, some of its nodes, separated by commas.", setting.Rule[[]string]{
			Text: "host:port", OK: dial.HostPorts,
		}),
		Sentinel:         r.String("sentinel_master", "", "Ask the Sentinels at `address` for the master of this name."),
		Cluster:          r.Bool("cluster", false, "The server is a Redis Cluster: the nodes at `address` are asked which one has the key. A list and what runs of it need the same part in braces, as `{tasks}:waiting` and `{tasks}:running`."),
		Username:         r.String("username", "", "User of the ACL. Without it, the default user."),
		Password:         r.Secret("password", "Its password. Without it, none is sent."),
		SentinelUsername: r.String("sentinel_username", "", "User of the Sentinels' ACL."),
		SentinelPassword: r.Secret("sentinel_password", "Its password. Without it, none is sent."),
		Database:         r.Int("database_index", 0, "Number of the database.", setting.Between(0, 1<<20)),
		UseTLS:           r.Bool("tls", false, "Speak TLS."),
		TLS:              dial.DeclareTLS(r),
	}
	if len(s.Addresses) > 1 && s.Sentinel == "" && !s.Cluster {
		r.Reject("address", "has several servers", "give one, or sentinel_master with the addresses of its Sentinels, or cluster")
	}
	if s.Cluster && s.Sentinel != "" {
		r.Reject("cluster", "is set beside sentinel_master", "a cluster has no Sentinels: give one of the two")
	}
	if s.Cluster && s.Database != 0 {
		r.Reject("database_index", "is not 0", "a cluster has no other")
	}
	return s
}

// serverKEDA has KEDA's names of a server's keys.
func serverKEDA(more map[string]string) map[string]string {
	return dial.Names(dial.KEDA, map[string]string{
		"address":           "address, addresses",
		"sentinel_master":   "sentinelMaster",
		"username":          "username",
		"password":          "password",
		"sentinel_username": "sentinelUsername",
		"sentinel_password": "sentinelPassword",
		"database_index":    "databaseIndex",
		"tls":               "enableTLS",
	}, more)
}

// The library writes to stderr what it also returns, once for each try of a
// server that is away. Its logger is one for the whole process.
func init() { logging.Disable() }

// client speaks to one server for one source.
type client struct {
	server Server
	keys   []string // that it reads, which a cluster must have in one slot
	wire   dial.Wire
	tls    *tls.Config // nil is without
	redis  *redis.Client

	secrets *queue.Secrets
}

func open(s Server, keys ...string) (*client, error) {
	c := &client{server: s, keys: keys, secrets: new(queue.Secrets)}
	if s.UseTLS {
		var err error
		if c.tls, err = s.TLS.Config(""); err != nil {
			return nil, err
		}
	}
	c.begin()
	return c, nil
}

// begin makes the library's client, which has no connection yet.
func (c *client) begin() {
	o := options(c.dial)
	o.DB, o.CredentialsProviderContext = c.server.Database, c.credentials
	c.redis = redis.NewClient(o)
}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// placeholder is the address that the library knows. It looks names up when a
// client is made, which is to send nothing, so the dialer has the right one.
const placeholder = "127.0.0.1:6379"

// options are those of a client that has one connection, tries once, says
// nothing of itself and hears nothing that it did not ask for.
func options(d dialer) *redis.Options {
	return &redis.Options{
		Addr: placeholder, Dialer: d, Protocol: 2, DisableIdentity: true, ContextTimeoutEnabled: true,
		MaxRetries: -1, DialerRetries: 1, PoolSize: 1, MaxActiveConns: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// dial connects to the server, to the master that the Sentinels name, or to the
// node of a cluster that has the key.
func (c *client) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	address, err := c.server.Addresses[0], error(nil)
	switch {
	case c.server.Sentinel != "":
		address, err = c.master(ctx)
	case c.server.Cluster:
		address, err = c.node(ctx)
	}
	if err != nil {
		return nil, err
	}
	return c.connect(ctx, network, address)
}

// connect opens one connection.
func (c *client) connect(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.wire.DialTLS(ctx, network, address, c.tls)
	if err != nil {
		return nil, err
	}
	return dial.Guard(conn, new(resp)), nil
}

// master asks one Sentinel after the other where the master is.
func (c *client) master(ctx context.Context) (string, error) {
	var errs []error
	for _, address := range c.server.Addresses {
		o := options(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return c.connect(ctx, network, address)
		})
		o.Username = c.server.SentinelUsername
		if ref := c.server.SentinelPassword; ref != "" {
			password, err := ref.Resolve()
			if err != nil {
				return "", err
			}
			o.Password = password
			c.secrets.Use(password)
		}
		sentinel := redis.NewSentinelClient(o)
		found, err := sentinel.GetMasterAddrByName(ctx, c.server.Sentinel).Result()
		_ = sentinel.Close()
		if errors.Is(err, redis.Nil) {
			err = fmt.Errorf("it watches no master %q", c.server.Sentinel)
		}
		if err == nil && len(found) == 2 {
			return net.JoinHostPort(found[0], found[1]), nil
		}
		errs = append(errs, fmt.Errorf("sentinel %s: %w", address, err))
	}
	return "", errors.Join(errs...)
}

// node asks one node of the cluster after the other which has the keys.
func (c *client) node(ctx context.Context) (string, error) {
	var errs []error
	for _, address := range c.server.Addresses {
		found, err := c.nodeBy(ctx, address)
		if err == nil || errors.Is(err, errSlots) {
			return found, err
		}
		errs = append(errs, fmt.Errorf("node %s: %w", address, err))
	}
	return "", errors.Join(errs...)
}

// errSlots means that no node of a cluster can answer for all keys at once.
var errSlots = errors.New("the keys are not in one slot of the cluster: give them the same part in braces, as {tasks}:waiting and {tasks}:running")

// nodeBy asks one node which has the keys: the slot of a key, and the master of
// each range of slots, https://redis.io/docs/latest/commands/cluster-slots/.
func (c *client) nodeBy(ctx context.Context, address string) (string, error) {
	o := options(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return c.connect(ctx, network, address)
	})
	o.CredentialsProviderContext = c.credentials
	asked := redis.NewClient(o)
	defer asked.Close() //nolint:errcheck // only read
	var slot int64
	for i, key := range c.keys {
		n, err := asked.ClusterKeySlot(ctx, key).Result()
		if err != nil {
			return "", err
		}
		if i > 0 && n != slot {
			return "", errSlots
		}
		slot = n
	}
	ranges, err := asked.ClusterSlots(ctx).Result() //nolint:staticcheck // Redis before version 7 has no other
	if err != nil {
		return "", err
	}
	for _, r := range ranges {
		if int64(r.Start) > slot || slot > int64(r.End) || len(r.Nodes) == 0 {
			continue
		}
		host, port, err := net.SplitHostPort(r.Nodes[0].Addr)
		if err != nil {
			return "", err
		}
		if host == "" { // the one that was asked
			host, _, _ = net.SplitHostPort(address)
		}
		return net.JoinHostPort(host, port), nil
	}
	return "", fmt.Errorf("no node has slot %d of the cluster", slot)
}

// credentials are read at each login, so that a rotated one is picked up.
func (c *client) credentials(context.Context) (username, password string, err error) {
	if c.server.Password == "" {
		return c.server.Username, "", nil
	}
	password, err = c.server.Password.Resolve()
	if err != nil {
		return "", "", err
	}
	c.secrets.Use(password)
	return c.server.Username, password, nil
}

func (c *client) close() error {
	err := c.redis.Close()
	c.wire.Close()
	if errors.Is(err, redis.ErrClosed) {
		return nil
	}
	return err
}

// fail classifies an error.
func (c *client) fail(ctx context.Context, what string, err error) error {
	class := dial.Class(ctx, err)
	var said redis.Error
	switch text := err.Error(); {
	case class != nil:
	case errors.Is(err, errSlots):
		class = queue.ErrRefused
	case !errors.As(err, &said):
		class = queue.ErrInvalid
		if errors.Is(err, redis.ErrClosed) || errors.Is(err, redis.ErrPoolTimeout) {
			class = queue.ErrUnreachable
		}
	case hasPrefix(text, "WRONGPASS", "NOAUTH", "NOPERM", "ERR invalid password", "ERR AUTH", "ERR Client sent AUTH"):
		class = queue.ErrAuth
	case hasPrefix(text, "MOVED", "ASK"):
		class = queue.ErrUnreachable
		_ = c.redis.Close() // the key has moved: the next connection goes where it is
		c.begin()
	case hasPrefix(text, "LOADING", "MASTERDOWN", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "ERR max number of clients"):
		class = queue.ErrUnreachable
	case hasPrefix(text, "ERR no such key"):
		class = queue.ErrMissing
	default:
		class = queue.ErrRefused
	}
	return c.secrets.Fail(class, fmt.Sprintf("redis at %s: %s: %v", strings.Join(c.server.Addresses, ","), what, err))
}

func hasPrefix(text string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(text, p) {
			return true
		}
	}
	return false
}
