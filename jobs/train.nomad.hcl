# A batch job on GPUs. It queues until hosts are on for it, and gpupool never
# takes a host away from it.

variable "count" {
  description = "How many of it run side by side."
  default     = 1
}

variable "gpus" {
  description = "GPUs of each."
  default     = 1
}

variable "command" {
  description = "What to run, by /bin/sh -c."
  default     = "nvidia-smi && sleep 600"
}

job "train" {
  type      = "batch"
  node_pool = "gpu"

  group "train" {
    count = var.count

    # A host that loses its power costs one more try.
    reschedule {
      attempts  = 3
      interval  = "24h"
      delay     = "5s"
      unlimited = false
    }

    task "train" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["-c", var.command]
      }

      resources {
        cpu    = 100
        memory = 64

        device "nvidia/gpu" {
          count = var.gpus
        }
      }
    }
  }
}
