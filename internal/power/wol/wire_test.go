package wol_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/powertest"
	"github.com/gpupool/gpupool/internal/power/wol"
)

const inNamespace = "GPUPOOL_WOL_TEST_NAMESPACE"

// TestWire sends magic packets over an Ethernet of its own, a pair of virtual
// cards in a network namespace, and looks at the frames that arrive at the
// other end. It runs itself once more inside of the namespace.
func TestWire(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		runInNamespace(t)
		return
	}
	ip(t, "link", "add", "v0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "v1", "address", "02:00:00:00:00:02")
	ip(t, "link", "add", "v2", "type", "veth", "peer", "name", "v3")
	for _, card := range []string{"v0", "v1", "v2", "v3"} {
		ip(t, "link", "set", card, "up")
	}
	ip(t, "address", "add", "10.9.9.17/28", "dev", "v0")

	t.Run("interface", func(t *testing.T) {
		frames := capture(t, "v1")
		wake(t, func(c *wol.Config) { c.Interface, c.Broadcast = "v0", "" }, nil)
		wantFrames(t, frames, net.IPv4(10, 9, 9, 31), 9, magic(mac))
	})
	t.Run("broadcast", func(t *testing.T) {
		frames := capture(t, "v1")
		wake(t, func(c *wol.Config) { c.Broadcast = "10.9.9.31:7" }, nil)
		wantFrames(t, frames, net.IPv4(10, 9, 9, 31), 7, magic(mac))
	})
	t.Run("password", func(t *testing.T) {
		frames := capture(t, "v1")
		wake(t, func(c *wol.Config) { c.Interface, c.Broadcast, c.SecureOnPassword = "v0", "", "0a:0b:0c:0d:0e:0f" }, nil)
		wantFrames(t, frames, net.IPv4(10, 9, 9, 31), 9, append(magic(mac), 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f))
	})
	t.Run("interface without a network", func(t *testing.T) {
		wake(t, func(c *wol.Config) { c.Interface, c.Broadcast = "v2", "" }, power.ErrUnreachable)
	})
	t.Run("default without a route", func(t *testing.T) {
		wake(t, func(c *wol.Config) { c.Broadcast = "" }, power.ErrUnreachable)
	})
	t.Run("default", func(t *testing.T) {
		ip(t, "route", "add", "default", "dev", "v0")
		frames := capture(t, "v1")
		wake(t, func(c *wol.Config) { c.Broadcast = "" }, nil)
		wantFrames(t, frames, net.IPv4bcast, 9, magic(mac))
	})
}

// runInNamespace runs TestWire in a network namespace that ends with it.
func runInNamespace(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestWire$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 { // then a user namespace gives the right to make one
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in a network namespace (which needs root, or user namespaces): %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: TestWire/default") {
		t.Fatalf("it did not run in the namespace:\n%s", out)
	}
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("ip")
	if err != nil {
		t.Fatal("ip is not on PATH, and this test is about a wire: apt-get install iproute2, or run `make tools`")
	}
	if out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// wake powers a host on whose state program says off.
func wake(t *testing.T, change func(*wol.Config), want error) {
	t.Helper()
	c := wol.Config{MAC: mac, Host: "gpu-07", State: []string{"/bin/echo", "off"}, OffSoft: []string{"/bin/true"}}
	change(&c)
	d, err := wol.New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	if err := d.On(powertest.Within(t, plenty)); !errors.Is(err, want) {
		t.Fatalf("On: %v, want %v", err, want)
	}
}

// capture returns a packet socket on a card, in promiscuous reach of every
// frame that arrives there.
func capture(t *testing.T, card string) int {
	t.Helper()
	device, err := net.InterfaceByName(card)
	if err != nil {
		t.Fatal(err)
	}
	all := int(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatalf("packet socket: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: device.Index}); err != nil {
		t.Fatalf("bind to %s: %v", card, err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 500_000}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// wantFrames reads three copies of a magic packet, as Ethernet broadcasts, and
// no fourth.
func wantFrames(t *testing.T, fd int, to net.IP, port int, payload []byte) {
	t.Helper()
	const ethernet, udp = 14, 8
	buf := make([]byte, 4096)
	found := 0
	for end := time.Now().Add(plenty); time.Now().Before(end); {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			break // half a second of silence
		}
		if err != nil {
			t.Fatal(err)
		}
		f := buf[:n]
		if n < ethernet+20+udp || f[12] != 0x08 || f[13] != 0x00 || f[ethernet+9] != unix.IPPROTO_UDP {
			continue // ARP, and what IPv6 says by itself
		}
		header := int(f[ethernet]&0x0f) * 4
		datagram := f[ethernet+header:]
		switch {
		case !bytes.Equal(f[:6], bytes.Repeat([]byte{0xff}, 6)):
			t.Errorf("a frame went to %x, want the Ethernet broadcast", f[:6])
		case !net.IP(f[ethernet+16 : ethernet+20]).Equal(to):
			t.Errorf("a packet went to %s, want %s", net.IP(f[ethernet+16:ethernet+20]), to)
		case int(datagram[2])<<8|int(datagram[3]) != port:
			t.Errorf("a packet went to port %d, want %d", int(datagram[2])<<8|int(datagram[3]), port)
		case !bytes.Equal(datagram[udp:], payload):
			t.Errorf("a packet holds %x, want %x", datagram[udp:], payload)
		default:
			found++
		}
	}
	if found != 3 {
		t.Errorf("%d magic packets arrived, want 3", found)
	}
}
