# Nomad Autoscaler with gpupool's plugins, run by Nomad itself on a node that
# is not in a GPU pool. Before the first run, put the BMC password where only
# this job can read it:
#
#   nomad var put nomad/jobs/gpupool-autoscaler bmc_password=...
#
# With ACLs, the job also wants a policy bound to its identity; the rules are
# in docs/reference/nomad.md and docs/reference/consul.md.

variable "node_pool" {
  description = "Where the autoscaler itself runs. Never a pool that it powers off."
  default     = "default"
}

variable "bin" {
  description = "Folder with nomad-autoscaler, target-gpupool, apm-nvml and strategy-predictive."
  default     = "/opt/gpupool/bin"
}

variable "pools" {
  description = "The inventory to copy into the task."
  default     = "pools.hcl"
}

variable "policy" {
  description = "The scaling policy to copy into the task."
  default     = "policies/gpu-hosts.hcl"
}

variable "queues" {
  description = "The file of queues whose depth is demand, queues.hcl, to copy into the task. Empty: none."
  default     = ""
}

variable "nomad_addr" {
  default = "http://127.0.0.1:4646"
}

variable "consul_addr" {
  default = "127.0.0.1:8500"
}

variable "evaluation_interval" {
  description = "How often demand is read and the count decided."
  default     = "10s"
}

variable "scale_in_after" {
  description = "How long a host must have been surplus before it goes off."
  default     = "10m"
}

variable "log_level" {
  default = "info"
}

job "gpupool-autoscaler" {
  type      = "service"
  node_pool = var.node_pool

  group "autoscaler" {
    count = 1

    restart {
      attempts = 10
      interval = "10m"
      delay    = "2s"
      mode     = "delay"
    }

    network {
      port "http" {}

      port "target" {
        static = 9110
      }

      port "apm" {
        static = 9111
      }
    }

    task "autoscaler" {
      driver = "raw_exec"

      # The plugins notice when the autoscaler is gone and stop by themselves;
      # this is what they get to give back the lease.
      kill_timeout = "10s"

      # The autoscaler does not start a plugin again that died, nor notice one
      # whose loop is stuck: a restart mends both, and no host or job minds it.
      # That Consul, Nomad or a power controller is away fails no check.
      service {
        name     = "gpupool-target"
        provider = "nomad"
        address  = "127.0.0.1" # as listen below
        port     = "target"

        check {
          type     = "http"
          path     = "/healthz"
          interval = "10s"
          timeout  = "5s"

          check_restart {
            limit = 3
            grace = "30s"
          }
        }
      }

      service {
        name     = "gpupool-apm"
        provider = "nomad"
        address  = "127.0.0.1"
        port     = "apm"

        check {
          type     = "http"
          path     = "/healthz"
          interval = "10s"
          timeout  = "5s"

          check_restart {
            limit = 3
            grace = "30s"
          }
        }
      }

      config {
        command = "${var.bin}/nomad-autoscaler"
        args    = ["agent", "-config", "${NOMAD_TASK_DIR}/autoscaler.hcl"]
      }

      template {
        destination = "${NOMAD_SECRETS_DIR}/bmc.env"
        env         = true
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/gpupool-autoscaler" }}BMC_PASSWORD={{ .bmc_password }}{{ end }}
        EOT
      }

      template {
        destination = "${NOMAD_TASK_DIR}/pools.hcl"
        data        = file(var.pools)
      }

      dynamic "template" {
        for_each = var.queues == "" ? [] : [var.queues]

        content {
          destination = "${NOMAD_TASK_DIR}/queues.hcl"
          data        = file(template.value)
        }
      }

      template {
        destination = "${NOMAD_TASK_DIR}/policies/gpu-hosts.hcl"
        data        = file(var.policy)
      }

      template {
        destination = "${NOMAD_TASK_DIR}/autoscaler.hcl"
        data        = <<-EOT
          log_level  = "${var.log_level}"
          plugin_dir = "${var.bin}"

          http {
            bind_address = "127.0.0.1"
            bind_port    = {{ env "NOMAD_PORT_http" }}
          }

          nomad {
            address = "${var.nomad_addr}"
          }

          policy {
            dir                         = "{{ env "NOMAD_TASK_DIR" }}/policies"
            default_cooldown            = "${var.evaluation_interval}"
            default_evaluation_interval = "${var.evaluation_interval}"
          }

          apm "gpupool" {
            driver = "apm-nvml"
            config = {
              pools          = "{{ env "NOMAD_TASK_DIR" }}/pools.hcl"
              consul_address = "${var.consul_addr}"
              listen         = "127.0.0.1:{{ env "NOMAD_PORT_apm" }}" # /metrics and /healthz
              ${var.queues == "" ? "" : "queues = \"{{ env \"NOMAD_TASK_DIR\" }}/queues.hcl\""}
            }
          }

          strategy "gpupool" {
            driver = "strategy-predictive"
            config = {
              scale_in_after = "${var.scale_in_after}"
              # gpupool explain, advise and simulate read it. It goes with the
              # allocation; point it at a volume to keep it.
              decision_log = "{{ env "NOMAD_ALLOC_DIR" }}/data/decisions.jsonl"
            }
          }

          target "gpupool" {
            driver = "target-gpupool"
            config = {
              pools          = "{{ env "NOMAD_TASK_DIR" }}/pools.hcl"
              consul_address = "${var.consul_addr}"
              listen         = "127.0.0.1:{{ env "NOMAD_PORT_target" }}" # /metrics and /healthz
            }
          }
        EOT
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
