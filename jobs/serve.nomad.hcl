# A model server on GPUs with a scaling block: `nomad job scale serve 3`, or a
# policy, changes how many run, within min and max. Hosts follow: gpupool powers
# them on when instances queue for GPUs, and off when none is left on them.

variable "count" {
  description = "Instances at the start."
  default     = 1
}

variable "command" {
  description = "What to run, by /bin/sh -c."
  default     = "exec vllm serve --port $NOMAD_PORT_http $MODEL"
}

variable "model" {
  default = "Qwen/Qwen3-8B"
}

job "serve" {
  type      = "service"
  node_pool = "gpu"

  group "serve" {
    count = var.count

    scaling {
      enabled = true
      min     = 0
      max     = 6
    }

    network {
      port "http" {}
    }

    # A model takes minutes to load: an instance that starts late has not
    # failed.
    update {
      healthy_deadline  = "20m"
      progress_deadline = "30m"
    }

    task "serve" {
      driver = "raw_exec"

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
