package ipmitest

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// chassisScript is what ipmi_sim runs to read and change the chassis power.
//
//go:embed chassis.sh
var chassisScript []byte

// openIPMI is one ipmi_sim process. Its chassis is a directory:
//
//	power     "1" or "0"
//	executed  one line for each change that was carried out, but for powering on
//	          a chassis that is on
//	fault     shell text that the script runs before a change
type openIPMI struct {
	t   testing.TB
	dir string
	cmd *exec.Cmd
	end sync.Once
}

// OpenIPMI starts ipmi_sim (Debian package openipmi) with one BMC that offers
// cipher suite 3. It ends with the test.
func OpenIPMI(t testing.TB) *BMC {
	t.Helper()
	s := &openIPMI{t: t, dir: t.TempDir()}
	addr := freePort(t, Loopback())
	s.write("chassis.sh", string(chassisScript), 0o755)
	s.write("power", "0", 0o644)
	s.write("executed", "", 0o644)
	s.write("fault", "", 0o644)
	s.write("lan.conf", s.lanConf(addr), 0o644)
	s.write("bmc.emu", `mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
`, 0o644)
	if err := os.Mkdir(s.path("state"), 0o755); err != nil {
		t.Fatal(err)
	}

	var output bytes.Buffer
	s.cmd = exec.CommandContext(context.Background(), tool(t, "ipmi_sim", "openipmi"),
		"-c", s.path("lan.conf"), "-f", s.path("bmc.emu"), "-s", s.path("state"), "-n")
	s.cmd.Stdout, s.cmd.Stderr = &output, &output
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("start ipmi_sim: %v", err)
	}
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("ipmi_sim said:\n%s", output.String())
		}
	})
	eventually(t, "ipmi_sim answers a ping", func() bool { return pings(addr) })
	return &BMC{Addr: addr, Suite: 3, t: t, sim: s}
}

func (s *openIPMI) lanConf(addr netip.AddrPort) string {
	return fmt.Sprintf(`name "bmc"
set_working_mc 0x20
  startlan 1
    addr %s %d
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcd00
  endlan
  chassis_control "%s %s"
  user 1 false "" "" user 10 none md2 md5 straight
  user 2 true "%s" "%s" operator 10 none md2 md5 straight
`, addr.Addr(), addr.Port(), s.path("chassis.sh"), s.dir, Username, Password)
}

func (s *openIPMI) path(name string) string { return filepath.Join(s.dir, name) }

// write replaces a file at once, since the script may be reading it.
func (s *openIPMI) write(name, text string, mode os.FileMode) {
	s.t.Helper()
	fresh := s.path("." + name)
	if err := os.WriteFile(fresh, []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(fresh, s.path(name)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *openIPMI) read(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

func (s *openIPMI) power() bool { return strings.TrimSpace(s.read("power")) == "1" }

func (s *openIPMI) setPower(on bool) {
	if on {
		s.write("power", "1", 0o644)
	} else {
		s.write("power", "0", 0o644)
	}
}

func (s *openIPMI) executions() int { return strings.Count(s.read("executed"), "\n") }

func (s *openIPMI) fail(f fault) {
	var script string
	if f.refuse {
		script += "exit 1\n"
	}
	if f.noSoft {
		script += `[ "$1" = shutdown ] && exit 1` + "\n"
	}
	if f.late > 0 {
		script += fmt.Sprintf("sleep %.3f\n", f.late.Seconds())
	}
	s.write("fault", script, 0o644)
}

func (s *openIPMI) hang() {
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		s.t.Fatalf("stop ipmi_sim: %v", err)
	}
}

func (s *openIPMI) stop() {
	s.end.Do(func() {
		// The group, for a script that sleeps.
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		_ = s.cmd.Wait()
	})
}

// pings says whether a BMC answers an RMCP presence ping: IPMI 2.0 section
// 13.2.3.
func pings(addr netip.AddrPort) bool {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	ping := []byte{0x06, 0x00, 0xff, 0x06, 0x00, 0x00, 0x11, 0xbe, 0x80, 0x00, 0x00, 0x00}
	if _, err := conn.Write(ping); err != nil {
		return false
	}
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	n, err := conn.Read(make([]byte, 64))
	return err == nil && n > 0
}
