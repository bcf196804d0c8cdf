node_name            = "control"
bind_addr            = "{{.Control}}"
client_addr          = "{{.Control}}"
disable_update_check = true
ports {
  dns      = -1
  grpc     = -1
  grpc_tls = -1
  serf_wan = -1
}
# Gossip takes a host for lost after some 15 s, not the 5 s of Consul's default, or the
# half second of -dev: a busy machine's late answer is no loss.
gossip_lan {
  probe_interval = "2s"
  probe_timeout  = "1500ms"
  suspicion_mult = 6
}
