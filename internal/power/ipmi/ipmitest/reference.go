package ipmitest

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/hal"
	"github.com/bougou/go-ipmi/pkg/hal/mock"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/types"
)

// reference is go-ipmi's BMC server with a chassis of ours.
type reference struct {
	server  *server.Server
	conn    *gate
	chassis *chassis
	cancel  context.CancelFunc
	served  chan struct{}
	end     sync.Once
}

// Reference serves go-ipmi's BMC in this process. It offers cipher suites 17
// and 3, and ends with the test.
func Reference(t testing.TB) *BMC {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(Loopback(), 0)))
	if err != nil {
		t.Fatalf("listen for the reference BMC: %v", err)
	}
	r := &reference{
		conn:    &gate{UDPConn: conn, closed: make(chan struct{})},
		chassis: &chassis{Chassis: new(mock.Chassis)},
		served:  make(chan struct{}),
	}
	b := bmc.New(bmc.DeviceInfo{DeviceID: 0x20, IPMIVersion: 0x20, ManufacturerID: 0x157, ProductID: 1},
		[16]byte{0xa1, 0x23}, board{mock.New(), r.chassis})
	addUser(t, b)
	r.server = server.NewServer(b, r.conn, server.WithCipherSuites([]types.CipherSuiteID{types.CipherSuiteID3, types.CipherSuiteID17}))
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.served)
		_ = r.server.Serve(ctx)
	}()
	t.Cleanup(r.stop)
	return &BMC{Addr: conn.LocalAddr().(*net.UDPAddr).AddrPort(), Suite: 17, t: t, sim: r}
}

func addUser(t testing.TB, b *bmc.BMC) {
	t.Helper()
	u, err := b.Users.Add(2, Username)
	if err != nil {
		t.Fatalf("add a user to the reference BMC: %v", err)
	}
	u.SetPassword([]byte(Password))
	u.Enabled = true
	u.ChannelAccess[1] = bmc.UserChannelAccess{MaxPrivilege: bmc.PrivilegeLevelOperator, Enabled: true}
}

func (r *reference) power() bool {
	on, _ := r.chassis.PowerState(context.Background())
	return on
}

func (r *reference) setPower(on bool) {
	r.chassis.mu.Lock()
	defer r.chassis.mu.Unlock()
	r.chassis.on = on
}

func (r *reference) executions() int {
	r.chassis.mu.Lock()
	defer r.chassis.mu.Unlock()
	return r.chassis.done
}

func (r *reference) fail(f fault) {
	r.chassis.mu.Lock()
	defer r.chassis.mu.Unlock()
	r.chassis.fault = f
}

func (r *reference) hang() { r.conn.shut.Store(true) }

func (r *reference) stop() {
	r.end.Do(func() {
		r.cancel()
		_ = r.server.Close()
		<-r.served
	})
}

// board is a mainboard with our chassis on it.
type board struct {
	*mock.HAL
	chassis *chassis
}

func (b board) Chassis() hal.ChassisHAL { return b.chassis }

// chassis carries out power commands, or fails to.
type chassis struct {
	*mock.Chassis // for what no test here asks for

	mu    sync.Mutex
	on    bool
	done  int
	fault fault
}

// PowerState is what Get Chassis Status reads.
func (c *chassis) PowerState(context.Context) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.on, nil
}

// SetPower is Chassis Control 00h and 01h.
func (c *chassis) SetPower(_ context.Context, on bool) error { return c.change(on, false) }

// WarmReset is what go-ipmi calls on Chassis Control 05h, soft shutdown.
func (c *chassis) WarmReset(context.Context) error { return c.change(false, true) }

func (c *chassis) change(on, soft bool) error {
	c.mu.Lock()
	f := c.fault
	c.mu.Unlock()
	switch {
	case f.refuse:
		return types.CompletionCode(0xd5) // not supported in present state
	case f.noSoft && soft:
		return types.CompletionCode(0xcc) // invalid data field in request
	}
	time.Sleep(f.late)
	c.mu.Lock()
	defer c.mu.Unlock()
	if on && c.on {
		return nil
	}
	c.on = on
	c.done++
	return nil
}
