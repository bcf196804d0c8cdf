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
  description = "What to run, by /bin/sh -c. Begin the work itself with exec: else the shell gets SIGTERM, and the work is killed with it."
  default     = "nvidia-smi && exec sleep 600"
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

      # What it gets to write a checkpoint, where it is stopped after all: by
      # nomad job stop, or in a pool with drain_work = "all". For more than 30s,
      # set client { max_kill_timeout } on the hosts too: each cuts it to that,
      # without a word, and it is 30s unless set.
      kill_timeout = "30s"
      kill_signal  = "SIGTERM" # else it is SIGINT

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
