package ipmi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/gpupool/gpupool/internal/power"
)

const (
	probeWait  = 700 * time.Millisecond // for one answer to a probe
	probeTries = 3
)

// Audit tells how the BMC can be got into: whether it accepts cipher suite 0,
// which lets anyone in who knows a user name, whether it takes logins without a
// name or over IPMI 1.5 without a password, and whether its clock is right. The
// first two are asked with one datagram each, before any login, and leave
// nothing behind but a half-open session that times out.
func (d *Driver) Audit(ctx context.Context) []power.Finding {
	var found []power.Finding
	_ = d.turnstile.Pass(ctx, func(ctx context.Context) error {
		found = append(found, d.auditSuite0(ctx), d.auditChannel(ctx))
		return nil // what a probe met is no refused login
	})
	return append(found, d.auditClock(ctx)...)
}

// openSuite0 is an RMCP+ Open Session Request for cipher suite 0, which is no
// authentication, no integrity and no confidentiality, with OPERATOR
// privilege: IPMI 2.0 sections 13.6 and 13.17.
var openSuite0 = []byte{
	0x06, 0x00, 0xff, 0x07, // RMCP, class IPMI
	0x06, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, // RMCP+, payload Open Session Request, no session, 32 bytes
	0x00, 0x03, 0, 0, // tag, OPERATOR
	0x67, 0x70, 0x75, 0x70, // our session ID
	0, 0, 0, 8, 0, 0, 0, 0, // RAKP-none
	1, 0, 0, 8, 0, 0, 0, 0, // no integrity
	2, 0, 0, 8, 0, 0, 0, 0, // no confidentiality
}

// statusOf reads the status of an RMCP+ Open Session Response: IPMI 2.0 section
// 13.18.
func statusOf(reply []byte) (types.RmcpStatusCode, bool) {
	const header, payload = 16, 0x11
	if len(reply) < header+2 || reply[0] != 0x06 || reply[3]&0x1f != 0x07 || reply[4] != 0x06 || reply[5]&0x3f != payload {
		return 0, false
	}
	return types.RmcpStatusCode(reply[header+1]), true
}

func (d *Driver) auditSuite0(ctx context.Context) power.Finding {
	const about = "cipher suite 0"
	var status types.RmcpStatusCode
	err := d.probe(ctx, openSuite0, func(reply []byte) (ok bool) {
		status, ok = statusOf(reply)
		return ok
	})
	switch {
	case err != nil:
		return power.Finding{Level: power.Warning, About: about, What: "it is not known whether the BMC accepts it: " + err.Error(), Mend: "ask again when the BMC answers"}
	case status == types.RmcpStatusCodeNoErrors:
		return power.Finding{Level: power.Wrong, About: about, What: "accepted: anyone on its network who knows a user name can power the host, without a password",
			Mend: "disable it in the BMC: ipmitool lan set 1 cipher_privs XaaaXXaaaXXaaXX, or in its web interface"}
	}
	return power.Finding{About: about, What: fmt.Sprintf("refused (RMCP+ status %#02x)", uint8(status))}
}

// askChannel is Get Channel Authentication Capabilities for the present channel
// and OPERATOR, with the extended answer of IPMI 2.0, outside of any session:
// section 22.13.
var askChannel = []byte{
	0x06, 0x00, 0xff, 0x07, // RMCP, class IPMI
	0x00, 0, 0, 0, 0, 0, 0, 0, 0, 9, // IPMI 1.5, no session, 9 bytes
	0x20, 0x18, 0xc8, // to the BMC, App request, checksum
	0x81, 0x04, 0x38, // from us, sequence 1, the command
	0x8e, 0x03, // extended and present channel, OPERATOR
	0xb2, // checksum
}

// channel is what a channel says of who may log in.
type channel struct {
	noAuth    bool // IPMI 1.5 logins without any authentication
	anonymous bool // logins without user name and password
	nullUser  bool // users without a name, but a password
}

// channelOf reads the reply to askChannel.
func channelOf(reply []byte) (channel, bool) {
	const body = 14 + 6 // RMCP, session header, and message header
	if len(reply) < body+8 || reply[0] != 0x06 || reply[3]&0x1f != 0x07 || reply[4] != 0x00 || reply[19] != 0x38 || reply[body] != 0x00 {
		return channel{}, false
	}
	kinds, status := reply[body+2], reply[body+3]
	return channel{
		noAuth: kinds&0x01 != 0, nullUser: status&0x02 != 0, anonymous: status&0x01 != 0,
	}, true
}

func (d *Driver) auditChannel(ctx context.Context) power.Finding {
	const about = "logins"
	var c channel
	err := d.probe(ctx, askChannel, func(reply []byte) (ok bool) {
		c, ok = channelOf(reply)
		return ok
	})
	switch {
	case err != nil:
		return power.Finding{Level: power.Warning, About: about, What: "it is not known which the BMC allows: " + err.Error()}
	case c.anonymous:
		return power.Finding{Level: power.Wrong, About: about, What: "the BMC allows logins without a user name and a password",
			Mend: "disable its user 1, or give it a name and a password"}
	case c.noAuth:
		return power.Finding{Level: power.Wrong, About: about, What: "the BMC allows IPMI 1.5 sessions at OPERATOR level without authentication",
			Mend: "ipmitool lan set 1 auth OPERATOR MD5, or switch IPMI 1.5 off"}
	case c.nullUser:
		return power.Finding{Level: power.Warning, About: about, What: "the BMC allows a user without a name, for which a password is enough",
			Mend: "disable its user 1, or give it a name"}
	}
	return power.Finding{About: about, What: "a user name and a password are wanted"}
}

// probe sends a datagram until an answer is understood.
func (d *Driver) probe(ctx context.Context, datagram []byte, understood func(reply []byte) bool) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "udp", d.config.address)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is lost with it
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	reply := make([]byte, maxDatagram)
	for range probeTries {
		if _, err := conn.Write(datagram); err != nil {
			return err
		}
		for end := time.Now().Add(probeWait); ; {
			if ctx.Err() != nil {
				return cause(ctx)
			}
			_ = conn.SetReadDeadline(end)
			n, err := conn.Read(reply)
			if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
				break // once more
			}
			if err != nil {
				return err
			}
			if understood(reply[:n]) {
				return nil
			}
		}
	}
	return errNoAnswer
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// auditClock compares the clock of the BMC's event log with ours (Get SEL Time,
// IPMI 2.0 section 31.10). Logs of a power failure are worth little without.
func (d *Driver) auditClock(ctx context.Context) []power.Finding {
	var theirs, ours time.Time
	err := d.pass(ctx, "read clock", func(ctx context.Context) (*session, error) {
		s, _, err := d.open(ctx, false)
		if err != nil {
			return nil, err
		}
		return s, guarded(func() error {
			got, err := s.client.GetSELTime(ctx)
			if err != nil {
				return s.readError(err)
			}
			theirs, ours = got.Time, time.Now()
			return nil
		})
	})
	if err != nil {
		return nil // it has none to tell, or the reading of the power says more
	}
	return []power.Finding{power.ClockFinding("the BMC's event log", theirs, ours)}
}

var _ power.Auditor = (*Driver)(nil)
