// Package reach is how plugins and commands are told to reach Consul and the
// agents: the plugins' settings are declared here, once, for all that have them.
package reach

import (
	"log/slog"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/mtls"
	"github.com/gpupool/gpupool/internal/pluginconfig"
)

// Consul declares the settings of a plugin that say which Consul is meant.
func Consul(r pluginconfig.Reader) consul.Config {
	return consul.Config{
		Address:    r.String("consul_address", "", "Consul's address. Empty means CONSUL_HTTP_ADDR, or 127.0.0.1:8500."),
		Datacenter: r.String("consul_datacenter", "", "Consul datacenter. Empty means that of the Consul agent."),
		Prefix:     r.String("consul_prefix", consul.DefaultPrefix, "Where in Consul's KV store gpupool's records are."),
		CAFile:     r.String("consul_ca_file", "", "PEM file of the authorities that Consul's certificate is checked against."),
		CertFile:   r.String("consul_cert_file", "", "PEM file of the client certificate for Consul."),
		KeyFile:    r.String("consul_key_file", "", "PEM file of the key of that certificate."),
		Token:      r.Credential("consul_token", "ACL token for Consul. Without it CONSUL_HTTP_TOKEN is used."),
	}
}

// Agents is how the agents on the hosts are reached.
type Agents struct {
	Token string // the bearer token that they ask for; empty for none
	TLS   bool   // they serve TLS
	Files mtls.Files
}

// DeclareAgents declares the settings of a plugin that say so.
func DeclareAgents(r pluginconfig.Reader) Agents {
	a := Agents{
		TLS: r.Bool("agent_tls", false, "The agents serve TLS. Their certificates must be for the name `gpupool-agent`."),
		Files: mtls.Files{
			CA:   r.String("agent_ca_file", "", "With `agent_tls`: PEM file of the authorities that agents' certificates are checked against. Empty: those of the system."),
			Cert: r.String("agent_cert_file", "", "With it: PEM file of the certificate that is shown to agents."),
			Key:  r.String("agent_key_file", "", "With it: PEM file of the key of that certificate."),
		},
		Token: r.Credential("agent_token", "Bearer token that the agents on the hosts ask for, if they do."),
	}
	if !a.TLS && a.Files.Given() {
		r.Reject("agent_tls", "is not set, and certificate files for it are given", "set it to true")
	}
	return a
}

// Gather is how to ask the agents. It keeps connections, so make one and use it
// for all gatherings. The log tells of certificates that were replaced by what
// cannot be used.
func (a Agents) Gather(log *slog.Logger) (fleet.Config, error) {
	c := fleet.Config{Token: a.Token}
	if !a.TLS {
		return c, nil
	}
	var err error
	c.TLS, err = fleet.NewTLS(a.Files, log)
	return c, err
}
