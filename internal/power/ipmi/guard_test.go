package ipmi

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/bougou/go-ipmi/pkg/crypto"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/gpupool/gpupool/internal/power"
)

func testGuard(suite types.CipherSuiteID) *guard {
	return newGuard(nil, settings{suite: suite, username: "gpupool", password: "gpupool-Pass1"})
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
	g.note(packet20(0xc0, 1, nil)) // a request inside of the session
}

// signed is a reply inside of the session with the right keys.
func signed(t testing.TB, g *guard, id uint32, kind byte, body []byte) []byte {
	t.Helper()
	payload, err := crypto.EncryptAESPayload(body, g.k2, make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
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
	body := []byte{0x81, 0x04, 0x7b, 0x20, 0x04, 0x01, 0x00, 0x01, 0, 0, 0, 0xda}
	for _, suite := range []types.CipherSuiteID{3, 17} {
		g := testGuard(suite)
		handshake(t, g)
		good := signed(t, g, consoleID, both, body)
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
			"of another session":        signed(t, g, consoleID+1, both, body),
			"not marked as encrypted":   signed(t, g, consoleID, 0x40, body),
			"not marked as signed":      signed(t, g, consoleID, 0x80, body),
			"of a serial-over-LAN kind": signed(t, g, consoleID, both|0x01, body),
			"in plain":                  packet20(0x00, consoleID, body),
			"in plain, of no session":   packet20(0x00, 0, body),
			"a late RAKP 4":             packet20(0x15, 0, make([]byte, 24)),
			"in IPMI 1.5 format":        {0x06, 0x00, 0xff, 0x07, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0x81, 0x04, 0x7b, 0x20, 0x04, 0x01, 0, 1},
		} {
			if g.admit(bad) {
				t.Errorf("suite %d: a reply %s passed", suite, name)
			}
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
