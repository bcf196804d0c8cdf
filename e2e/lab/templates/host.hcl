name    = "{{.Name}}"
boot    = "{{.BootDelay}}"
console = "{{.Logs}}/{{.Name}}-console.log"
env = {
  {{- range $key, $value := .Env}}
  {{quote $key}} = {{quote $value}}
  {{- end}}
}
network {
  device  = "{{.Device}}"
  address = "{{.Addr}}"
}
service "consul" {
  command = ["{{.Tools.Consul}}", "agent", "-config-file", "{{.Dir}}/consul-client.hcl"]
  log     = "{{.Logs}}/{{.Name}}-consul.log"
}
service "nomad" {
  command = ["{{.Tools.Nomad}}", "agent", "-config", "{{.Dir}}/nomad-client.hcl"]
  log     = "{{.Logs}}/{{.Name}}-nomad.log"
}
