# Workers of a queue on GPUs, from none at all: as many as the work in the queue
# asks for, by the targets in queues.hcl. Hosts follow them: gpupool powers them
# on when workers queue for GPUs, and off when none is left on them.
#
# A worker must end by itself when it is told to (SIGTERM), after the task that
# it has: Nomad does not know which one is idle. Two things have to let it:
# kill_timeout below with the hosts' max_kill_timeout, and exec in command.

variable "queue" {
  description = "The queue, as queues.hcl calls it."
  default     = "tasks"
}

variable "max" {
  default = 20
}

variable "lead_time" {
  description = "From wanting a worker to its first task, on a host that is on."
  default     = "1m"
}

variable "scale_in_after" {
  description = "How long a worker must have been surplus before it goes."
  default     = "10m"
}

variable "command" {
  description = "What to run, by /bin/sh -c. Begin the worker with exec: else the shell gets SIGTERM, and the worker is killed with it."
  default     = "exec /usr/local/bin/worker"
}

job "workers" {
  type      = "service"
  node_pool = "gpu"

  group "workers" {
    count = 0

    scaling {
      enabled = true
      min     = 0
      max     = var.max

      policy {
        check "tasks" {
          source       = "gpupool"
          query        = "queue_demand{source=\"${var.queue}\"}"
          query_window = "1h"

          strategy "gpupool" {
            pool           = "workers" # what the decision log calls it
            units          = 1         # list_length in queues.hcl says how many tasks one worker should have
            lead_time      = var.lead_time
            scale_in_after = var.scale_in_after
            min            = 0 # the autoscaler does not tell a strategy its min and max
            max            = var.max
          }
        }
      }
    }

    task "worker" {
      driver = "raw_exec"

      # The longest task, and a little more. Each host's Nomad client cuts it to
      # its own client { max_kill_timeout }, without a word, and that is 30s
      # unless set: gpupool check compares the two. For more than 10m, Nomad also
      # wants an update block with a longer progress_deadline.
      kill_timeout = "10m"
      kill_signal  = "SIGTERM" # else it is SIGINT

      config {
        command = "/bin/sh"
        args    = ["-c", var.command]
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
