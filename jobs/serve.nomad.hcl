# A model server on GPUs with a scaling block: `nomad job scale serve 3`, or a
# policy, changes how many run, within min and max. Hosts follow: gpupool powers
# them on when instances queue for GPUs, and off when none is left on them.

variable "count" {
  description = "Instances at the start."
  default     = 1
}

variable "autoscale" {
  description = "Whether the policy below changes how many run. nomad job scale can in any case."
  default     = true
}

variable "min" {
  default = 1
}

variable "max" {
  default = 6
}

variable "lead_time" {
  description = "From wanting an instance to its first answer, on a host that is on."
  default     = "3m"
}

variable "scale_in_after" {
  description = "How long an instance must have been surplus before it goes."
  default     = "15m"
}

variable "command" {
  description = "What to run, by /bin/sh -c. Begin the server with exec: else the shell gets SIGTERM, and the server is killed with it."
  default     = "exec vllm serve --port $NOMAD_PORT_http $MODEL"
}

variable "model" {
  default = "Qwen/Qwen3-8B"
}

variable "engine" {
  description = "The model server: vllm, sglang, trtllm, triton, nim, ... or auto, which looks at the command."
  default     = "auto"
}

variable "slots" {
  description = "Requests that an instance works on at a time, as vLLM's --max-num-seqs. 0: the server tells, or nobody knows."
  default     = 0
}

variable "prepare" {
  description = "What to run before the server starts, by /bin/sh -c, such as to fetch the weights. Empty: nothing."
  default     = ""
}

variable "warm_up" {
  description = "Body of a request that the server must have answered before it gets any other. Empty: none."
  default     = ""
}

job "serve" {
  type      = "service"
  node_pool = "gpu"

  group "serve" {
    count = var.count

    # How many follow from how full they are: the agents say it, apm-nvml adds it
    # up, and the strategy keeps as many as will be full to utilization when those
    # that are started now are ready.
    scaling {
      enabled = var.autoscale
      min     = var.min
      max     = var.max

      policy {
        check "load" {
          source       = "gpupool"
          query        = "instance_load{job=\"serve\"}"
          query_window = "1h"

          strategy "gpupool" {
            pool           = "serve" # what the decision log calls it
            units          = 1       # an instance that is full has a load of 1
            utilization    = "80%"
            lead_time      = var.lead_time
            scale_in_after = var.scale_in_after
            # service_time = "20s" # how long a request takes: tells a queue from load, and saves instances
            min = var.min # the autoscaler does not tell a strategy its min and max
            max = var.max
          }
        }
      }
    }

    network {
      port "http" {}
    }

    # From the moment that Nomad stops an instance it gets no new requests: the
    # agent takes it out of Consul within a second. Who sends requests has four
    # more seconds to notice before the server is told to end.
    shutdown_delay = "5s"

    meta = {
      "gpupool.engine"       = var.engine
      "gpupool.slots"        = var.slots
      "gpupool.warm_up_path" = var.warm_up == "" ? "" : "/v1/completions"
      "gpupool.warm_up_body" = var.warm_up
    }

    # A model takes minutes to load: an instance that starts late has not
    # failed.
    update {
      healthy_deadline  = "20m"
      progress_deadline = "30m"
    }

    dynamic "task" {
      for_each = var.prepare == "" ? [] : [var.prepare]
      labels   = ["prepare"]

      content {
        driver = "raw_exec"

        lifecycle {
          hook = "prestart"
        }

        config {
          command = "/bin/sh"
          args    = ["-c", task.value]
        }

        resources {
          cpu    = 50
          memory = 32
        }
      }
    }

    task "serve" {
      driver = "raw_exec"

      # What a server gets to finish the requests that it has. Each host's Nomad
      # client cuts it to its own client { max_kill_timeout }, without a word, and
      # that is 30s unless set: gpupool check compares the two.
      kill_timeout = "2m"
      kill_signal  = "SIGTERM" # else it is SIGINT

      config {
        command = "/bin/sh"
        args    = ["-c", var.command]
      }

      env {
        MODEL = var.model
      }

      resources {
        cpu    = 100
        memory = 64

        device "nvidia/gpu" {
          count = 1
        }
      }
    }
  }
}
