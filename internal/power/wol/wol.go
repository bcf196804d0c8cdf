// Package wol powers hosts on with magic packets (Wake-on-LAN), for machines
// that have no power controller.
//
// A magic packet is all that there is: nobody answers it, it cannot read the
// power, and it cannot power a host off. So a host of this driver also has the
// programs of package command, one that reads the power and at least one that
// powers the host off; without them it is refused. What the state program
// calls proof is the operator's choice, and the rest of gpupool believes it: a
// host that does not answer a ping may be off, or have lost its network.
//
// # What is sent
//
// Three copies of the packet, a tenth of a second apart, because it is a
// datagram on a network whose switch may just be learning: together they are
// one command. They are sent only when the state program says that the host is
// off, and leave a host that is on alone anyway. That they were sent is all
// that On's success means.
package wol

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/command"
)

const (
	copies = 3
	apart  = 100 * time.Millisecond
)

// Driver is one host that listens for its magic packet.
type Driver struct {
	*command.Driver
	identity string
	device   string // the interface that packets leave through, if it was said
	to       string // where they go otherwise
}

// New returns the driver of one host. It sends and runs nothing, but looks
// whether the programs are there.
func New(c Config) (*Driver, error) {
	w, err := c.parse()
	programs := c.programs(w)
	if err = errors.Join(err, programs.Validate()); err != nil {
		return nil, err
	}
	d, err := command.New(programs)
	if err != nil {
		return nil, err
	}
	return &Driver{Driver: d, identity: c.Identity(), device: w.device, to: w.to.String()}, nil
}

// Identity names the network card: see [Config.Identity].
func (d *Driver) Identity() string { return d.identity }

// String is the identity, so that printing a driver prints no credential.
func (d *Driver) String() string { return d.identity }

// GoString is the identity too.
func (d *Driver) GoString() string { return d.identity }

// waker sends magic packets to one network card.
type waker struct {
	packet []byte
	to     netip.AddrPort // where to, unless device is set
	device string         // the interface whose broadcast address it goes to
}

// magicPacket is six bytes of ones, sixteen times the address, and the password
// if there is one: 102 or 108 bytes (AMD, Magic Packet Technology, publication
// 20213).
func magicPacket(mac net.HardwareAddr, password []byte) []byte {
	p := make([]byte, 0, 6+16*6+len(password))
	for range 6 {
		p = append(p, 0xff)
	}
	for range 16 {
		p = append(p, mac...)
	}
	return append(p, password...)
}

// wake sends the packet. It fails only if no copy left this machine.
func (w *waker) wake(ctx context.Context) error {
	to := w.to
	if w.device != "" {
		a, err := broadcastOf(w.device)
		if err != nil {
			return fmt.Errorf("%w: nothing was sent: interface %s: %w", power.ErrUnreachable, w.device, err)
		}
		to = netip.AddrPortFrom(a, DefaultPort)
	}
	conn, err := net.ListenUDP("udp4", nil) // net allows it to broadcast
	if err != nil {
		return fmt.Errorf("%w: nothing was sent: %w", power.ErrUnreachable, err)
	}
	defer func() { _ = conn.Close() }()

	sent := 0
	for i := range copies {
		if i > 0 && !pause(ctx) {
			break
		}
		if _, e := conn.WriteToUDPAddrPort(w.packet, to); e != nil {
			err = e
			continue
		}
		sent++
	}
	if sent == 0 {
		return fmt.Errorf("%w: no magic packet could be sent to %s: %w", power.ErrUnreachable, to, err)
	}
	return nil
}

// broadcastOf is the broadcast address of an interface's first IPv4 network.
func broadcastOf(name string) (netip.Addr, error) {
	device, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Addr{}, err
	}
	addrs, err := device.Addrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Bits() < 31 {
			return lastOf(p), nil
		}
	}
	return netip.Addr{}, errors.New("it has no IPv4 network with a broadcast address; give it one, or set broadcast")
}

// lastOf is the last address of an IPv4 network.
func lastOf(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

// pause waits between two copies, and says whether the call still goes on.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(apart)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

var _ power.Driver = (*Driver)(nil)
