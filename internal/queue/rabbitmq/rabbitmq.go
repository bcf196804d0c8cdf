// Package rabbitmq counts the messages of a RabbitMQ queue, over the HTTP API
// of its management plugin or over AMQP 0-9-1.
package rabbitmq

import (
	"net/url"
	"slices"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
	"github.com/gpupool/gpupool/internal/secret"
	"github.com/gpupool/gpupool/internal/setting"
)

// Config is a queue.
type Config struct {
	Host         *url.URL // http, https, amqp or amqps, without a user
	VHost        string
	Queue        string
	Mode         string // QueueLength or MessageRate
	ExcludeUnack bool
	Username     string
	Password     secret.Ref
	TLS          dial.TLS
}

// The values of Config.Mode, in KEDA's words.
const (
	QueueLength = "QueueLength"
	MessageRate = "MessageRate"
)

// Kind is the line of package sources.
func Kind() queue.Kind {
	return queue.KindOf(queue.Kind{
		Name: "rabbitmq", Doc: "the messages of a RabbitMQ queue",
		Targets: []string{"value"}, Shared: dial.Keys,
		KEDA: dial.Names(dial.KEDA, map[string]string{
			"host": "host", "queue_name": "queueName", "vhost_name": "vhostName", "mode": "mode", "value": "value",
			"exclude_unacknowledged": "excludeUnacknowledged", "username": "username", "password": "password",
		}),
	}, Declare, New)
}

// Declare reads the settings.
func Declare(r *setting.Reader) Config {
	host := r.String("host", "", "The server: `http://host:15672` or `https://host:15671` for the management plugin, `amqp://host:5672` or `amqps://host:5671` for AMQP, which counts ready messages only. The management plugin's counts are a few seconds old. A user or password in it is refused.", setting.NotEmpty())
	c := Config{
		Queue:        r.String("queue_name", "", "The queue.", setting.NotEmpty()),
		VHost:        r.String("vhost_name", "/", "Its virtual host.", setting.NotEmpty()),
		Mode:         r.OneOf("mode", QueueLength, "QueueLength: messages; ready ones wait, unacknowledged ones run. MessageRate: messages published in a second are the work, whatever lies in the queue; `value` is then how many a second one unit of capacity works off.", QueueLength, MessageRate),
		ExcludeUnack: r.Bool("exclude_unacknowledged", false, "Unacknowledged messages do not count, so what runs is unknown. Over AMQP they never do."),
		Username:     r.String("username", "guest", "User. Over HTTP it needs the tag `monitoring` or `management`, and for the virtual host permission to read.", setting.NotEmpty()),
		Password:     r.Secret("password", "Its password."),
		TLS:          dial.DeclareTLS(r),
	}
	if c.Password == "" && !slices.ContainsFunc(r.Problems(), func(p setting.Problem) bool { return p.Key == "password" }) {
		r.Reject("password", "is required and not there", `add it: a reference to a credential, "env:NAME" or "file:PATH"`)
	}
	if host == "" {
		return c
	}
	u, err := url.Parse(host)
	switch {
	case err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		r.Reject("host", "is no URL", `write one, such as "http://127.0.0.1:15672" or "amqp://127.0.0.1:5672"`)
	case u.User != nil:
		r.Reject("host", "has a user name or password in it", "give it by username and password")
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "amqp" && u.Scheme != "amqps":
		r.Reject("host", "is not of http, https, amqp or amqps", `write one of them, such as "http://127.0.0.1:15672"`)
	case (u.Scheme == "amqp" || u.Scheme == "amqps") && u.Path != "" && u.Path != "/":
		r.Reject("host", "has a path", "give the virtual host by vhost_name")
	case (u.Scheme == "amqp" || u.Scheme == "amqps") && c.Mode == MessageRate:
		r.Reject("mode", "MessageRate is not told over AMQP", "ask the management plugin: host = \"http://...\"")
	}
	c.Host = u
	return c
}

// Source is one queue.
type Source struct{ queue.Source }

// New makes a source. It sends nothing.
func New(cfg Config) (*Source, error) {
	var s queue.Source
	var err error
	if cfg.Host.Scheme == "http" || cfg.Host.Scheme == "https" {
		s, err = newManagement(cfg)
	} else {
		s, err = newAMQP(cfg)
	}
	if err != nil {
		return nil, err
	}
	return &Source{s}, nil
}
