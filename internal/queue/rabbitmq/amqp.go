package rabbitmq

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
)

// amqp declares the queue passively, which tells how many messages are ready.
type amqp struct {
	cfg  Config
	tls  *tls.Config // nil is without
	addr string      // host:port
	wire dial.Wire

	conn    *amqp091.Connection // nil until it is needed
	secrets *queue.Secrets
}

func newAMQP(cfg Config) (*amqp, error) {
	a := &amqp{cfg: cfg, addr: cfg.Host.Host, secrets: new(queue.Secrets)}
	port := "5672"
	if cfg.Host.Scheme == "amqps" {
		port = "5671"
		var err error
		if a.tls, err = cfg.TLS.Config(""); err != nil {
			return nil, err
		}
	}
	if cfg.Host.Port() == "" {
		a.addr = net.JoinHostPort(cfg.Host.Hostname(), port)
	}
	return a, nil
}

// Read asks on a channel of its own, which a queue that is not there ends.
func (a *amqp) Read(ctx context.Context) (queue.Reading, error) {
	defer a.wire.Call(ctx)()
	conn, err := a.connect(ctx)
	if err != nil {
		return queue.Reading{}, a.fail(ctx, err)
	}
	n, err := declared(conn, a.cfg.Queue)
	if err != nil {
		err = a.fail(ctx, err)
		if !errors.Is(err, queue.ErrMissing) {
			a.wire.Cut() // the next read begins anew
		}
		return queue.Reading{}, err
	}
	return queue.Reading{Waiting: float64(n)}, nil
}

func declared(conn *amqp091.Connection, name string) (int, error) {
	ch, err := conn.Channel()
	if err != nil {
		return 0, err
	}
	defer ch.Close() //nolint:errcheck // nothing is open on it
	q, err := ch.QueueDeclarePassive(name, false, false, false, false, nil)
	if err != nil {
		return 0, err
	}
	if q.Name != name || q.Messages < 0 {
		return 0, errNotAsked
	}
	return q.Messages, nil
}

var errNotAsked = errors.New("the answer is not about the queue that was asked for")

// connect returns the connection, or makes one.
func (a *amqp) connect(ctx context.Context) (*amqp091.Connection, error) {
	if a.conn != nil && !a.conn.IsClosed() {
		return a.conn, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	password, err := a.cfg.Password.Resolve()
	if err != nil {
		return nil, &credentialError{err}
	}
	a.secrets.Use(password)
	conn, err := amqp091.DialConfig("amqp://"+a.addr, amqp091.Config{
		SASL:  []amqp091.Authentication{&amqp091.PlainAuth{Username: a.cfg.Username, Password: password}},
		Vhost: a.cfg.VHost, ChannelMax: 8, FrameSize: maxFrame, Heartbeat: 30 * time.Second, Locale: "en_US",
		Properties: amqp091.Table{"connection_name": "gpupool", "capabilities": amqp091.Table{"authentication_failure_close": true}},
		Dial: func(network, address string) (net.Conn, error) {
			c, err := a.wire.DialTLS(ctx, network, address, a.tls)
			if err != nil {
				return nil, err
			}
			return dial.Guard(c, new(frames)), nil
		},
	})
	if err != nil {
		return nil, err
	}
	a.conn = conn
	return conn, nil
}

type credentialError struct{ error }

// fail classifies an error.
func (a *amqp) fail(ctx context.Context, err error) error {
	class := dial.Class(ctx, err)
	var said *amqp091.Error
	var credential *credentialError
	switch {
	case errors.Is(err, amqp091.ErrCredentials), errors.Is(err, amqp091.ErrSASL), errors.As(err, &credential):
		class = queue.ErrAuth
	case class != nil:
	case errors.Is(err, amqp091.ErrClosed):
		class = queue.ErrUnreachable
	case errors.As(err, &said) && !said.Server && said.Code == amqp091.FrameError:
		class = queue.ErrUnreachable // the connection ended, and the library says why in words only
	case errors.As(err, &said):
		switch said.Code {
		case amqp091.NotFound:
			class = queue.ErrMissing
		case amqp091.AccessRefused, amqp091.NotAllowed:
			class = queue.ErrAuth
		case amqp091.ConnectionForced, amqp091.InternalError, amqp091.ResourceError:
			class = queue.ErrUnreachable
		case amqp091.ResourceLocked, amqp091.PreconditionFailed, amqp091.NotImplemented:
			class = queue.ErrRefused
		default:
			class = queue.ErrInvalid
		}
	default:
		class = queue.ErrInvalid
	}
	return a.secrets.Fail(class, fmt.Sprintf("rabbitmq at %s: queue %q in %q: %v", a.addr, a.cfg.Queue, a.cfg.VHost, err))
}

// Close closes the connection.
func (a *amqp) Close() error {
	a.wire.Close()
	return nil
}

const maxFrame = 128 << 10 // bytes, the most that RabbitMQ sends by default

// frames reads along what a server says. It refuses a frame that is larger
// than was agreed on before the client makes room for it. (AMQP 0-9-1, section
// 2.3.5.)
type frames struct {
	header []byte // so far
	skip   int    // bytes of a frame that come first
}

// Feed reads on. It is false once the stream is not what it should be.
func (f *frames) Feed(b []byte) bool {
	const length = 7 // type, channel, size
	for len(b) > 0 {
		if f.skip > 0 {
			n := min(f.skip, len(b))
			f.skip -= n
			b = b[n:]
			continue
		}
		n := min(length-len(f.header), len(b))
		f.header = append(f.header, b[:n]...)
		b = b[n:]
		if f.header[0] == 'A' { // "AMQP" and a version: the server speaks another
			return len(f.header) < 4
		}
		if len(f.header) < length {
			return true
		}
		size := binary.BigEndian.Uint32(f.header[3:])
		if f.header[0] > 8 || size > maxFrame {
			return false
		}
		f.skip = int(size) + 1 // and the end of the frame
		f.header = f.header[:0]
	}
	return true
}
