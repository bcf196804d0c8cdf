# How many workers of a queue to run, from none at all: as many as the work in it
# asks for, by the targets in jobs/queues.hcl. What is being worked on counts too,
# so that no worker goes whose task is not done. While a part of the queue cannot
# be read, workers are added by what is seen, and none goes.

scaling "queue-workers" {
  enabled = true
  type    = "horizontal"
  min     = 0
  max     = 20

  policy {
    check "tasks" {
      source       = "gpupool"
      query        = "queue_demand{source=\"tasks\"}"
      query_window = "336h"

      strategy "gpupool" {
        pool           = "workers" # what the decision log calls it
        units          = 1         # list_length in queues.hcl says how many tasks one worker should have
        lead_time      = "1m"
        scale_in_after = "10m"
        min            = 0 # the autoscaler does not tell a strategy its min and max
        max            = 20
      }
    }

    target "nomad-target" {
      Namespace = "default"
      Job       = "workers"
      Group     = "workers"
    }
  }
}
