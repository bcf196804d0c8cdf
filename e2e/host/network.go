package main

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// bringUp makes a network interface with one address. It lasts until the file
// is closed, so it goes with the power. Nothing is ever sent through it: the
// address is what counts, because Nomad gives tasks the ports of the addresses
// that an interface has, and hosts that share one machine need their own.
func bringUp(n network) (*os.File, error) {
	addr, err := netip.ParseAddr(n.Address)
	if err != nil || !addr.Is4() {
		return nil, fmt.Errorf("address is %q, not an IPv4 address", n.Address)
	}
	ifreq, err := unix.NewIfreq(n.Device)
	if err != nil {
		return nil, fmt.Errorf("device %q: %w", n.Device, err)
	}
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w (modprobe tun)", err)
	}
	ifreq.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(int(tun.Fd()), unix.TUNSETIFF, ifreq); err != nil {
		tun.Close()
		return nil, fmt.Errorf("create %s: %w", n.Device, err)
	}
	if err := setAddress(n.Device, addr); err != nil {
		tun.Close()
		return nil, fmt.Errorf("give %s the address %s: %w", n.Device, addr, err)
	}
	return tun, nil
}

func setAddress(device string, addr netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifreq, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	if err := ifreq.SetInet4Addr(addr.AsSlice()); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, ifreq); err != nil {
		return err
	}
	if err := ifreq.SetInet4Addr([]byte{255, 255, 255, 255}); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFNETMASK, ifreq); err != nil {
		return err
	}
	ifreq.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifreq)
}
