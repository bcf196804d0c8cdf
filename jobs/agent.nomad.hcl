# The gpupool agent, on every host of a GPU node pool. It samples the GPUs,
# serves what it sees, and registers in Consul, where the target finds it. A
# pool with agent = "required" (the default) powers a host off only on the word
# of its agent that no GPU is busy outside Nomad.
#
# raw_exec, as root: the agent counts in the host's PID namespace, and only
# root sees whose processes are on a GPU. docs/reference/agent.md has the rest.

variable "node_pool" {
  description = "The node pool of the GPU hosts."
  default     = "gpu"
}

variable "agent" {
  description = "Path of the agent on the hosts."
  default     = "/opt/gpupool/bin/agent"
}

variable "port" {
  description = "Where the agent serves, on the host's address. Prometheus can be pointed at it."
  default     = 9109
}

variable "consul_addr" {
  description = "Consul agent on the same host; empty is CONSUL_HTTP_ADDR, or 127.0.0.1:8500."
  default     = ""
}

variable "nomad_addr" {
  description = "Nomad agent on the same host, where the agent looks for model servers; off for none. The default is the socket that Nomad gives to the task."
  default     = "unix://$${NOMAD_SECRETS_DIR}/api.sock"
}

job "gpupool-agent" {
  # A drain by gpupool leaves system jobs alone, so the agent has the last word
  # on a host until it goes off.
  type      = "system"
  node_pool = var.node_pool

  constraint {
    attribute = "${attr.kernel.name}"
    value     = "linux"
  }

  group "agent" {
    network {
      port "http" {
        static = var.port
      }
    }

    # A host that misses its heart-beats for less than this keeps its agent. Nomad
    # would end it otherwise when the host is back, and start none on a host that
    # is drained: it could not be powered off then.
    disconnect {
      lost_after = "1h"
    }

    # It ends by itself only when a new driver's library can be loaded by a new
    # process alone. However often it ends, it is tried again.
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
          "-node", "${node.unique.name}", # the name by which the target knows the host
          "-consul", var.consul_addr,
          "-nomad", var.nomad_addr,
        ]
      }

      # More in docs/reference/agent.md, such as
      #   "-notices", "aws"   on hosts that a cloud may take away
      #   "-node-meta"        tell Nomad's scheduler how the GPUs stand
      #   "-tls-cert", "-tls-key", "-tls-client-ca"

      # With it the agent may ask Nomad what runs on its host. With Nomad ACLs it
      # wants a policy besides: docs/reference/model-servers.md.
      identity {
        env = true
      }

      # With Consul ACLs, let Nomad give the agent a token of its own; the rule
      # that it needs is in docs/reference/agent.md:
      #
      #   consul {}
      #
      # With a bearer token for its readers, which the target then needs too:
      #
      #   template {
      #     destination = "${NOMAD_SECRETS_DIR}/agent.env"
      #     env         = true
      #     data        = "GPUPOOL_AGENT_TOKEN={{ with nomadVar \"nomad/jobs/gpupool-agent\" }}{{ .token }}{{ end }}"
      #   }

      # It uses 25 MiB and a hundredth of a core with eight GPUs.
      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
