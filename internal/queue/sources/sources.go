// Package sources is the table of queue systems: the one place that knows
// them all. A new one is a folder beside this one and a line in [Kinds].
package sources

import (
	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
	"github.com/gpupool/gpupool/internal/queue/kafka"
	"github.com/gpupool/gpupool/internal/queue/metricsapi"
	"github.com/gpupool/gpupool/internal/queue/nats"
	"github.com/gpupool/gpupool/internal/queue/nomad"
	"github.com/gpupool/gpupool/internal/queue/postgresql"
	"github.com/gpupool/gpupool/internal/queue/prometheus"
	"github.com/gpupool/gpupool/internal/queue/rabbitmq"
	"github.com/gpupool/gpupool/internal/queue/redis"
	"github.com/gpupool/gpupool/internal/queue/sqs"
	"github.com/gpupool/gpupool/internal/setting"
)

// Kinds returns all queue systems, by name: the type of KEDA's scaler where
// there is one.
func Kinds() []queue.Kind {
	return []queue.Kind{
		kind("aws-sqs-queue", "the messages of an Amazon SQS queue",
			sqs.Declare, sqs.New, sqs.KEDA(), "queue_length"),
		kind("kafka", "the records of a Kafka topic that a consumer group has not committed",
			kafka.Declare, kafka.New, kafka.KEDA(), "lag_threshold"),
		kind("metrics-api", "a number that an HTTP endpoint answers in JSON",
			metricsapi.Declare, metricsapi.New, metricsapi.KEDA(), "target_value"),
		kind("nats-jetstream", "the messages that a NATS JetStream consumer has not acknowledged",
			nats.Declare, nats.New, nats.KEDA(), "lag_threshold"),
		kind("nomad-dispatch", "the dispatched instances of a parameterized Nomad job",
			nomad.Declare, nomad.New, nil, "target"),
		kind("postgresql", "the one row that a query gives PostgreSQL",
			postgresql.Declare, postgresql.New, postgresql.KEDA(), "target_query_value"),
		kind("prometheus", "the one sample that a PromQL query gives",
			prometheus.Declare, prometheus.New, prometheus.KEDA(), "threshold"),
		kind("rabbitmq", "the messages of a RabbitMQ queue",
			rabbitmq.Declare, rabbitmq.New, rabbitmq.KEDA(), "value"),
		kind("redis", "the elements of a Redis list, set, sorted set or hash",
			redis.DeclareList, redis.NewList, redis.ListKEDA(), "list_length"),
		kind("redis-streams", "the entries of a Redis stream that a consumer group has not done",
			redis.DeclareStream, redis.NewStream, redis.StreamKEDA(), "lag_count", "stream_length"),
	}
}

// Load reads the queues from a file: see [queue.Load].
func Load(path string) (*queue.Set, error) { return queue.Load(path, Kinds()) }

// Parse reads the queues from the content of a file: see [queue.Parse].
func Parse(filename string, src []byte) (*queue.Set, error) {
	return queue.Parse(filename, src, Kinds())
}

// kind makes a line of the table.
func kind[C any, S queue.Source](name, doc string, declare func(*setting.Reader) C, open func(C) (S, error), keda map[string]string, targets ...string) queue.Kind {
	return queue.Kind{
		Name: name, Doc: doc, Targets: targets, Shared: dial.Keys, KEDA: keda,
		Declare: func(r *setting.Reader) queue.Open {
			cfg := declare(r)
			return func() (queue.Source, error) {
				s, err := open(cfg)
				if err != nil {
					return nil, err // not s: a nil *S is no nil Source
				}
				return s, nil
			}
		},
	}
}
