package ipmi

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/gpupool/gpupool/internal/power"
)

// Limits and defaults of [Config].
const (
	DefaultPort        = 623 // RMCP primary port: IPMI 2.0 section 13.1.2
	DefaultCipherSuite = 17
	DefaultTimeout     = 15 * time.Second
	DefaultMinInterval = time.Second
	DefaultAuthBackoff = 30 * time.Minute

	// maxTimeout keeps each session shorter than the 30 s after which go-ipmi
	// starts to send keep-alives beside our own commands.
	maxTimeout = 25 * time.Second

	maxUsername = 16 // bytes: IPMI 2.0 section 22.28
	maxPassword = 20 // bytes: IPMI 2.0 section 22.30
)

// Config is one BMC, as the power block of a host says it.
type Config struct {
	// Address is the BMC's name or IP literal, with a port if it is not
	// 623: "bmc-17.mgmt", "10.0.9.17", "10.0.9.17:6230", "fd00::17" or
	// "[fd00::17]:6230".
	Address string `hcl:"address"`
	// Username is the BMC account, 1 to 16 bytes. OPERATOR privilege is
	// enough.
	Username string `hcl:"username"`
	// Password is the account's password, 1 to 20 bytes, already resolved
	// from its reference. Some BMCs keep only 16 bytes.
	Password power.Secret `hcl:"password"`
	// CipherSuite is the one RMCP+ suite to use: 17 (HMAC-SHA256, AES), the
	// default, or 3 (HMAC-SHA1, AES) for older BMCs. There is no fallback from
	// one to the other: each one tried with a wrong password is one more
	// failed login.
	CipherSuite *int `hcl:"cipher_suite,optional"`
	// Privilege is the session's level: "operator", the default, or
	// "administrator" for BMCs that want it for chassis control.
	Privilege string `hcl:"privilege,optional"`
	// Timeout is the longest that one call may take once it is its turn,
	// whatever its caller allows: 1s to 25s, default 15s.
	Timeout string `hcl:"timeout,optional"`
	// MinInterval is the least time between two sessions with this BMC: 0s to
	// 10s, default 1s. BMCs that are asked faster have been seen to hang.
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

// Identity names the BMC, so that two hosts with one BMC can be told:
// "ipmi:" and the address in a canonical form. Two names of one address are
// two identities.
func (c Config) Identity() string {
	host, port, err := splitAddress(c.Address)
	if err != nil {
		return "ipmi:" + c.Address
	}
	return "ipmi:" + net.JoinHostPort(host, strconv.Itoa(port))
}

// settings is a Config that was found right.
type settings struct {
	address   string // host:port for a dialer
	username  string
	password  power.Secret
	suite     types.CipherSuiteID
	privilege types.PrivilegeLevel
	limits    power.Limits
}

func (c *Config) parse() (settings, error) {
	var s settings
	var errs []error
	wrong := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %w", key, fmt.Errorf(format, args...)))
	}

	host, port, err := splitAddress(c.Address)
	if err != nil {
		wrong("address", "%w", err)
	}
	s.address = net.JoinHostPort(host, strconv.Itoa(port))

	switch n := len(c.Username); {
	case n == 0:
		wrong("username", "is empty: anonymous BMC logins are not used; make an account with OPERATOR privilege")
	case n > maxUsername:
		wrong("username", "is %d bytes long, IPMI allows %d", n, maxUsername)
	case strings.ContainsRune(c.Username, 0):
		wrong("username", "contains a NUL byte")
	}
	s.username = c.Username

	switch n := len(c.Password); {
	case n == 0:
		wrong("password", "is empty: an account without a password lets anyone in; set one")
	case n > maxPassword:
		wrong("password", "is %d bytes long, IPMI 2.0 allows %d", n, maxPassword)
	case strings.ContainsRune(c.Password.Reveal(), 0):
		wrong("password", "contains a NUL byte, where BMCs end a password")
	}
	s.password = c.Password

	suite := DefaultCipherSuite
	if c.CipherSuite != nil {
		suite = *c.CipherSuite
	}
	switch suite {
	case 3, 17:
		s.suite = types.CipherSuiteID(suite)
	case 0:
		wrong("cipher_suite", "0 is refused: it does not authenticate, so anyone on the network could power the host; disable it in the BMC and set 17 or 3")
	default:
		wrong("cipher_suite", "%d is not supported: set 17, or 3 for BMCs without it", suite)
	}

	switch c.Privilege {
	case "", "operator":
		s.privilege = types.PrivilegeLevelOperator
	case "administrator":
		s.privilege = types.PrivilegeLevelAdministrator
	default:
		wrong("privilege", "%q is not a level: set operator or administrator", c.Privilege)
	}

	duration := func(key, text string, def, least, most time.Duration) time.Duration {
		d, err := power.ParseDuration(text, def, least, most)
		if err != nil {
			wrong(key, "%w", err)
		}
		return d
	}
	s.limits = power.Limits{
		Timeout:     duration("timeout", c.Timeout, DefaultTimeout, time.Second, maxTimeout),
		MinInterval: duration("min_interval", c.MinInterval, DefaultMinInterval, 0, 10*time.Second),
		AuthBackoff: duration("auth_backoff", c.AuthBackoff, DefaultAuthBackoff, time.Minute, 24*time.Hour),
	}
	return s, errors.Join(errs...)
}

// splitAddress reads Config.Address. The host comes back in canonical form:
// lower case, without a closing dot, IP literals as netip prints them.
func splitAddress(address string) (host string, port int, err error) {
	const mend = `write a name or an IP address, with ":port" if it is not 623, such as "10.0.9.17" or "[fd00::17]:6230"`
	if address == "" {
		return "", 0, errors.New("is empty: " + mend)
	}
	if ip, err := netip.ParseAddr(address); err == nil {
		return ip.Unmap().String(), DefaultPort, nil
	}
	host, port = address, DefaultPort
	if strings.Contains(address, ":") {
		h, p, err := net.SplitHostPort(address)
		if err != nil {
			return "", 0, fmt.Errorf("%q is not an address: %s", address, mend)
		}
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return "", 0, fmt.Errorf("%q has no port from 1 to 65535 after the colon", address)
		}
		host, port = h, int(n)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().String(), port, nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || strings.ContainsFunc(host, notInHostname) {
		return "", 0, fmt.Errorf("%q is not an address: %s", address, mend)
	}
	return host, port, nil
}

func notInHostname(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '.', r == '_':
		return false
	}
	return true
}
