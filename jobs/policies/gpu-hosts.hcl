# How many GPU hosts to keep on: as many as running and queued jobs need, and as
# many as they will when a host that is powered on now has booted. The two weeks
# that the forecast looks back on are there from Consul, also after a failover.
#
# Intervals and cooldowns are the autoscaler's defaults, set in
# autoscaler.nomad.hcl. A cooldown is not needed here: what may boot or drain
# at once, and for how long surplus is kept, is decided with better knowledge
# by the strategy and the target.

scaling "gpu-hosts-h100" {
  enabled = true
  min     = 0
  max     = 3

  policy {
    check "demand" {
      source       = "gpupool"
      query        = "demand_gpus{pool=\"h100\"}"
      query_window = "336h" # forecasts live on days and weeks; at least scale_in_after

      strategy "gpupool" {
        pool  = "h100" # what the decision log calls it
        units = 2 # GPUs of a host
        min   = 0 # the autoscaler does not tell a strategy its min and max
        max   = 3
      }
    }

    target "gpupool" {
      pool = "h100"
    }
  }
}
