package wol

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/command"
)

// DefaultPort is the UDP port of a magic packet: discard, which nothing answers.
const DefaultPort = 9

// Config is one host, as its power block says it: where its magic packet goes,
// and the programs of package command that do what a packet cannot.
type Config struct {
	// MAC is the address of the network card that listens, such as
	// "0c:42:a1:00:07:01".
	MAC string `hcl:"mac"`
	// SecureOnPassword is the password that the card wants in the packet, six
	// bytes written as a MAC address is, already resolved from its reference.
	// It travels in plain text.
	SecureOnPassword power.Secret `hcl:"secureon_password,optional"`
	// Broadcast is the IPv4 address that the packet is sent to, with a port if
	// it is not 9: the broadcast address of the host's network, default
	// 255.255.255.255, which leaves by the default route.
	Broadcast string `hcl:"broadcast,optional"`
	// Interface sends it to the IPv4 broadcast address of a network interface
	// instead, such as "eth1".
	Interface string `hcl:"interface,optional"`

	// What follows is as in [command.Config].

	Host        string       `hcl:"host,optional"`
	Address     string       `hcl:"address,optional"`
	Username    string       `hcl:"username,optional"`
	Password    power.Secret `hcl:"password,optional"`
	State       []string     `hcl:"state"`
	OffSoft     []string     `hcl:"off_soft,optional"`
	OffHard     []string     `hcl:"off_hard,optional"`
	Timeout     string       `hcl:"timeout,optional"`
	MinInterval string       `hcl:"min_interval,optional"`
	AuthBackoff string       `hcl:"auth_backoff,optional"`
}

// Validate reports every mistake of the config in one error, each with its
// key and its mend. It does no I/O: whether the programs and the interface are
// there is not its business.
func (c *Config) Validate() error {
	_, err := c.parse()
	programs := c.programs(nil)
	return errors.Join(err, programs.Validate())
}

// Identity names the network card, so that two hosts with one can be told.
func (c Config) Identity() string {
	if mac, err := parseMAC(c.MAC); err == nil {
		return "wol:" + mac.String()
	}
	return "wol:" + c.MAC
}

// programs is the config of the driver that runs the programs, and wakes the
// host as it is told to.
func (c *Config) programs(w *waker) command.Config {
	return command.Config{
		Host: c.Host, Address: c.Address, Username: c.Username, Password: c.Password,
		State: c.State, OffSoft: c.OffSoft, OffHard: c.OffHard,
		Timeout: c.Timeout, MinInterval: c.MinInterval, AuthBackoff: c.AuthBackoff,
		Start: w.wake, Driver: "wol",
	}
}

func (c *Config) parse() (*waker, error) {
	w := &waker{device: c.Interface}
	var errs []error
	wrong := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	mac, err := parseMAC(c.MAC)
	wrong("mac", err)
	password, err := parseSecureOn(c.SecureOnPassword)
	wrong("secureon_password", err)
	w.packet = magicPacket(mac, password)
	w.to, err = parseBroadcast(c.Broadcast)
	wrong("broadcast", err)
	if c.Interface != "" && c.Broadcast != "" {
		wrong("interface", errors.New("is set, and so is broadcast: keep the interface for a network that this machine is in, broadcast for one behind a router"))
	}
	if strings.ContainsAny(c.Interface, "/ \t\n\x00") || len(c.Interface) > 15 { // IFNAMSIZ
		wrong("interface", fmt.Errorf(`%.40q is not the name of a network interface: write it as "ip link" does, such as "eth1"`, c.Interface))
	}
	return w, errors.Join(errs...)
}

func parseMAC(text string) (net.HardwareAddr, error) {
	const mend = `write the address of the host's network card as "ip link" prints it there, such as "0c:42:a1:00:07:01"`
	mac, err := net.ParseMAC(text)
	switch {
	case text == "":
		return nil, errors.New("is empty: " + mend)
	case err != nil || len(mac) != 6:
		return nil, fmt.Errorf("%.60q is not a MAC address of six bytes: %s", text, mend)
	case mac[0]&1 != 0 || bytes.Equal(mac, make([]byte, 6)):
		return nil, fmt.Errorf("%s is no card's address: %s", mac, mend)
	}
	return mac, nil
}

// parseSecureOn reads a password without ever repeating it.
func parseSecureOn(s power.Secret) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	password, err := net.ParseMAC(s.Reveal())
	if err != nil || len(password) != 6 {
		return nil, errors.New(`is not six bytes written as "00:11:22:33:44:55", as ethtool shows a card's SecureOn password`)
	}
	return password, nil
}

func parseBroadcast(text string) (netip.AddrPort, error) {
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), DefaultPort)
	if text == "" {
		return to, nil
	}
	if a, err := netip.ParseAddr(text); err == nil {
		to = netip.AddrPortFrom(a, DefaultPort)
	} else if to, err = netip.ParseAddrPort(text); err != nil {
		return to, fmt.Errorf(`%.60q is not an IPv4 address: write the broadcast address of the host's network, such as "10.0.9.255" or "10.0.9.255:7"`, text)
	}
	if !to.Addr().Is4() || to.Addr().IsUnspecified() || to.Port() == 0 {
		return to, fmt.Errorf(`%s is not the IPv4 address and port of a broadcast: write one such as "10.0.9.255"`, to)
	}
	return to, nil
}
