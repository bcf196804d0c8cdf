package ipmi_test

import (
	"bufio"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power/ipmi"
	"github.com/gpupool/gpupool/internal/power/ipmi/ipmitest"
)

// patience is how long one BMC may take before it counts as dead, for us and
// for the peer.
const patience = 5 * time.Second

// rack is BMCs behind links, some of them dead.
type rack struct {
	live  []*ipmitest.BMC
	addrs []netip.AddrPort // of the links, and of black holes
}

// condition is what lies between a client and its BMCs.
type condition struct {
	name  string
	bmcs  int
	dead  int           // of them: they take packets and answer none
	delay time.Duration // of each reply
	loss  float64       // share of packets lost, each way
}

func newRack(b *testing.B, c condition) *rack {
	b.Helper()
	r := new(rack)
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(1, 2))
	for range c.bmcs - c.dead {
		bmc := ipmitest.Reference(b)
		link := ipmitest.NewLink(b, bmc.Addr)
		link.Delay(c.delay)
		if c.loss > 0 {
			link.Lose(func(ipmitest.Packet) bool {
				mu.Lock()
				defer mu.Unlock()
				return rng.Float64() < c.loss
			})
		}
		r.live = append(r.live, bmc)
		r.addrs = append(r.addrs, link.Addr)
	}
	for range c.dead {
		hole, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ipmitest.Loopback(), 0)))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = hole.Close() })
		r.addrs = append(r.addrs, hole.LocalAddr().(*net.UDPAddr).AddrPort())
	}
	return r
}

// sweep is how one client asked all of a rack: when the last live BMC had
// answered, and how many of those gave no good answer.
type sweep struct {
	live   time.Duration
	errors int
}

// client reads, or powers on, every BMC of a rack.
type client func(ctx context.Context, b *testing.B, on bool) sweep

// clients are ours and its peer, FreeIPMI's ipmipower (Debian package
// freeipmi-tools), a mature client that is built for racks.
var clients = []struct {
	name string
	new  func(b *testing.B, r *rack) client
}{{"gpupool", ours}, {"ipmipower", ipmipower}}

// ours makes its drivers for each sweep, so that they know as little of the BMCs
// as the peer does, and the sweep ends when their sessions are closed, as its
// does.
func ours(_ *testing.B, r *rack) client {
	suite := 17
	return func(ctx context.Context, b *testing.B, on bool) (s sweep) {
		begin := time.Now()
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i, addr := range r.addrs {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, patience)
				defer cancel()
				d, err := ipmi.New(ipmi.Config{Address: addr.String(), Username: ipmitest.Username, Password: ipmitest.Password, CipherSuite: &suite, MinInterval: "0s"})
				if err != nil {
					b.Error(err)
					return
				}
				defer d.Close() //nolint:errcheck // it returns none
				if on {
					err = d.On(ctx)
				} else {
					_, err = d.State(ctx)
				}
				if i >= len(r.live) {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				s.live = max(s.live, time.Since(begin))
				if err != nil {
					s.errors++
				}
			})
		}
		wg.Wait()
		return s
	}
}

func ipmipower(b *testing.B, r *rack) client {
	path, err := exec.LookPath("ipmipower")
	if err != nil {
		b.Fatal("no ipmipower to compare with: apt-get install freeipmi-tools")
	}
	var hosts []string
	live := make(map[string]bool)
	for i, addr := range r.addrs {
		hosts = append(hosts, addr.String())
		if i < len(r.live) {
			live[addr.Addr().String()] = true
		}
	}
	return func(ctx context.Context, b *testing.B, on bool) (s sweep) {
		do := "--stat"
		if on {
			do = "--on"
		}
		begin := time.Now()
		cmd := exec.CommandContext(ctx, "stdbuf", "-oL", path, "-D", "LAN_2_0", "-u", ipmitest.Username, "-p", ipmitest.Password, "-I", "17", "-l", "OPERATOR",
			"--session-timeout=5000", "-h", strings.Join(hosts, ","), do)
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		answered := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			host, state, _ := strings.Cut(lines.Text(), ": ")
			host, _, _ = strings.Cut(host, ":")
			if !live[host] {
				continue
			}
			s.live = time.Since(begin)
			if state == "on" || state == "off" || state == "ok" {
				answered++
			}
		}
		var failed *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &failed) { // hosts that did not answer make it fail
			b.Fatal(err)
		}
		s.errors = len(r.live) - answered
		return s
	}
}

// BenchmarkSweep asks a whole rack, beside ipmipower in the same run. The time
// of an operation is until everybody has answered or was given up; live-ms is
// until the last live BMC had, of the median sweep, since a machine that has other
// work spoils some; errors are live BMCs without a good answer, of a sweep. The BMCs are go-ipmi's server, in this process, with cipher suite 17.
func BenchmarkSweep(b *testing.B) {
	for _, c := range []condition{
		{name: "loopback", bmcs: 64},
		{name: "100ms", bmcs: 64, delay: 100 * time.Millisecond},
		{name: "100ms-5%loss", bmcs: 64, delay: 100 * time.Millisecond, loss: 0.05},
		{name: "4dead", bmcs: 64, dead: 4},
		{name: "256-loopback", bmcs: 256},
		{name: "256-100ms", bmcs: 256, delay: 100 * time.Millisecond},
		{name: "256-100ms-5%loss", bmcs: 256, delay: 100 * time.Millisecond, loss: 0.05},
	} {
		for _, what := range []string{"status", "on"} {
			for _, peer := range clients {
				b.Run(c.name+"/"+what+"/"+peer.name, func(b *testing.B) {
					r := newRack(b, c)
					ask := peer.new(b, r)
					var live []time.Duration
					wrong := 0
					for b.Loop() {
						b.StopTimer()
						for _, bmc := range r.live {
							bmc.SetPower(pool.PowerOff)
						}
						b.StartTimer()
						s := ask(b.Context(), b, what == "on")
						live, wrong = append(live, s.live), wrong+s.errors
					}
					slices.Sort(live)
					b.ReportMetric(float64(live[len(live)/2].Milliseconds()), "live-ms")
					b.ReportMetric(float64(wrong)/float64(b.N), "errors")
				})
			}
		}
	}
}
