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
server {
  enabled          = true
  bootstrap_expect = 1
  raft_multiplier  = 1

  # A host whose power is cut is down within 7 to 12 s, not 30 s. Much less
  # would take a busy machine's late heartbeat for a loss.
  min_heartbeat_ttl = "5s"
  heartbeat_grace   = "2s"
}
