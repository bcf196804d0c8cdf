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
