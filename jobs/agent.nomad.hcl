# The gpupool agent, on every host of a GPU node pool. It samples the GPUs,
# serves what it sees, and registers in Consul, where the target finds it. A
# pool with agent = "required" (the default) powers a host off only on the word
# of its agent that no GPU is busy outside Nomad.
#
# raw_exec, as root: only root sees whose processes are on a GPU.

variable "node_pool" {
  default = "gpu"
}

variable "agent" {
  description = "Path of the agent on the hosts."
  default     = "/opt/gpupool/bin/agent"
}

job "gpupool-agent" {
  type      = "system"
  node_pool = var.node_pool

  group "agent" {
    network {
      port "http" {}
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    task "agent" {
      driver = "raw_exec"

      config {
        command = var.agent
        args = [
          "-listen", "${NOMAD_ADDR_http}",
          "-node", "${node.unique.name}",
        ]
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
