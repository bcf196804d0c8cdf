package ipmi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/crypto"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/gpupool/gpupool/internal/power"
)

func testGuard(suite types.CipherSuiteID) *guard {
	return newGuard(nil, settings{suite: suite, username: "gpupool", password: "gpupool-Pass1"}, new(pace))
}

// packet20 is an RMCP+ packet as IPMI 2.0 table 13-8 lays it out.
func packet20(kind byte, id uint32, payload []byte) []byte {
	p := []byte{0x06, 0x00, 0xff, 0x07, 0x06, kind}
	p = binary.LittleEndian.AppendUint32(p, id)
	p = binary.LittleEndian.AppendUint32(p, 0)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(payload)))
	return append(p, payload...)
}

const consoleID = 0xa0a1a2a3

// handshake plays both sides of a login in front of a guard.
func handshake(t testing.TB, g *guard) {
	t.Helper()
	open := make([]byte, 32)
	binary.LittleEndian.PutUint32(open[4:], consoleID)
	g.note(packet20(0x10, 0, open))
	reply := make([]byte, 36)
	binary.LittleEndian.PutUint32(reply[4:], consoleID)
	reply[16], reply[24], reply[32] = byte(g.auth), byte(g.integrity), byte(g.encryption)
	if !g.admit(packet20(0x11, 0, reply)) {
		t.Fatal("the Open Session response did not pass")
	}
	rakp1 := make([]byte, 28+len(g.username))
	rakp1[24] = 0x13
	g.note(packet20(0x12, 0, rakp1))
	rakp2 := make([]byte, 40)
	binary.LittleEndian.PutUint32(rakp2[4:], consoleID)
	if !g.admit(packet20(0x13, 0, rakp2)) || g.k1 == nil || g.k2 == nil {
		t.Fatal("RAKP 2 did not pass")
	}
	g.note(packet20(0xc0, 1, encrypted(t, g, getChassisStatus)))
}

// getChassisStatus is a request inside of the session, number 1 of it, and
// chassisIsOn its reply.
var (
	getChassisStatus = []byte{0x20, 0x00, 0xe0, 0x81, 0x04, 0x01, 0x7a}
	chassisIsOn      = []byte{0x81, 0x04, 0x7b, 0x20, 0x04, 0x01, 0x00, 0x01, 0, 0, 0, 0xda}
)

func encrypted(t testing.TB, g *guard, message []byte) []byte {
	t.Helper()
	payload, err := crypto.EncryptAESPayload(message, g.k2, make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// signed is a reply inside of the session with the right keys.
func signed(t testing.TB, g *guard, id uint32, kind byte, body []byte) []byte {
	t.Helper()
	payload := encrypted(t, g, body)
	p := packet20(kind, id, payload)
	pad := types.IntegrityPadLen(header20Size, len(payload))
	for range pad {
		p = append(p, 0xff)
	}
	p = append(p, byte(pad), 0x07)
	code, err := crypto.SessionIntegrityAuthCode(g.integrity, p[rmcpSize:], g.k1, g.password)
	if err != nil {
		t.Fatal(err)
	}
	return append(p, code...)
}

func TestGuardPassesOnlyWhatTheBMCSigned(t *testing.T) {
	const both = 0xc0
	for _, suite := range []types.CipherSuiteID{3, 17} {
		g := testGuard(suite)
		handshake(t, g)
		good := signed(t, g, consoleID, both, chassisIsOn)
		if !g.admit(good) {
			t.Errorf("suite %d: a signed reply did not pass", suite)
		}
		for i := range good[rmcpSize:] {
			bad := append([]byte(nil), good...)
			bad[rmcpSize+i] ^= 0x01
			if g.admit(bad) {
				t.Errorf("suite %d: passed with byte %d changed", suite, rmcpSize+i)
			}
		}
		for n := range good {
			if g.admit(good[:n]) {
				t.Errorf("suite %d: passed when cut to %d of %d bytes", suite, n, len(good))
			}
		}
		for name, bad := range map[string][]byte{
			"of another session":        signed(t, g, consoleID+1, both, chassisIsOn),
			"not marked as encrypted":   signed(t, g, consoleID, 0x40, chassisIsOn),
			"not marked as signed":      signed(t, g, consoleID, 0x80, chassisIsOn),
			"of a serial-over-LAN kind": signed(t, g, consoleID, both|0x01, chassisIsOn),
			"to another request":        signed(t, g, consoleID, both, []byte{0x81, 0x04, 0x7b, 0x20, 0x08, 0x01, 0x00, 0x01, 0, 0, 0, 0xd6}),
			"to another command":        signed(t, g, consoleID, both, []byte{0x81, 0x04, 0x7b, 0x20, 0x04, 0x02, 0x00, 0xda}),
			"in plain":                  packet20(0x00, consoleID, chassisIsOn),
			"in plain, of no session":   packet20(0x00, 0, chassisIsOn),
			"a late RAKP 4":             packet20(0x15, 0, make([]byte, 24)),
			"in IPMI 1.5 format":        {0x06, 0x00, 0xff, 0x07, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0x81, 0x04, 0x7b, 0x20, 0x04, 0x01, 0, 1},
		} {
			if g.admit(bad) {
				t.Errorf("suite %d: a reply %s passed", suite, name)
			}
		}
	}
}

// wire is a network that keeps what is sent, and answers nothing.
type wire struct {
	net.Conn
	sent [][]byte
}

func (w *wire) Write(p []byte) (int, error) {
	w.sent = append(w.sent, bytes.Clone(p))
	return len(p), nil
}
func (w *wire) Read([]byte) (int, error)        { return 0, os.ErrDeadlineExceeded }
func (w *wire) SetReadDeadline(time.Time) error { return nil }

// request is one inside of the session, as go-ipmi sends it.
func request(t testing.TB, g *guard, seq uint32) []byte {
	t.Helper()
	p := signed(t, g, 0x11223344, 0xc0, getChassisStatus)
	binary.LittleEndian.PutUint32(p[rmcpSize+header20Seq:], seq)
	code, err := crypto.SessionIntegrityAuthCode(g.integrity, p[rmcpSize:len(p)-16], g.k1, g.password)
	if err != nil {
		t.Fatal(err)
	}
	return append(p[:len(p)-16], code...)
}

// A request inside of the session is repeated under sequence numbers of its own,
// each signed, and those of later ones follow on.
func TestGuardRepeatsInsideOfTheSession(t *testing.T) {
	g, w := testGuard(17), new(wire)
	handshake(t, g)
	g.Conn = w
	for seq := uint32(1); seq <= 2; seq++ {
		if _, err := g.Write(request(t, g, seq)); err != nil {
			t.Fatal(err)
		}
		if err := g.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Read(make([]byte, maxDatagram)); !errors.Is(err, errUnanswered) {
			t.Fatalf("read: %v, want %v", err, errUnanswered)
		}
	}
	if len(w.sent) != 2*usualTimes {
		t.Fatalf("%d packets were sent, want %d", len(w.sent), 2*usualTimes)
	}
	for i, p := range w.sent {
		if want := request(t, g, uint32(i+1)); !bytes.Equal(p, want) {
			t.Errorf("packet %d is\n%x, want\n%x", i+1, p, want)
		}
	}
}

// A change that may be sent once is not repeated.
func TestGuardSendsOnce(t *testing.T) {
	g, w := testGuard(17), new(wire)
	handshake(t, g)
	g.Conn = w
	g.send(1, offWait)
	if _, err := g.Write(request(t, g, 1)); err != nil {
		t.Fatal(err)
	}
	_ = g.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := g.Read(make([]byte, maxDatagram)); !errors.Is(err, errUnanswered) || len(w.sent) != 1 {
		t.Errorf("read: %v, %d packets; want %v and one", err, len(w.sent), errUnanswered)
	}
}

// Of a message of the session setup that was repeated, what counts depends on
// whether the BMC answers each copy alike.
func TestGuardOnRepliesToRepeats(t *testing.T) {
	reply := func(kind, tag, status byte) []byte {
		body := make([]byte, 40)
		body[0], body[1] = tag, status
		binary.LittleEndian.PutUint32(body[4:], consoleID)
		g := testGuard(17)
		body[16], body[24], body[32] = byte(g.auth), byte(g.integrity), byte(g.encryption)
		return packet20(kind, 0, body)
	}
	for _, c := range []struct {
		name          string
		request, kind byte
		tag, status   byte
		pass, over    bool
	}{
		{"open session, to the last", 0x10, 0x11, 2, 0, true, false},
		{"open session, to the first", 0x10, 0x11, 0, 0, true, false},
		{"open session, a complaint", 0x10, 0x11, 1, 0x01, false, false},
		{"RAKP 1, to the last", 0x12, 0x13, 2, 0, true, false},
		{"RAKP 1, to the first", 0x12, 0x13, 0, 0, false, false},
		{"RAKP 3, to the first", 0x14, 0x15, 0, 0, true, false},
		{"RAKP 3, a complaint", 0x14, 0x15, 2, 0x02, false, true},
	} {
		g := testGuard(17)
		g.Conn = new(wire)
		open := make([]byte, 32)
		binary.LittleEndian.PutUint32(open[4:], consoleID)
		g.note(packet20(0x10, 0, open))
		if c.request == 0x10 {
			_, _ = g.Write(packet20(c.request, 0, open))
		} else {
			_, _ = g.Write(packet20(c.request, 0, make([]byte, 28)))
		}
		for range 2 {
			if err := g.again(); err != nil {
				t.Fatal(err)
			}
		}
		over, _ := g.received(reply(c.kind, c.tag, c.status), nil)
		if pass := over && g.answered; pass != c.pass || over && !pass != c.over {
			t.Errorf("%s: passed %t, and the wait is over %t", c.name, pass, over)
		}
	}
}

// FuzzGuard feeds a guard replies of whatever kind, in each state of a login,
// and checks that it survives and that nothing unsigned passes after it.
func FuzzGuard(f *testing.F) {
	g := testGuard(17)
	handshake(f, g)
	f.Add(byte(0), []byte{0x06, 0x00, 0xff, 0x07, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x81})
	f.Add(byte(1), packet20(0x11, 0, make([]byte, 36)))
	f.Add(byte(2), packet20(0x13, 0, make([]byte, 72)))
	f.Add(byte(3), packet20(0x15, 0, make([]byte, 24)))
	f.Add(byte(4), signed(f, g, consoleID, 0xc0, []byte{0x81, 0x04, 0, 0x20, 0x04, 0x01, 0}))
	f.Add(byte(4), packet20(0xc0, consoleID, nil))

	f.Fuzz(func(t *testing.T, state byte, reply []byte) {
		g := testGuard(17)
		switch state % 5 {
		case 0:
			g.note([]byte{0x06, 0x00, 0xff, 0x07, 0x00})
		case 1:
			g.note(packet20(0x10, 0, make([]byte, 32)))
		case 2:
			g.note(packet20(0x12, 0, make([]byte, 28)))
		case 3:
			g.note(packet20(0x14, 0, nil))
		case 4:
			handshake(t, g)
			g.k1[0] ^= 0xff // nobody can have signed with this key
			if g.admit(reply) {
				t.Fatalf("unsigned reply passed: %x", reply)
			}
			return
		}
		g.note(reply) // hostile as a request too
		g.admit(reply)
	})
}

func TestChangeErrors(t *testing.T) {
	for cc, want := range map[types.CompletionCode]error{
		0xc0: power.ErrRefused,     // node busy
		0xc1: power.ErrUnsupported, // invalid command
		0xc3: power.ErrAmbiguous,   // timeout while processing
		0xc9: power.ErrUnsupported, // parameter out of range
		0xcc: power.ErrUnsupported, // invalid data field
		0xce: power.ErrAmbiguous,   // response could not be provided
		0xd4: power.ErrRefused,     // insufficient privilege
		0xd5: power.ErrRefused,     // not in the present state
		0xff: power.ErrRefused,     // unspecified
	} {
		if err := changeError(cc); !errors.Is(err, want) {
			t.Errorf("completion code %#02x: %v, want %v", uint8(cc), err, want)
		}
	}
}

func TestSetupErrors(t *testing.T) {
	for status, want := range map[types.RmcpStatusCode]error{
		0x01: power.ErrUnreachable, // no free session
		0x04: power.ErrRefused,     // invalid authentication algorithm
		0x0a: power.ErrRefused,     // unauthorized privilege
		0x0d: power.ErrAuth,        // unauthorized name
		0x0f: power.ErrAuth,        // invalid integrity check value
		0x11: power.ErrRefused,     // no cipher suite match
		0x12: power.ErrUnreachable, // illegal parameter
		0xbd: power.ErrUnreachable, // not defined
	} {
		if err := setupError(status, 17); !errors.Is(err, want) {
			t.Errorf("RMCP+ status %#02x: %v, want %v", uint8(status), err, want)
		}
	}
}

func TestPanicsOfTheLibraryAreErrors(t *testing.T) {
	err := guarded(func() error { var p []byte; _ = p[3]; return nil })
	if err == nil {
		t.Error("no error")
	}
}
