package ipmitest

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// gate is a socket that can be shut: then it reads nothing more until it is
// closed.
type gate struct {
	*net.UDPConn
	shut   atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (g *gate) ReadFrom(p []byte) (int, net.Addr, error) {
	n, addr, err := g.UDPConn.ReadFrom(p)
	if err == nil && g.shut.Load() {
		<-g.closed
		return 0, nil, net.ErrClosed
	}
	return n, addr, err
}

func (g *gate) Close() error {
	g.once.Do(func() { close(g.closed) })
	return g.UDPConn.Close()
}

// Kind is what a packet of RMCP+ carries.
type Kind string

// The kinds of packet that a session consists of, in order. The first is a
// question in the older format, the last is a request inside of the session or
// its reply.
const (
	Capabilities        Kind = "capabilities"
	OpenSessionRequest  Kind = "open-session-request"
	OpenSessionResponse Kind = "open-session-response"
	RAKP1               Kind = "rakp1"
	RAKP2               Kind = "rakp2"
	RAKP3               Kind = "rakp3"
	RAKP4               Kind = "rakp4"
	Command             Kind = "command"
	Other               Kind = "other"
)

func kindOf(p []byte) Kind {
	const rmcp, plus = 4, 0x06
	switch {
	case len(p) <= rmcp+1:
		return Other
	case p[rmcp] != plus:
		return Capabilities
	}
	switch p[rmcp+1] & 0x3f { // payload type: IPMI 2.0 table 13-16
	case 0x00:
		return Command
	case 0x10:
		return OpenSessionRequest
	case 0x11:
		return OpenSessionResponse
	case 0x12:
		return RAKP1
	case 0x13:
		return RAKP2
	case 0x14:
		return RAKP3
	case 0x15:
		return RAKP4
	}
	return Other
}

// Packet is one datagram on a [Link].
type Packet struct {
	Kind  Kind
	Reply bool   // from the BMC
	Flow  int    // which client socket it belongs to, from 1 in order of appearance
	N     int    // which of its kind and direction in its flow, from 1
	Data  []byte // may be changed in place
}

// Link is a UDP relay in front of a BMC that can lose and garble packets.
type Link struct {
	Addr netip.AddrPort // where clients find it

	front *net.UDPConn
	to    *net.UDPAddr
	rule  atomic.Pointer[func(Packet) []byte]
	delay atomic.Int64 // of replies, in nanoseconds
	done  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	flows  map[netip.AddrPort]*flow
	counts map[Kind]int
}

// flow is the traffic of one client socket.
type flow struct {
	number int
	back   *net.UDPConn
	seen   map[bool]map[Kind]int // by direction
}

// NewLink relays to a BMC. It passes everything at first, and ends with the
// test.
func NewLink(t testing.TB, to netip.AddrPort) *Link {
	t.Helper()
	front, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(Loopback(), 0)))
	if err != nil {
		t.Fatalf("listen for the link: %v", err)
	}
	l := &Link{
		Addr:   front.LocalAddr().(*net.UDPAddr).AddrPort(),
		front:  front,
		to:     net.UDPAddrFromAddrPort(to),
		flows:  make(map[netip.AddrPort]*flow),
		counts: make(map[Kind]int),
	}
	l.done.Go(l.forward)
	t.Cleanup(l.Close)
	return l
}

// Rule sets what becomes of each packet from now on: the rule returns the bytes
// to deliver, or nil to lose it. A nil rule passes everything.
func (l *Link) Rule(rule func(Packet) []byte) {
	if rule == nil {
		l.rule.Store(nil)
		return
	}
	l.rule.Store(&rule)
}

// Lose loses every packet for which the rule holds.
func (l *Link) Lose(rule func(Packet) bool) {
	l.Rule(func(p Packet) []byte {
		if rule(p) {
			return nil
		}
		return p.Data
	})
}

// Delay delivers each reply of the BMC so much later, as a slow one would
// answer.
func (l *Link) Delay(d time.Duration) { l.delay.Store(int64(d)) }

// Count is the number of packets of a kind that arrived at the link, lost ones
// included.
func (l *Link) Count(kind Kind) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[kind]
}

// Close ends the relay: nothing listens at its address any more. It may be
// called more than once.
func (l *Link) Close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		_ = l.front.Close()
		for _, f := range l.flows {
			_ = f.back.Close()
		}
	}
	l.mu.Unlock()
	l.done.Wait()
}

func (l *Link) forward() {
	buf := make([]byte, 4096)
	for {
		n, from, err := l.front.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		f := l.flow(from)
		if f == nil {
			return
		}
		if out := l.judge(f, false, buf[:n]); out != nil {
			_, _ = f.back.Write(out)
		}
	}
}

func (l *Link) backward(f *flow, client netip.AddrPort) {
	buf := make([]byte, 4096)
	for {
		n, err := f.back.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the BMC is gone: the client sees a black hole
		}
		out := l.judge(f, true, buf[:n])
		switch d := time.Duration(l.delay.Load()); {
		case out == nil:
		case d == 0:
			_, _ = l.front.WriteToUDPAddrPort(out, client)
		default:
			late := bytes.Clone(out)
			time.AfterFunc(d, func() { _, _ = l.front.WriteToUDPAddrPort(late, client) }) // fails once the link is closed
		}
	}
}

// flow returns the flow of a client socket, nil if the link is closed.
func (l *Link) flow(client netip.AddrPort) *flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.flows[client]; f != nil || l.closed {
		return f
	}
	back, err := net.DialUDP("udp", nil, l.to)
	if err != nil {
		return nil
	}
	f := &flow{
		number: len(l.flows) + 1,
		back:   back,
		seen:   map[bool]map[Kind]int{false: {}, true: {}},
	}
	l.flows[client] = f
	l.done.Go(func() { l.backward(f, client) })
	return f
}

// judge counts a packet and asks the rule.
func (l *Link) judge(f *flow, reply bool, data []byte) []byte {
	kind := kindOf(data)
	l.mu.Lock()
	l.counts[kind]++
	f.seen[reply][kind]++
	p := Packet{Kind: kind, Reply: reply, Flow: f.number, N: f.seen[reply][kind], Data: data}
	l.mu.Unlock()
	if rule := l.rule.Load(); rule != nil {
		return (*rule)(p)
	}
	return data
}
