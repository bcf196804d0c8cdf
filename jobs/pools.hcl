# The hosts that gpupool may power on and off. Every key, with its unit, its
# range and its default, is in docs/reference/pools.md.

pool "h100" {
  node_pool     = "gpu"        # the Nomad node pool that the hosts join
  device        = "nvidia/gpu" # the device that jobs ask for
  gpus_per_host = 2

  max_booting  = 2     # hosts booting at once: spares the rack its in-rush
  boot_timeout = "15m" # slower ones stop counting, and another is tried

  # Hosts of several kinds, owned or rented, are told apart by class blocks, and
  # rack blocks hold power budgets: see "Classes and racks" in that page.

  # How to reach the hosts' BMCs. The password is only ever a reference.
  power "ipmi" {
    username     = "gpupool" # operator privilege is enough
    password     = "env:BMC_PASSWORD"
    cipher_suite = 17
  }

  host "gpu-1" {
    power { address = "10.20.0.11" }
  }

  host "gpu-2" {
    power { address = "10.20.0.12" }
  }

  host "gpu-3" {
    power { address = "10.20.0.13" }
  }
}
