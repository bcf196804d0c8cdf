name                 = "{{.Name}}"
data_dir             = "{{.Dir}}/nomad"
plugin_dir           = "{{.PluginDir}}"
bind_addr            = "{{.Addr}}"
disable_update_check = true
leave_on_terminate   = true
advertise {
  http = "{{.Addr}}"
  rpc  = "{{.Addr}}"
  serf = "{{.Addr}}"
}
consul {
  address = "{{.Addr}}:8500"
}
client {
  enabled           = true
  max_kill_timeout  = "10m" # a task's kill_timeout is cut to it, and it is 30s where nothing is said
  node_pool         = "{{.Pool}}"
  servers           = ["{{.Control}}:4647"]
  network_interface = "{{.Device}}"
  meta {
    {{- range $key, $value := .Meta}}
    {{quote $key}} = {{quote $value}}
    {{- end}}
  }
  options {
    # There is no cloud to ask, and a proxy's CA bundle in the environment
    # makes the AWS fingerprinter stop the client.
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
    "driver.allowlist"     = "raw_exec"
  }
}
plugin "raw_exec" {
  config {
    enabled = true
  }
}
plugin "gpupool-device-fake" {
  config {
    file = "{{.GPUState}}"
  }
}
