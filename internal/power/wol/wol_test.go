package wol_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/powertest"
	"github.com/gpupool/gpupool/internal/power/wol"
)

const (
	rightPassword = "command-Pass1" // what testdata/controller.sh of package command wants
	wrongPassword = "not-the-password"
	mac           = "0c:42:a1:00:07:01"
	plenty        = 20 * time.Second
)

func TestContract(t *testing.T) {
	const noNetwork = "a program has no network of its own: what it cannot reach, it reports"
	const noAnswer = "nobody answers a magic packet, so none can be lost, late or a refusal"
	powertest.Run(t, powertest.Rig{
		Start:       func(t *testing.T) powertest.Controller { return newHost(t).controller() },
		Secret:      rightPassword,
		WrongSecret: wrongPassword,
		Frames:      []string{"internal/power/wol.", "internal/power/command.", "os/exec."},
		Lacks: map[string]string{
			"black hole":  noNetwork,
			"half-open":   noNetwork,
			"answer lost": noAnswer,
			"answer late": noAnswer,
			"no capacity": "the host is there",
			"refused":     noAnswer,
		},
	})
}

// host is a machine that wakes on its magic packet. Its power is read and
// switched off through the script that package command is tested with, and the
// packets reach it in a datagram on loopback; TestWire sends them on a wire.
type host struct {
	t       *testing.T
	dir     string
	nic     *net.UDPConn
	want    []byte
	packets atomic.Int32 // that were its own
	strange atomic.Int32 // that were not
}

func newHost(t *testing.T, secureOn ...byte) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir(), want: append(magic(mac), secureOn...)}
	script, err := os.ReadFile("../command/testdata/controller.sh")
	if err != nil {
		t.Fatal(err)
	}
	h.write("controller.sh", string(script))
	for _, name := range []string{"executed", "logins", "argv"} {
		h.write(name, "")
	}
	h.write("power", "off\n")
	h.fault("")
	if h.nic, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		h.listen()
	}()
	t.Cleanup(func() {
		_ = h.nic.Close()
		<-listening
	})
	return h
}

// magic is the magic packet for a MAC address, written out.
func magic(mac string) []byte {
	hex := strings.ReplaceAll(mac, ":", "")
	var p []byte
	_, _ = fmt.Sscanf("ffffffffffff"+strings.Repeat(hex, 16), "%x", &p)
	return p
}

// listen wakes the host on its packet. One that is on is left alone.
func (h *host) listen() {
	buf := make([]byte, 2048)
	for {
		n, _, err := h.nic.ReadFromUDP(buf)
		if err != nil {
			return
		}
		if !bytes.Equal(buf[:n], h.want) {
			h.strange.Add(1)
			continue
		}
		h.packets.Add(1)
		if h.power() == pool.PowerOff {
			h.write("power.new", "on\n")
			_ = os.Rename(h.path("power.new"), h.path("power"))
			h.write("executed", h.read("executed")+"on\n")
		}
	}
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) write(name, text string) {
	if err := os.WriteFile(h.path(name), []byte(text), 0o755); err != nil {
		h.t.Error(err)
	}
}

func (h *host) read(name string) string {
	text, err := os.ReadFile(h.path(name))
	if err != nil {
		h.t.Error(err)
	}
	return string(text)
}

func (h *host) power() pool.Power {
	if strings.TrimSpace(h.read("power")) == "on" {
		return pool.PowerOn
	}
	return pool.PowerOff
}

// fault sets shell text to run before each change.
func (h *host) fault(before string) {
	h.write("fault", "before_change() {\n:\n"+before+"\n}\nafter_change() { :; }\n")
}

func (h *host) config() wol.Config {
	run := func(action string) []string { return []string{h.path("controller.sh"), action, h.dir} }
	return wol.Config{
		MAC: mac, Broadcast: h.nic.LocalAddr().String(),
		Host: "gpu-07", Password: rightPassword,
		State: run("state"), OffSoft: run("off_soft"), OffHard: run("off_hard"),
	}
}

func (h *host) controller() powertest.Controller {
	open := func(password power.Secret) func() (power.Driver, error) {
		return func() (power.Driver, error) {
			c := h.config()
			c.Password = password
			return wol.New(c)
		}
	}
	lines := func(name string) func() int {
		return func() int { return strings.Count(h.read(name), "\n") }
	}
	return powertest.Controller{
		Open:       open(rightPassword),
		OpenWrong:  open(wrongPassword),
		Power:      h.power,
		SetPower:   func(p pool.Power) { h.write("power", p.String()+"\n") },
		Executions: lines("executed"),
		Logins:     lines("logins"),
		Hang:       func() { h.write("fault", "sleep 1000\n") },
		NoSoftOff:  func() { h.fault(`[ "$1" = off_soft ] && exit 3`) },
		Stop: func() {
			if err := os.Remove(h.path("controller.sh")); err != nil {
				h.t.Error(err)
			}
		},
		Argv: func() []string { return strings.Split(strings.TrimSpace(h.read("argv")), "\n") },
	}
}

func (h *host) driver(change ...func(*wol.Config)) *wol.Driver {
	h.t.Helper()
	c := h.config()
	for _, f := range change {
		f(&c)
	}
	d, err := wol.New(c)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = d.Close() })
	return d
}

// eventually waits for what arrives by itself.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(plenty); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// Three copies, and none to a host that is on.
func TestCopies(t *testing.T) {
	h := newHost(t)
	d := h.driver()
	if err := d.On(powertest.Within(t, plenty)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three copies came", func() bool { return h.packets.Load() == 3 })
	if err := d.On(powertest.Within(t, plenty)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if n, strange := h.packets.Load(), h.strange.Load(); n != 3 || strange != 0 {
		t.Errorf("%d packets and %d that were not magic, want 3 and none", n, strange)
	}
}

func TestSecureOn(t *testing.T) {
	h := newHost(t, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55)
	d := h.driver(func(c *wol.Config) { c.SecureOnPassword = "00:11:22:33:44:55" })
	if err := d.On(powertest.Within(t, plenty)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the host is on", func() bool { return h.power() == pool.PowerOn })
	if text := fmt.Sprintf("%v %+v %#v", d, d, d); strings.Contains(text, "33:44") || !strings.Contains(text, mac) {
		t.Errorf("the driver prints as %s", text)
	}
}

// The off program's refusals are the driver's.
func TestOffRefused(t *testing.T) {
	h := newHost(t)
	h.write("power", "on\n")
	h.fault("echo the strip is locked >&2; exit 75")
	err := h.driver().Off(powertest.Within(t, plenty), power.Hard)
	if !errors.Is(err, power.ErrRefused) || !strings.HasPrefix(fmt.Sprint(err), "wol gpu-07: off_hard: ") {
		t.Errorf("hard off: %v, want refused, in the name of the driver", err)
	}
}

// What cannot be sent was not sent.
func TestNowhereToSend(t *testing.T) {
	for name, change := range map[string]func(*wol.Config){
		"no such interface": func(c *wol.Config) { c.Interface, c.Broadcast = "nosuch0", "" },
		"no route":          func(c *wol.Config) { c.Broadcast = "240.0.0.1" },
	} {
		h := newHost(t)
		err := h.driver(change).On(powertest.Within(t, plenty))
		if name == "no route" && err == nil {
			t.Log("this machine has a route to 240.0.0.1") // it does no harm there
			continue
		}
		if !errors.Is(err, power.ErrUnreachable) {
			t.Errorf("%s: %v, want unreachable", name, err)
		}
	}
}
