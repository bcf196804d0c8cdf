# How many instances of a model server to run: as many as the requests that they
# work on and have waiting fill, and as many as they will when an instance that is
# started now has loaded its model. Hosts follow by a policy of their own.
#
# It is the policy of the scaling block in jobs/serve.nomad.hcl, for a job that
# has none: use one of both. To begin from zero there must be something that knows
# of work while nobody serves; then the query is a sum with that queue:
#
#   sum(instance_load{job="serve"}, queue_demand{source="serve"})

scaling "serve-instances" {
  enabled = true
  type    = "horizontal"
  min     = 1
  max     = 6

  policy {
    check "load" {
      source       = "gpupool"
      query        = "instance_load{job=\"serve\"}"
      query_window = "336h"

      strategy "gpupool" {
        pool           = "serve" # what the decision log calls it
        units          = 1       # an instance that is full has a load of 1
        utilization    = "80%"
        lead_time      = "3m" # instance_warm_up_seconds{job="serve"} tells how long it took
        scale_in_after = "15m"
        min            = 1 # the autoscaler does not tell a strategy its min and max
        max            = 6
      }
    }

    target "nomad-target" {
      Namespace = "default"
      Job       = "serve"
      Group     = "serve"
    }
  }
}
