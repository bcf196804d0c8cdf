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
