name                 = "control"
data_dir             = "{{.Dir}}/nomad"
bind_addr            = "{{.Control}}"
disable_update_check = true
leave_on_terminate   = true
advertise {
  http = "{{.Control}}"
  rpc  = "{{.Control}}"
  serf = "{{.Control}}"
}
consul {
  address = "{{.Control}}:8500"
}
# It is a node too, for what runs beside the servers: the autoscaler, say.
client {
  enabled           = true
  network_interface = "lo"
  servers           = ["{{.Control}}:4647"]
  options {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
    "driver.allowlist"     = "raw_exec"
  }
}
plugin "raw_exec" {
  config {
    enabled = true
  }
}
server {
  enabled          = true
  bootstrap_expect = 1
  raft_multiplier  = 1

  # A host whose power is cut is lost within 12 to 17 s, not 30 s. Less would take
  # a machine that stands still for some seconds for a loss.
  min_heartbeat_ttl = "5s"
  heartbeat_grace   = "7s"
}
