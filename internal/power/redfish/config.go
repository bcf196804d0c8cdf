package redfish

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/https"
)

// Defaults of [Config].
const (
	DefaultPort        = 443
	DefaultTimeout     = 30 * time.Second
	DefaultMinInterval = time.Second
	DefaultAuthBackoff = 30 * time.Minute
)

// The values of Config.Auth.
const (
	authBasic   = "basic"
	authSession = "session"
)

// Config is one system behind one Redfish service, as the power block of a
// host says it.
type Config struct {
	// Address is where the service is, always over TLS: "bmc-17.mgmt",
	// "10.0.9.17", "https://10.0.9.17:8443" or "[fd00::17]:8443".
	Address string `hcl:"address"`
	// Username is the account. It needs the privilege ConfigureComponents,
	// which the role Operator has.
	Username string `hcl:"username"`
	// Password is the account's password, already resolved from its reference.
	Password power.Secret `hcl:"password"`
	// Auth is "basic", the default, or "session" for services that have no
	// basic authentication. A session lasts for one call.
	Auth string `hcl:"auth,optional"`
	// System is the Id of the host's ComputerSystem, such as "1" or
	// "System.Embedded.1". It may be left out if the service has one system.
	System string `hcl:"system,optional"`

	// CAFile holds the PEM certificates to verify the service's with, instead
	// of those of the operating system.
	CAFile string `hcl:"ca_file,optional"`
	// Fingerprint pins the service's own certificate, for BMCs that sign it
	// themselves: "sha256:" and the SHA-256 of its DER form in hex, colons
	// allowed. The certificate is then known by that, whatever its name, issuer
	// and dates.
	Fingerprint string `hcl:"fingerprint,optional"`
	// InsecureSkipVerify talks to whoever answers, and gives them the password.
	InsecureSkipVerify bool `hcl:"insecure_skip_verify,optional"`

	// Timeout is the longest that one call may take once it is its turn,
	// whatever its caller allows: 1s to 5m, default 30s.
	Timeout string `hcl:"timeout,optional"`
	// MinInterval is the least time between two calls: 0s to 1m, default 1s.
	MinInterval string `hcl:"min_interval,optional"`
	// AuthBackoff is how long no login is tried after one was refused, so that
	// a wrong password cannot lock the account out: 1m to 24h, default 30m.
	AuthBackoff string `hcl:"auth_backoff,optional"`
}

// Validate reports every mistake of the config in one error, each with its
// key and its mend. It does no I/O.
func (c *Config) Validate() error {
	_, err := c.parse()
	return err
}

// Identity names the system, so that two hosts with one controller can be
// told: "redfish:", the address in a canonical form, and the system if it is
// set. Two names of one address are two identities.
func (c Config) Identity() string {
	address, err := parseAddress(c.Address)
	if err != nil {
		address = c.Address
	}
	identity := "redfish:" + address
	if c.System != "" {
		identity += "/" + c.System
	}
	return identity
}

// settings is a Config that was found right.
type settings struct {
	address  string // host:port
	username string
	password power.Secret
	session  bool
	system   string
	trust    https.Trust
	limits   power.Limits
}

// endpoint is the URL that paths are appended to. The port that https has
// anyway is left out, which the Host header of browsers lacks too.
func (s settings) endpoint() string {
	_, port := splitAddress(s.address)
	u := url.URL{Scheme: "https", Host: s.address}
	if port == strconv.Itoa(DefaultPort) {
		u.Host = strings.TrimSuffix(s.address, ":"+port)
	}
	return u.String()
}

// splitAddress splits an address that parseAddress made.
func splitAddress(address string) (host, port string) {
	host, port, _ = net.SplitHostPort(address) // it is right by construction
	return host, port
}

func (c *Config) parse() (settings, error) {
	s := settings{
		username: c.Username, password: c.Password, session: c.Auth == authSession,
		system: c.System,
		trust:  https.Trust{CAFile: c.CAFile, Fingerprint: c.Fingerprint, Insecure: c.InsecureSkipVerify},
	}
	var errs []error
	wrong := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}

	address, err := parseAddress(c.Address)
	s.address = address
	wrong("address", err)
	switch {
	case c.Username == "":
		wrong("username", errors.New("is empty: make an account with the role Operator for gpupool"))
	case strings.ContainsAny(c.Username, ":\x00\r\n"):
		wrong("username", errors.New("contains a colon, a line break or a NUL byte, which basic authentication cannot carry"))
	}
	if c.Password == "" {
		wrong("password", errors.New("is empty: an account without a password lets anyone in; set one"))
	}
	if c.Auth != "" && c.Auth != authBasic && c.Auth != authSession {
		wrong("auth", fmt.Errorf("%q is not a way to log in: set %s or %s", c.Auth, authBasic, authSession))
	}
	if c.System != "" && !systemRule.MatchString(c.System) {
		wrong("system", fmt.Errorf(`%.60q is not the Id of a system: write what is after /redfish/v1/Systems/, such as "1" or "System.Embedded.1"`, c.System))
	}
	errs = append(errs, s.trust.Validate()...)

	duration := func(key, text string, def, least, most time.Duration) time.Duration {
		d, err := power.ParseDuration(text, def, least, most)
		wrong(key, err)
		return d
	}
	s.limits = power.Limits{
		Timeout:     duration("timeout", c.Timeout, DefaultTimeout, time.Second, 5*time.Minute),
		MinInterval: duration("min_interval", c.MinInterval, DefaultMinInterval, 0, time.Minute),
		AuthBackoff: duration("auth_backoff", c.AuthBackoff, DefaultAuthBackoff, time.Minute, 24*time.Hour),
	}
	return s, errors.Join(errs...)
}

// systemRule is what the Id of a system may be: one element of a path.
var systemRule = regexp.MustCompile(`^[\pL\pN_-][\pL\pN ._:-]{0,127}$`)

// parseAddress reads Config.Address and returns host:port in canonical form:
// lower case, without a closing dot, IP literals as netip prints them.
func parseAddress(text string) (string, error) {
	const mend = `write a name or an IP address, with a port if it is not 443, such as "10.0.9.17" or "https://[fd00::17]:8443"`
	if text == "" {
		return "", errors.New("is empty: " + mend)
	}
	if ip, err := netip.ParseAddr(text); err == nil {
		return net.JoinHostPort(ip.Unmap().String(), strconv.Itoa(DefaultPort)), nil
	}
	if scheme, _, found := strings.Cut(text, "://"); !found {
		text = "https://" + text
	} else if !strings.EqualFold(scheme, "https") {
		return "", fmt.Errorf("%.100q is not over TLS, so that anyone on the way could read the password: write https", text)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "":
		return "", fmt.Errorf("%.100q is not an address: %s", text, mend)
	case u.User != nil:
		return "", errors.New("contains a user name: set username and password instead")
	case u.RawQuery != "" || u.Fragment != "" || (strings.Trim(u.Path, "/") != "" && strings.Trim(u.Path, "/") != "redfish/v1"):
		return "", fmt.Errorf("%.100q has a path: write only the name and the port; the Id of the system is set with system", text)
	}
	port := DefaultPort
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return "", fmt.Errorf("%.100q has no port from 1 to 65535 after the colon", text)
		}
		port = int(n)
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	} else if host == "" || strings.ContainsFunc(host, notInHostname) {
		return "", fmt.Errorf("%.100q is not an address: %s", text, mend)
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

func notInHostname(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '.', r == '_':
		return false
	}
	return true
}
