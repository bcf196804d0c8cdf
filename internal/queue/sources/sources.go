// Package sources is the table of queue systems: the one place that knows
// them all. A new one is a folder beside this one and a line in [Kinds].
package sources

import (
	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/kafka"
	"github.com/gpupool/gpupool/internal/queue/metricsapi"
	"github.com/gpupool/gpupool/internal/queue/nats"
	"github.com/gpupool/gpupool/internal/queue/nomad"
	"github.com/gpupool/gpupool/internal/queue/postgresql"
	"github.com/gpupool/gpupool/internal/queue/prometheus"
	"github.com/gpupool/gpupool/internal/queue/rabbitmq"
	"github.com/gpupool/gpupool/internal/queue/redis"
	"github.com/gpupool/gpupool/internal/queue/sqs"
)

// Kinds returns all queue systems, by name: the type of KEDA's scaler where
// there is one.
func Kinds() []queue.Kind {
	return []queue.Kind{
		sqs.Kind(),         // aws-sqs-queue
		kafka.Kind(),       // kafka
		metricsapi.Kind(),  // metrics-api
		nats.Kind(),        // nats-jetstream
		nomad.Kind(),       // nomad-dispatch
		postgresql.Kind(),  // postgresql
		prometheus.Kind(),  // prometheus
		rabbitmq.Kind(),    // rabbitmq
		redis.ListKind(),   // redis
		redis.StreamKind(), // redis-streams
	}
}

// Load reads the queues from a file: see [queue.Load].
func Load(path string) (*queue.Set, error) { return queue.Load(path, Kinds()) }

// Parse reads the queues from the content of a file: see [queue.Parse].
func Parse(filename string, src []byte) (*queue.Set, error) {
	return queue.Parse(filename, src, Kinds())
}
