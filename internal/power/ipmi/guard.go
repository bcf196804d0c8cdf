package ipmi

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/bougou/go-ipmi/pkg/crypto"
	"github.com/bougou/go-ipmi/pkg/types"
)

// Sizes and offsets of RMCP and RMCP+ packets: IPMI 2.0 section 13.1.3 and table
// 13-8. A session header starts after the RMCP header.
const (
	rmcpSize       = 4
	header20Size   = 12 // session header of RMCP+, non-OEM payloads
	header20Auth   = 0  // authentication type, 06h for RMCP+
	header20Type   = 1  // payload type and its two flags
	header20ID     = 2  // session ID, least significant byte first
	header20Seq    = 6  // session sequence number, likewise
	header20Length = 10 // payload length, likewise

	flagEncrypted     = 0x80
	flagAuthenticated = 0x40
	flagMask          = flagEncrypted | flagAuthenticated

	// IPMI 1.5 session header without authentication code: the same table.
	header15Size   = 10
	header15Auth   = 0 // authentication type
	header15Length = 9 // payload length

	// A message of IPMI, request and response alike.
	messageSeq     = 4
	messageCommand = 5
	messageSize    = 7 // the least, of a response

	rmcpVersion   = 0x06
	rmcpClassIPMI = 0x07
	rmcpPlus      = 0x06
)

var (
	// errAborted is what a read returns after [guard.abort].
	errAborted = errors.New("call ended")
	// errUnanswered is what a read returns when a request was sent as often as it
	// may be, and not answered.
	errUnanswered = errors.New("not answered")
	// errWeaker is what a read returns when the BMC picked other algorithms.
	errWeaker = errors.New("BMC picked another cipher suite")
)

// guard is the socket of one session. It stands between go-ipmi and the
// network because go-ipmi v0.9.1 takes on trust what it receives: it does not
// check the authentication code, the session or the encryption of a reply, it
// accepts whatever algorithms the other side picks, and a garbled ciphertext
// makes it panic in a goroutine of its own, which ends the process. The guard
// lets only such packets pass that the BMC we logged in to has signed.
//
// It also repeats what was lost: see [guard.again]. And it remembers what was sent
// and what came back, so that errors need not be classified by the text of
// go-ipmi's messages.
type guard struct {
	net.Conn
	pace       *pace
	suite      types.CipherSuiteID
	auth       types.AuthAlg
	integrity  types.IntegrityAlg
	encryption types.CryptAlg
	username   string
	password   string

	mu       sync.Mutex
	aborted  bool
	deadline time.Time     // of the pending read
	patience int           // how often all waits are doubled
	times    int           // how often a request may be sent
	least    time.Duration // the least wait for an answer

	request []byte        // the last request, as it was sent last
	tries   int           // how often it was sent
	wait    time.Duration // how long its last sending waits
	at      time.Time     // when that was

	sent    int    // datagrams handed to the network
	extra   uint32 // of them: packets inside of the session that go-ipmi does not know of
	refused bool   // the network said that nothing listens there
	dropped int    // replies that did not pass

	mixed    bool              // RAKP message 1 was repeated, in this session
	awaiting types.PayloadType // payload of the last request
	plain    bool              // the last request was in IPMI 1.5 format, before the session
	question [2]byte           // its sequence number and command, unless it is of the session setup
	answered bool              // it was answered by a packet that passed
	done     bool              // a repeat of it was complained of: the answer to the first was lost
	weaker   bool              // the BMC picked other algorithms than were asked for
	status   types.RmcpStatusCode

	consoleID   [4]byte // our session ID
	consoleRand [16]byte
	role        byte
	k1, k2      []byte // set when RAKP 2 came
}

func newGuard(conn net.Conn, s settings, p *pace) *guard {
	g := &guard{Conn: conn, pace: p, suite: s.suite, username: s.username, password: s.password.Reveal(), times: usualTimes}
	g.auth, g.integrity, g.encryption, _ = types.GetCipherSuiteAlgorithms(s.suite)
	return g
}

// usualTimes is how often a request is sent that does no harm when it is
// repeated. With one packet in twenty lost in each direction, one exchange in a
// hundred thousand is not answered then.
const usualTimes = 5

// send sets how often each request from now on may be sent, and how long its
// answer is waited for at least.
func (g *guard) send(times int, least time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.times, g.least = times, least
}

// Write sends one datagram and notes what it asks for.
func (g *guard) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.note(p)
	g.request, g.tries, g.done = bytes.Clone(p), 0, false
	g.wait = max(g.pace.wait()<<g.patience, g.least)
	if g.extra > 0 {
		g.restamp(g.extra)
	}
	return len(p), g.hand()
}

// again sends the last request once more. A request inside of the session goes
// out under its own number, so that the answer to any sending is the answer, and
// under a session sequence number of its own, without which a BMC drops it as a
// copy (IPMI 2.0 section 6.12.13). A login that is given up for one lost packet
// keeps one of the BMC's few sessions for a minute, so its messages are repeated
// too, each under a tag of its own: a BMC that had only been slow answers each
// RAKP message 1 with another random number, and only its last counts.
func (g *guard) again() error {
	g.wait = longer(g.wait, g.tries)
	switch {
	case g.plain:
	case !g.setup():
		g.extra++
		g.restamp(1)
	case len(g.request) > tagOffset:
		g.request[tagOffset]++
		g.mixed = g.mixed || g.awaiting == types.PayloadTypeRAKPMessage1
	}
	if err := g.hand(); err != nil {
		return err
	}
	return g.listen()
}

// hand gives the last request to the network.
func (g *guard) hand() error {
	_, err := g.Conn.Write(g.request)
	switch {
	case err == nil:
		g.sent++
	case errors.Is(err, syscall.ECONNREFUSED):
		g.refused = true
	}
	g.tries++
	g.at = time.Now()
	return err
}

// listen bounds the pending read by the time when the request is to be repeated.
func (g *guard) listen() error {
	t := g.at.Add(g.wait)
	if !g.deadline.IsZero() && g.deadline.Before(t) {
		t = g.deadline
	}
	return g.Conn.SetReadDeadline(t)
}

// restamp moves the session sequence number of the last request on, and signs it
// anew. What it says stays as it was encrypted.
func (g *guard) restamp(by uint32) {
	size, known := crypto.IntegrityAuthCodeLen(g.integrity)
	if g.setup() || !known || g.k1 == nil || len(g.request) < rmcpSize+header20Size+size {
		return
	}
	signed := g.request[rmcpSize : len(g.request)-size]
	seq := signed[header20Seq:]
	binary.LittleEndian.PutUint32(seq, binary.LittleEndian.Uint32(seq)+by)
	if code, err := crypto.SessionIntegrityAuthCode(g.integrity, signed, g.k1, g.password); err == nil {
		copy(g.request[len(g.request)-size:], code)
	}
}

// tagOffset is where a message of the session setup has its tag, which the reply
// repeats: IPMI 2.0 tables 13-9 to 13-14.
const tagOffset = rmcpSize + header20Size

// setup says whether the last request is of the session setup.
func (g *guard) setup() bool {
	return !g.plain && g.awaiting != types.PayloadTypeIPMI
}

// Read returns the next datagram that passes. Others are dropped, as if the
// network had lost them.
func (g *guard) Read(p []byte) (int, error) {
	for {
		n, err := g.Conn.Read(p)
		if done, err := g.received(p[:n], err); done {
			return n, err
		}
	}
}

// received says whether a read is over, and with what.
func (g *guard) received(p []byte, err error) (done bool, _ error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.aborted:
		return true, errAborted
	case errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(g.deadline):
		if g.tries >= g.times {
			return true, errUnanswered
		}
		err := g.again()
		return err != nil, err
	case err != nil:
		g.refused = g.refused || errors.Is(err, syscall.ECONNREFUSED)
		return true, err
	case g.admit(p):
		g.answered = true
		if g.tries == 1 {
			g.pace.answered(time.Since(g.at))
		}
		return true, nil
	case g.done:
		return true, errUnanswered
	case g.weaker:
		return true, errWeaker
	}
	g.dropped++
	return false, nil
}

// SetReadDeadline bounds the wait for the reply to the last request, a repeat
// of it included. It cannot undo an abort.
func (g *guard) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.aborted {
		return errAborted
	}
	g.deadline = t
	return g.listen()
}

// abort makes the pending read and all later ones return at once. go-ipmi
// itself holds its socket until the read deadline when a context is cancelled.
// Writing stays possible, so that a last Close Session can be sent.
func (g *guard) abort() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.aborted = true
	_ = g.Conn.SetReadDeadline(time.Unix(1, 0))
}

// seen is what a guard knows when a call has failed.
type seen struct {
	sent     int
	dropped  int
	answered bool
	refused  bool
	weaker   bool
	mixed    bool
	status   types.RmcpStatusCode
}

func (g *guard) seen() seen {
	g.mu.Lock()
	defer g.mu.Unlock()
	return seen{g.sent, g.dropped, g.answered, g.refused, g.weaker, g.mixed, g.status}
}

// note remembers of a request what its reply is checked against.
func (g *guard) note(p []byte) {
	g.answered = false
	head, payload, ok := parse20(p)
	if g.plain = !ok; g.plain {
		if message, ok := parse15(p); ok {
			g.question = [2]byte(message[messageSeq : messageCommand+1])
		}
		return
	}
	g.awaiting = head.payload
	switch head.payload {
	case types.PayloadTypeRmcpOpenSessionRequest:
		if len(payload) >= 8 {
			copy(g.consoleID[:], payload[4:8])
		}
	case types.PayloadTypeRAKPMessage1:
		if len(payload) >= 28 {
			copy(g.consoleRand[:], payload[8:24])
			g.role = payload[24]
		}
	case types.PayloadTypeIPMI:
		if message, ok := g.decrypt(payload); ok {
			g.question = [2]byte(message[messageSeq : messageCommand+1])
		}
	}
}

// admit says whether a reply may reach go-ipmi.
func (g *guard) admit(p []byte) bool {
	if len(p) <= rmcpSize || p[0] != rmcpVersion || p[3] != rmcpClassIPMI {
		return false
	}
	head, payload, is20 := parse20(p)
	if g.plain {
		// Only Get Channel Authentication Capabilities is asked in this format.
		message, is15 := parse15(p)
		return is15 && [2]byte(message[messageSeq:messageCommand+1]) == g.question
	}
	if !is20 {
		return false
	}
	switch g.awaiting {
	case types.PayloadTypeRmcpOpenSessionRequest:
		return head.payload == types.PayloadTypeRmcpOpenSessionResponse && g.admitSetup(payload) && g.admitSuite(payload)
	case types.PayloadTypeRAKPMessage1:
		return head.payload == types.PayloadTypeRAKPMessage2 && g.admitSetup(payload) && g.admitRAKP2(payload)
	case types.PayloadTypeRAKPMessage3:
		return head.payload == types.PayloadTypeRAKPMessage4 && g.admitSetup(payload)
	case types.PayloadTypeIPMI:
		return head.payload == types.PayloadTypeIPMI && g.admitSigned(head, payload, p[rmcpSize:])
	}
	return false
}

// admitSetup passes a reply of the session setup that is meant for our
// session, and notes its status. The three kinds have status and our session
// ID in the same place. On an error some BMCs leave the ID zero, or out.
func (g *guard) admitSetup(payload []byte) bool {
	if len(payload) < 2 {
		return false
	}
	status := types.RmcpStatusCode(payload[1])
	if g.tries > 1 && !g.admitRepeat(payload[0], status) {
		return false
	}
	var id [4]byte
	if len(payload) >= 8 {
		id = [4]byte(payload[4:8])
	}
	if id != g.consoleID && (status == types.RmcpStatusCodeNoErrors || id != [4]byte{}) {
		return false
	}
	g.status = status
	return true
}

// admitRepeat passes the reply to a message of the session setup that was sent
// more than once. A complaint is about the copy, by a BMC that was done with the
// first, whose answer was lost.
func (g *guard) admitRepeat(tag byte, status types.RmcpStatusCode) bool {
	switch {
	case status != types.RmcpStatusCodeNoErrors:
		g.done = g.awaiting == types.PayloadTypeRAKPMessage3
		return false
	case g.awaiting == types.PayloadTypeRAKPMessage1:
		return tag == g.request[tagOffset]
	}
	return true
}

// admitSuite passes an Open Session response that agrees to the suite that was
// asked for. A BMC, or whoever answers for it, that picks another one could
// turn authentication off.
func (g *guard) admitSuite(payload []byte) bool {
	if g.status != types.RmcpStatusCodeNoErrors {
		return true
	}
	if len(payload) < 36 {
		return false
	}
	g.weaker = types.AuthAlg(payload[16]&0x3f) != g.auth ||
		types.IntegrityAlg(payload[24]&0x3f) != g.integrity ||
		types.CryptAlg(payload[32]&0x3f) != g.encryption
	return !g.weaker
}

// admitRAKP2 derives the keys that the BMC signs and encrypts with. Whether
// the BMC knows the password is go-ipmi's to check.
func (g *guard) admitRAKP2(payload []byte) bool {
	if g.status != types.RmcpStatusCodeNoErrors {
		return true
	}
	if len(payload) < 40 {
		return false
	}
	kuid := crypto.PadPassword20([]byte(g.password))
	_, k1, k2, err := crypto.DeriveSessionKeys(g.auth, g.consoleRand[:], payload[8:24], g.role, g.username, kuid)
	g.k1, g.k2 = k1, k2
	return err == nil
}

// admitSigned passes a reply of our session that is encrypted and signed with
// its keys (IPMI 2.0 section 13.28.4), and answers the last request: a late answer
// to one that was repeated must not be taken for the next one's. signed starts at
// the session header.
func (g *guard) admitSigned(head header20, payload, signed []byte) bool {
	size, known := crypto.IntegrityAuthCodeLen(g.integrity)
	if g.k1 == nil || !known || head.flags != flagMask || head.id != g.consoleID {
		return false
	}
	covered := header20Size + len(payload)
	covered += types.IntegrityPadLen(header20Size, len(payload)) + 2 // pad length, next header
	if len(signed) < covered+size {
		return false
	}
	want, err := crypto.SessionIntegrityAuthCode(g.integrity, signed[:covered], g.k1, g.password)
	if err != nil || !hmac.Equal(want, signed[covered:covered+size]) {
		return false
	}
	message, ok := g.decrypt(payload)
	return ok && [2]byte(message[messageSeq:messageCommand+1]) == g.question
}

// decrypt returns the message of a payload, if go-ipmi will survive decrypting it
// too: an IV, whole blocks, and a pad that is not longer than what it pads.
func (g *guard) decrypt(payload []byte) (message []byte, ok bool) {
	const block = 16
	if g.k2 == nil || len(payload) < 2*block || len(payload)%block != 0 {
		return nil, false
	}
	message, err := crypto.DecryptAESPayload(payload, g.k2)
	return message, err == nil && len(message) >= messageSize
}

// header20 is the session header of an RMCP+ packet.
type header20 struct {
	payload types.PayloadType
	flags   byte
	id      [4]byte
}

// parse20 splits an RMCP+ packet. It is false for any other packet.
func parse20(p []byte) (header20, []byte, bool) {
	if len(p) < rmcpSize+header20Size || p[rmcpSize+header20Auth] != rmcpPlus {
		return header20{}, nil, false
	}
	h := p[rmcpSize:]
	size := int(binary.LittleEndian.Uint16(h[header20Length:]))
	if len(h) < header20Size+size {
		return header20{}, nil, false
	}
	head := header20{
		payload: types.PayloadType(h[header20Type] &^ flagMask),
		flags:   h[header20Type] & flagMask,
		id:      [4]byte(h[header20ID : header20ID+4]),
	}
	return head, h[header20Size : header20Size+size], true
}

// parse15 returns the message of an IPMI 1.5 packet that is not authenticated.
// It is false for any other packet.
func parse15(p []byte) (message []byte, ok bool) {
	if len(p) < rmcpSize+header15Size+messageSize || p[rmcpSize+header15Auth] != 0 {
		return nil, false
	}
	h := p[rmcpSize:]
	size := int(h[header15Length])
	if size < messageSize || len(h) < header15Size+size {
		return nil, false
	}
	return h[header15Size : header15Size+size], true
}
