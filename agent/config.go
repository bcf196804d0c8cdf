package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gpupool/gpupool/agent/nvml"
	"github.com/gpupool/gpupool/internal/mtls"
)

// config is how the agent runs. Every flag can be given as an environment
// variable too: -token-file as GPUPOOL_AGENT_TOKEN_FILE.
type config struct {
	Listen    string        // host:port to serve on
	Advertise string        // host:port for Consul; empty is Listen
	Node      string        // name of the Nomad node
	Consul    string        // address of the local Consul agent; empty is Consul's own environment; off is none
	TTL       time.Duration // of the check in Consul
	Period    time.Duration // between samples
	NVML      string        // path or name of the library
	TokenFile string        // file with the bearer token
	TLS       mtls.Files    // to serve TLS with; none for plain HTTP
	Aliases   bool          // whether metrics go by dcgm-exporter's names too
	instances instancesConfig
	notices   noticesConfig
	off       offConfig
	LogLevel  slog.Level
	Version   bool // print it and end

	token string
	host  string // that Consul is told; empty is the Consul agent's
	port  int    // that Consul is told; 0 is the one that is listened on
}

const envPrefix = "GPUPOOL_AGENT_"

// flags declares the flags of a configuration, with their defaults.
func flags(c *config) *flag.FlagSet {
	hostname, _ := os.Hostname() // empty is caught with the rest
	f := flag.NewFlagSet("agent", flag.ContinueOnError)
	f.StringVar(&c.Listen, "listen", "127.0.0.1:9109", "`host:port` to serve on")
	f.StringVar(&c.Advertise, "advertise", "", "`host:port` that readers find in Consul; the default is where the agent listens")
	f.StringVar(&c.Node, "node", hostname, "`name` of this host's Nomad node; the default is the host's name, as it is Nomad's")
	f.StringVar(&c.Consul, "consul", "", "`address` of the Consul agent on this host, or off; the default is CONSUL_HTTP_ADDR, or 127.0.0.1:8500")
	f.DurationVar(&c.TTL, "ttl", 15*time.Second, "`time` without a heart-beat after which Consul calls the agent dead, 3s to 5m")
	f.DurationVar(&c.Period, "period", time.Second, "`time` between samples of a GPU, 100ms to 10s")
	f.StringVar(&c.NVML, "nvml", nvml.DefaultPath, "`path` of NVIDIA's management library, or its name for the dynamic linker")
	f.StringVar(&c.TokenFile, "token-file", "", "`file` with the bearer token that requests must have; the default is "+envPrefix+"TOKEN, or none")
	f.StringVar(&c.TLS.Cert, "tls-cert", "", "`file` with the certificate to serve TLS with, in PEM form; the default is to serve plain HTTP")
	f.StringVar(&c.TLS.Key, "tls-key", "", "`file` with the certificate's private key")
	f.StringVar(&c.TLS.CA, "tls-client-ca", "", "`file` with the CA of the certificates that clients must have; the default is that they need none")
	f.BoolVar(&c.Aliases, "dcgm-aliases", false, "serve the metrics under the names of NVIDIA's dcgm-exporter too")
	c.instances.flags(f)
	c.notices.flags(f)
	c.off.flags(f)
	f.TextVar(&c.LogLevel, "log-level", slog.LevelInfo, "least `level` that is logged: debug, info, warn or error")
	f.BoolVar(&c.Version, "version", false, "print the version and end")
	f.Usage = func() {
		_, _ = fmt.Fprintf(f.Output(), "Usage: agent [flags]\n\nThe gpupool agent of one GPU host. It samples the GPUs, serves what it sees over HTTP\nand registers in Consul. Each flag is also an environment variable, -ttl is %sTTL.\n\n", envPrefix)
		f.PrintDefaults()
	}
	return f
}

// parse reads flags and environment; flags win. All mistakes are in the
// error, and flag.ErrHelp if help was asked for and printed to out.
func parse(args []string, env func(string) string, out io.Writer) (config, error) {
	var c config
	var errs []error
	f := flags(&c)
	f.SetOutput(out)
	f.VisitAll(func(fl *flag.Flag) {
		name := envName(fl.Name)
		if value := env(name); value != "" {
			if err := f.Set(fl.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("%s=%q: %w", name, value, err))
				_ = f.Set(fl.Name, fl.DefValue) // one mistake, one message
			}
		}
	})
	if err := f.Parse(args); err != nil {
		return config{}, err // the flag set printed it
	}
	if f.NArg() > 0 {
		errs = append(errs, fmt.Errorf("argument %q: the agent takes flags only", f.Arg(0)))
	}
	c.token = env(envPrefix + "TOKEN")
	c.instances.environment(env)
	errs = append(errs, c.validate())
	return c, errors.Join(errs...)
}

func envName(flagName string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// nodeName is what can stand in a Consul ID and in a URL's path.
var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// validate checks the configuration, reads the token's file and fills in
// what follows from the rest.
func (c *config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	listenHost, listenPort, err := hostPort(c.Listen)
	if err != nil {
		bad("-listen %q: %w", c.Listen, err)
	}
	c.host, c.port = listenHost, listenPort
	if c.Advertise != "" {
		if c.host, c.port, err = hostPort(c.Advertise); err != nil {
			bad("-advertise %q: %w", c.Advertise, err)
		} else if ip := net.ParseIP(c.host); c.host == "" || ip != nil && ip.IsUnspecified() {
			bad("-advertise %q: give an address that readers can reach", c.Advertise)
		}
	} else if ip := net.ParseIP(c.host); ip != nil && ip.IsUnspecified() {
		c.host = ""
	}
	if !nodeName.MatchString(c.Node) {
		bad("-node %q: want the name of the Nomad node, up to 128 letters, digits, dots, dashes and underscores; in a job, ${node.unique.name}", c.Node)
	}
	if c.TTL < 3*time.Second || c.TTL > 5*time.Minute {
		bad("-ttl %s: want 3s to 5m", c.TTL)
	}
	if c.Period < 100*time.Millisecond || c.Period > 10*time.Second {
		bad("-period %s: want 100ms to 10s", c.Period)
	}
	if c.NVML == "" {
		bad("-nvml is empty: leave it out for %s", nvml.DefaultPath)
	}
	if c.TokenFile != "" {
		switch {
		case c.token != "":
			bad("-token-file %q and %sTOKEN: give one of them", c.TokenFile, envPrefix)
		default:
			if c.token, err = readToken(c.TokenFile); err != nil {
				bad("-token-file: %w", err)
			}
		}
	}
	errs = append(errs, c.instances.validate(c.token != "" || c.TLS.CA != ""), c.notices.validate(c.instances.Nomad), c.off.validate())
	if err := checkToken(c.token); err != nil && c.TokenFile == "" {
		bad("%sTOKEN: %w", envPrefix, err)
	}
	errs = append(errs, c.checkTLS())
	return errors.Join(errs...)
}

// checkTLS checks the files to serve TLS with.
func (c *config) checkTLS() error {
	if !c.TLS.Given() {
		return nil
	}
	if c.TLS.Cert == "" || c.TLS.Key == "" {
		return errors.New("-tls-cert and -tls-key go together, and -tls-client-ca with both")
	}
	if _, err := mtls.Server(c.TLS, slog.New(slog.DiscardHandler)); err != nil {
		return fmt.Errorf("-tls-cert, -tls-key, -tls-client-ca: %w", err)
	}
	return nil
}

// bearer is what requests must bear, nil for nothing.
func (c *config) bearer(log *slog.Logger) func() string {
	switch {
	case c.TokenFile != "":
		return (&tokenFile{path: c.TokenFile, token: c.token, log: log}).current
	case c.token != "":
		return func() string { return c.token }
	}
	return nil
}

// hostPort splits an address with a numeric port.
func hostPort(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, errors.New("want host:port")
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port %q: want a number up to 65535", text)
	}
	return host, int(n), nil
}
