// Package ipmitest starts simulated BMCs for tests, lets them fail as real
// ones do, and looks at what they did.
//
// There are two, because each proves what the other cannot. [OpenIPMI] runs
// ipmi_sim, an independent implementation in C, with cipher suite 3.
// [Reference] serves go-ipmi's own BMC in this process, with cipher suite 17;
// it shares code with the client that it tests, so what it shows is read back
// through [BMC.Ipmitool] as well. A [Link] in front of either loses, delays or
// garbles chosen packets.
package ipmitest

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
)

// The account of each simulated BMC. Its privilege is OPERATOR.
const (
	Username = "gpupool"
	Password = "gpupool-Pass1"
)

// BMC is a simulated BMC with a chassis that is off at first. Its methods do
// not go through IPMI, except [BMC.Ipmitool].
type BMC struct {
	Addr  netip.AddrPort // its UDP address, in 127.0.0.0/8
	Suite int            // the RMCP+ cipher suite that it offers

	t   testing.TB
	sim simulator
}

// simulator is what the two implementations have in common.
type simulator interface {
	power() bool
	setPower(on bool)
	executions() int
	fail(fault)
	hang()
	stop()
}

// fault is how a chassis fails, until the next one is set.
type fault struct {
	refuse bool          // no change is accepted
	noSoft bool          // there is no soft-off
	late   time.Duration // a change is carried out and answered after so long
}

// Power is the chassis power.
func (b *BMC) Power() pool.Power {
	if b.sim.power() {
		return pool.PowerOn
	}
	return pool.PowerOff
}

// SetPower sets the chassis power, as the button on the host would.
func (b *BMC) SetPower(p pool.Power) { b.sim.setPower(p == pool.PowerOn) }

// Executions is the number of power commands that the chassis carried out, but
// for those that power on one that is on, which are none to it.
func (b *BMC) Executions() int { return b.sim.executions() }

// Refuse makes the chassis refuse every change.
func (b *BMC) Refuse() { b.sim.fail(fault{refuse: true}) }

// NoSoftOff makes the chassis one that has no soft-off.
func (b *BMC) NoSoftOff() { b.sim.fail(fault{noSoft: true}) }

// Late makes the chassis carry out changes only after d, and answer then.
func (b *BMC) Late(d time.Duration) { b.sim.fail(fault{late: d}) }

// Hang makes the BMC read and answer nothing any more, as if its firmware hung.
func (b *BMC) Hang() { b.sim.hang() }

// Stop ends the BMC: nothing listens at its address any more. It may be called
// more than once, and is called at the end of the test.
func (b *BMC) Stop() { b.sim.stop() }

// Ipmitool runs ipmitool against the BMC and returns its output, such as
// "Chassis Power is on" for the arguments chassis, power, status.
func (b *BMC) Ipmitool(args ...string) string {
	b.t.Helper()
	return b.IpmitoolAs(b.Suite, Password, args...)
}

// IpmitoolAs is Ipmitool with another cipher suite or password.
func (b *BMC) IpmitoolAs(suite int, password string, args ...string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	args = append([]string{
		"-I", "lanplus", "-H", b.Addr.Addr().String(), "-p", strconv.Itoa(int(b.Addr.Port())),
		"-U", Username, "-E", "-L", "OPERATOR", "-C", strconv.Itoa(suite), "-N", "2", "-R", "3",
	}, args...)
	cmd := exec.CommandContext(ctx, tool(b.t, "ipmitool", "ipmitool"), args...)
	cmd.Env = append(os.Environ(), "IPMI_PASSWORD="+password)
	var stderr strings.Builder // it complains of commands that the account may not use
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("ipmitool %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// tool finds a program of a Debian package, or ends the test.
func tool(t testing.TB, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not on PATH, and this test is about it: apt-get install %s", name, pkg)
	}
	return path
}

var loopbacks atomic.Uint32

// Loopback returns an address in 127.0.0.0/8 that no other call in this
// process, and hardly another process, was given.
func Loopback() netip.Addr {
	n, pid := loopbacks.Add(1), os.Getpid()
	return netip.AddrFrom4([4]byte{127, byte(16 + pid>>8&0x3f), byte(pid), byte(1 + n%250)})
}

// freePort finds a UDP port that is free at ip.
func freePort(t testing.TB, ip netip.Addr) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
	if err != nil {
		t.Fatalf("find a free UDP port: %v", err)
	}
	defer func() { _ = conn.Close() }()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// eventually waits until done, which is asked every few milliseconds.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("waited 20s in vain until %s", what)
}
