# Replicas that take a while to load before they serve, as many as one of two
# policies wants. Both see the same demand.

variable "strategy" {
  description = "predictive or target-value: what decides, and what the job and its service are called."
}

variable "command" {}

variable "max" {}

variable "season" {
  description = "The length of a day."
}

variable "lead_time" {
  description = "From wanting a replica to its first work."
}

variable "utilization" {
  description = "How full a replica shall be, for both."
}

job "replicas" {
  id   = var.strategy
  name = var.strategy
  type = "service"

  group "replicas" {
    count = 1

    # What is tried out is when replicas are asked for: a deployment would hold
    # up the next change until the one before it is healthy.
    update {
      max_parallel = 0
    }

    dynamic "scaling" {
      for_each = var.strategy == "predictive" ? [1] : []

      content {
        min = 1
        max = var.max

        policy {
          evaluation_interval = "2s"
          cooldown            = "2s"

          check "demand" {
            source       = "gpupool"
            query        = "queue_demand{source=\"demand\"}"
            query_window = "1m"

            strategy "gpupool" {
              pool           = "predictive"
              units          = 1
              min            = 1
              max            = var.max
              utilization    = "${var.utilization * 100}%"
              season         = var.season
              lead_time      = var.lead_time
              interval       = "2s"
              scale_in_after = "10s"
              slo            = "90%"
              slo_wait       = "2s"
              wear           = "5s"
            }
          }
        }
      }
    }

    # The load is that of a replica, of all that Nomad calls running. It
    # follows a change of the count within a second or two; a decision before
    # that would make the same change twice.
    dynamic "scaling" {
      for_each = var.strategy == "target-value" ? [1] : []

      content {
        min = 1
        max = var.max

        policy {
          evaluation_interval = "2s"
          cooldown            = "4s"

          check "load" {
            source       = "gpupool"
            query        = "queue_demand{source=\"load\"}"
            query_window = "1m"

            strategy "target-value" {
              target = var.utilization
            }
          }
        }
      }
    }

    network {
      port "http" {}
    }

    service {
      name = var.strategy
      port = "http"

      check {
        type     = "http"
        path     = "/health"
        interval = "1s"
        timeout  = "5s"

        # A busy machine answers late now and then; that is not what is looked for.
        failures_before_critical = 3
      }
    }

    task "replica" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "exec ${var.command} -listen $NOMAD_ADDR_http"]
      }

      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
