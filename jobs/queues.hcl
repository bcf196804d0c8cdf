# The queues whose depth counts as demand. Every key, with its unit, its range,
# its default and KEDA's name of it, is in docs/reference/queues.md.

# Work in one Redis list. Workers move what they work on to a second one.
queue "tasks" {
  source "redis" {
    address           = "redis.service.consul:6379"
    list_name         = "tasks"
    running_list_name = "tasks-running"
    password          = "env:REDIS_PASSWORD"
    list_length       = 4 # tasks that one GPU should have
  }
}

# Work in two places, added up.
queue "images" {
  combine    = "sum"
  activation = 5 # a few do not wake a host

  source "nats-jetstream" {
    address       = "nats.service.consul:4222"
    stream        = "images"
    consumer      = "workers"
    username      = "gpupool"
    password      = "env:NATS_PASSWORD"
    lag_threshold = 10
  }

  source "rabbitmq" {
    host       = "https://rabbitmq.service.consul:15671"
    queue_name = "images"
    username   = "gpupool"
    password   = "env:RABBITMQ_PASSWORD"
    value      = 10
  }
}

# Batch jobs that were dispatched and found no room yet. Each takes 8 GPUs.
queue "training" {
  source "nomad-dispatch" {
    address = "http://127.0.0.1:4646"
    job     = "train"
    token   = "env:NOMAD_TOKEN"
    target  = 0.125
  }
}
