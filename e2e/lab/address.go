package lab

import (
	"crypto/rand"
	"fmt"
	"net"
)

// A lab has the addresses 127.A.B.0/24, where A and B are its id: .1 is the
// control machine, .11 and up are the hosts, .101 and up their BMCs, .254 the
// claim on the whole.

// claimAddresses takes a part of 127.0.0.0/8 that no other lab has.
func claimAddresses() (id string, claim net.Listener, err error) {
	for range 20 {
		var b [2]byte
		_, _ = rand.Read(b[:])                        // never fails: crypto/rand ends the program instead
		id = fmt.Sprintf("%02x%02x", b[0]|0x40, b[1]) // away from the 127.0.0.1 and 127.0.1.1 of others
		if claim, err = net.Listen("tcp", address(id, 254)+":1"); err == nil {
			return id, claim, nil
		}
	}
	return "", nil, fmt.Errorf("lab: claim a part of 127.0.0.0/8: %w", err)
}

func address(id string, last int) string {
	var a, b int
	_, _ = fmt.Sscanf(id, "%2x%2x", &a, &b)
	return fmt.Sprintf("127.%d.%d.%d", a, b, last)
}

// device is the name of a host's network interface, of at most 15 characters.
func (l *Lab) device(suffix string) string { return "gp" + l.id + "-" + suffix }
