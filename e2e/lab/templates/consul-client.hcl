node_name            = "{{.Name}}"
data_dir             = "{{.Dir}}/consul"
bind_addr            = "{{.Addr}}"
client_addr          = "{{.Addr}}"
retry_join           = ["{{.Control}}"]
retry_interval       = "1s"
disable_update_check = true
ports {
  dns      = -1
  grpc     = -1
  grpc_tls = -1
}
# Gossip takes a host for lost after some 15 s, not the 5 s of Consul's default, or the
# half second of -dev: a busy machine's late answer is no loss.
gossip_lan {
  probe_interval = "2s"
  probe_timeout  = "1500ms"
  suspicion_mult = 6
}
