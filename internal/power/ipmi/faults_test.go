package ipmi_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/ipmi"
	"github.com/gpupool/gpupool/internal/power/ipmi/ipmitest"
	"github.com/gpupool/gpupool/internal/power/powertest"
)

// rig is a BMC, a link in front of it and a driver.
type rig struct {
	*ipmitest.BMC
	link   *ipmitest.Link
	driver *ipmi.Driver
}

func newRig(t *testing.T, b *ipmitest.BMC, change ...func(*ipmi.Config)) rig {
	t.Helper()
	l := ipmitest.NewLink(t, b.Addr)
	c := config(b, l)
	for _, f := range change {
		f(&c)
	}
	d, err := ipmi.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return rig{b, l, d}
}

// What the driver does, ipmitool sees, and the other way round.
func TestAgreesWithIpmitool(t *testing.T) {
	for name, start := range simulators {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, start(t))
			ctx := powertest.Within(t, 60*time.Second)
			sees := func(want pool.Power) {
				t.Helper()
				if got, want := r.Ipmitool("chassis", "power", "status"), "Chassis Power is "+want.String(); got != want {
					t.Fatalf("ipmitool says %q, want %q", got, want)
				}
				if got, err := r.driver.State(ctx); err != nil || got != want {
					t.Fatalf("State says %s, %v, want %s", got, err, want)
				}
			}
			do := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}

			sees(pool.PowerOff)
			do(r.driver.On(ctx))
			sees(pool.PowerOn)
			do(r.driver.Off(ctx, power.Soft))
			sees(pool.PowerOff)
			r.Ipmitool("chassis", "power", "on")
			sees(pool.PowerOn)
			do(r.driver.Off(ctx, power.Hard))
			sees(pool.PowerOff)
		})
	}
}

// A packet that is lost is sent again, and changes nothing twice. Each row loses
// one packet of the first session.
func TestLosingOnePacket(t *testing.T) {
	const request, reply = false, true
	type row struct {
		name       string
		kind       ipmitest.Kind
		reply      bool
		n          int
		executions int
		logins     int // at most: one BMC answers a repeated request, another drops it
	}
	var rows []row
	add := func(name string, kind ipmitest.Kind, n int, reply bool, executions, logins int) {
		rows = append(rows, row{name, kind, reply, n, executions, logins})
	}
	add("capabilities request", ipmitest.Capabilities, 1, request, 1, 1)
	add("capabilities reply", ipmitest.Capabilities, 1, reply, 1, 1)
	add("open session request", ipmitest.OpenSessionRequest, 1, request, 1, 1)
	add("open session reply", ipmitest.OpenSessionResponse, 1, reply, 1, 1)
	add("RAKP 1", ipmitest.RAKP1, 1, request, 1, 2)
	add("RAKP 2", ipmitest.RAKP2, 1, reply, 1, 2)
	add("RAKP 3", ipmitest.RAKP3, 1, request, 1, 2)
	add("RAKP 4", ipmitest.RAKP4, 1, reply, 1, 2)
	for dir, reply := range map[string]bool{"request": request, "reply": reply} {
		add("set privilege "+dir, ipmitest.Command, setPrivilege, reply, 1, 1)
		add("power on "+dir, ipmitest.Command, powerOn, reply, 1, 1)
		add("close session "+dir, ipmitest.Command, closeAfterOn, reply, 1, 1)
	}

	for name, start := range simulators {
		t.Run(name, func(t *testing.T) {
			for _, row := range rows {
				t.Run(row.name, func(t *testing.T) {
					t.Parallel()
					r := newRig(t, start(t))
					r.link.Lose(func(p ipmitest.Packet) bool {
						return p.Flow == 1 && p.Kind == row.kind && p.Reply == row.reply && p.N == row.n
					})
					if err := r.driver.On(powertest.Within(t, 15*time.Second)); err != nil {
						t.Errorf("On: %v", err)
					}
					if n, logins := r.Executions(), r.link.Count(ipmitest.RAKP1); n != row.executions || logins > row.logins {
						t.Errorf("%d changes and %d logins, want %d and at most %d", n, logins, row.executions, row.logins)
					}
				})
			}
		})
	}
}

// An off whose answer was lost is not sent again: the power tells what became of
// it. One that was lost itself is left to the next tick.
func TestAnOffIsSentOnce(t *testing.T) {
	for name, start := range simulators {
		for _, reply := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, reply %t", name, reply), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, start(t))
				r.SetPower(pool.PowerOn)
				kind, n := ipmitest.Command, powerOff
				r.link.Lose(func(p ipmitest.Packet) bool { return p.Flow == 1 && p.Kind == kind && p.Reply == reply && p.N == n })
				err := r.driver.Off(powertest.Within(t, 15*time.Second), power.Hard)
				if reply && (err != nil || r.Executions() != 1) {
					t.Errorf("its answer was lost: %v, %d changes; want no error and one", err, r.Executions())
				}
				if !reply && (!errors.Is(err, power.ErrAmbiguous) || r.Executions() != 0) {
					t.Errorf("it was lost: %v, %d changes; want an ambiguous outcome and none", err, r.Executions())
				}
			})
		}
	}
}

// A power-on is sent at once, to a host that is on too. Its BMC may say yes, or
// that it makes no sense.
func TestOnOfAHostThatIsOn(t *testing.T) {
	for name, start := range simulators {
		for _, refuses := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, refuses %t", name, refuses), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, start(t))
				r.SetPower(pool.PowerOn)
				want := 2 * closeAfterOn // requests and replies
				if refuses {
					r.Refuse()
					want += 2 // whether it is on
				}
				if err := r.driver.On(powertest.Within(t, 15*time.Second)); err != nil {
					t.Errorf("On: %v", err)
				}
				_ = r.driver.Close() // ends the session
				if n := r.link.Count(ipmitest.Command); n != want || r.Executions() != 0 {
					t.Errorf("%d packets in the session, and %d changes; want %d and none", n, r.Executions(), want)
				}
			})
		}
	}
}

// Each session is closed, though nobody waits for it but Close.
func TestSessionsAreClosed(t *testing.T) {
	r := newRig(t, ipmitest.Reference(t))
	ctx := powertest.Within(t, 15*time.Second)
	if _, err := r.driver.State(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.driver.On(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.driver.Close(); err != nil {
		t.Fatal(err)
	}
	if n, want := r.link.Count(ipmitest.Command), 2*2*closeAfterOn; n != want {
		t.Errorf("%d packets in two sessions, want %d, with their ends", n, want)
	}
}

// One packet in ten lost, in both directions: calls come through by trying
// again.
func TestHeavyLoss(t *testing.T) {
	r := newRig(t, ipmitest.Reference(t))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := make(chan *rand.Rand, 1)
	random <- rand.New(rand.NewPCG(seed, 0))
	r.link.Lose(func(ipmitest.Packet) bool {
		g := <-random
		defer func() { random <- g }()
		return g.IntN(10) == 0
	})
	for i := range 5 {
		r.SetPower(pool.PowerOff)
		before := r.Executions()
		err := r.driver.On(powertest.Within(t, 5*time.Second))
		if err != nil && !errors.Is(err, power.ErrAmbiguous) && !errors.Is(err, power.ErrUnreachable) {
			t.Errorf("call %d: %v", i, err)
		}
		done := r.Executions() - before
		if done > 1 || (err == nil && done == 0) || (errors.Is(err, power.ErrUnreachable) && done != 0) {
			t.Errorf("call %d: carried out %d times, with error %v", i, done, err)
		}
	}
}

// A reply that the BMC did not sign is as good as lost, and does not end the
// process: go-ipmi alone believes the first kind and panics on the others.
func TestRepliesThatTheBMCDidNotSign(t *testing.T) {
	inSession := func(change func([]byte) []byte) func(ipmitest.Packet) []byte {
		return func(p ipmitest.Packet) []byte {
			if p.Reply && p.Kind == ipmitest.Command {
				return change(p.Data)
			}
			return p.Data
		}
	}
	random := func(p []byte) []byte {
		for i := 16; i < len(p); i++ {
			p[i] = byte(rand.Uint32())
		}
		return p
	}
	for name, rule := range map[string]func(ipmitest.Packet) []byte{
		"forged in plain": inSession(func([]byte) []byte { return forgedPowerOn(chassisStatus) }),
		"flipped bit":     inSession(func(p []byte) []byte { p[20] ^= 1; return p }),
		"random payload":  inSession(random),
		"cut":             inSession(func(p []byte) []byte { return p[:30] }),
		"no payload":      inSession(func(p []byte) []byte { p[14], p[15] = 0, 0; return p }),
		"empty":           inSession(func([]byte) []byte { return []byte{} }),
		"all random": func(p ipmitest.Packet) []byte {
			if !p.Reply {
				return p.Data
			}
			return random(p.Data)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, ipmitest.Reference(t))
			r.link.Rule(rule)
			got, err := r.driver.State(powertest.Within(t, time.Second))
			if !errors.Is(err, power.ErrUnreachable) || got != pool.PowerUnknown {
				t.Errorf("State says %s, %v, want unknown and unreachable", got, err)
			}
			if !strings.Contains(fmt.Sprint(err), "dropped") {
				t.Errorf("the error does not say why: %v", err)
			}
			r.link.Rule(nil)
			if got, err := r.driver.State(powertest.Within(t, 20*time.Second)); err != nil || got != pool.PowerOff {
				t.Errorf("State says %s, %v once the replies are right again", got, err)
			}
		})
	}
}

// forgedPowerOn is a Get Chassis Status reply that says "on", of no session,
// neither encrypted nor signed.
func forgedPowerOn(seq byte) []byte {
	answer := []byte{0x81, 0x04, 0, 0x20, (seq + 1) << 2, 0x01, 0x00, 0x01, 0, 0, 0, 0}
	header := make([]byte, 16)
	copy(header, []byte{0x06, 0x00, 0xff, 0x07, 0x06})
	binary.LittleEndian.PutUint16(header[14:], uint16(len(answer)))
	return append(header, answer...)
}

// Whoever answers for the BMC cannot turn authentication off.
func TestWeakerSuiteIsRefused(t *testing.T) {
	r := newRig(t, ipmitest.Reference(t))
	r.link.Rule(func(p ipmitest.Packet) []byte {
		if p.Kind == ipmitest.OpenSessionResponse {
			const payload = 16
			p.Data[payload+16], p.Data[payload+24], p.Data[payload+32] = 0, 0, 0 // RAKP-none, none, none
		}
		return p.Data
	})
	_, err := r.driver.State(powertest.Within(t, 20*time.Second))
	if !errors.Is(err, power.ErrRefused) || !strings.Contains(err.Error(), "cipher_suite") {
		t.Errorf("State: %v, want refused, and the key to set", err)
	}
	if n := r.link.Count(ipmitest.RAKP1); n != 0 {
		t.Errorf("%d logins over the weaker suite", n)
	}
}

// The answers of a BMC to mistakes in the config: class, mend, and how many
// logins it saw.
func TestLoginMistakes(t *testing.T) {
	for _, c := range []struct {
		name   string
		start  func(testing.TB) *ipmitest.BMC
		change func(*ipmi.Config)
		want   error
		says   string
		logins int
	}{
		{"wrong password", ipmitest.OpenIPMI, func(c *ipmi.Config) { c.Password = wrongPassword }, power.ErrAuth, "wrong password", 1},
		{"wrong password, suite 17", ipmitest.Reference, func(c *ipmi.Config) { c.Password = wrongPassword }, power.ErrAuth, "wrong password", 1},
		{"no such user", ipmitest.OpenIPMI, func(c *ipmi.Config) { c.Username = "nobody" }, power.ErrAuth, "nauthorized name", 1},
		{"no such user, suite 17", ipmitest.Reference, func(c *ipmi.Config) { c.Username = "nobody" }, power.ErrAuth, "no such user", 1},
		{"suite 17 that the BMC lacks", ipmitest.OpenIPMI, func(c *ipmi.Config) { c.CipherSuite = nil }, power.ErrRefused, "cipher_suite", 0},
		{"more privilege than the account has", ipmitest.Reference, func(c *ipmi.Config) { c.Privilege = "administrator" }, power.ErrRefused, "OPERATOR is enough", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.start(t), c.change)
			err := r.driver.On(powertest.Within(t, 20*time.Second))
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("On: %v, want class %q and the words %q", err, c.want, c.says)
			}
			if n := r.link.Count(ipmitest.RAKP1); n != c.logins {
				t.Errorf("%d logins, want %d", n, c.logins)
			}
			if r.Power() != pool.PowerOff {
				t.Error("the chassis is on")
			}
		})
	}
}

// Both suites work on a BMC that offers both.
func TestSuite3OnReference(t *testing.T) {
	three := 3
	r := newRig(t, ipmitest.Reference(t), func(c *ipmi.Config) { c.CipherSuite = &three })
	if err := r.driver.On(powertest.Within(t, 20*time.Second)); err != nil || r.Power() != pool.PowerOn {
		t.Errorf("On: %v, chassis %s", err, r.Power())
	}
}

// A BMC that takes longer than the first wait to answer is slow, not dead.
func TestSlowBMC(t *testing.T) {
	r := newRig(t, ipmitest.Reference(t))
	r.link.Rule(func(p ipmitest.Packet) []byte {
		if p.Reply && p.Kind == ipmitest.OpenSessionResponse {
			time.Sleep(700 * time.Millisecond)
		}
		return p.Data
	})
	if got, err := r.driver.State(powertest.Within(t, 20*time.Second)); err != nil || got != pool.PowerOff {
		t.Errorf("State says %s, %v, want off", got, err)
	}
}

// The config's timeout bounds a call whose caller allows more.
func TestTimeoutOfTheConfig(t *testing.T) {
	r := newRig(t, ipmitest.Reference(t), func(c *ipmi.Config) { c.Timeout = "1s" })
	r.Hang()
	ctx := powertest.Within(t, time.Minute)
	_, err := r.driver.State(ctx)
	if !errors.Is(err, power.ErrUnreachable) || ctx.Err() != nil {
		t.Errorf("State: %v; caller's context: %v", err, ctx.Err())
	}
}

// Sockets are closed after calls that worked, failed and were cut short.
func TestNoSocketLeft(t *testing.T) {
	b := ipmitest.Reference(t)
	c := ipmi.Config{Address: b.Addr.String(), Username: ipmitest.Username, Password: ipmitest.Password, MinInterval: "0s"}
	open := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	calls := func(n int, limit time.Duration) {
		for range n {
			d, err := ipmi.New(c)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = d.State(powertest.Within(t, limit))
			_ = d.Close()
		}
	}
	calls(1, 20*time.Second)
	before := open()
	calls(10, 20*time.Second)
	b.Hang()
	calls(10, 50*time.Millisecond)
	b.Stop()
	calls(10, time.Second)
	if after := open(); after > before {
		t.Errorf("%d files are open, %d were", after, before)
	}
}
