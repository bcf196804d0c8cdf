package devbin

import (
	"context"
	"net"
)

// FreePorts returns n ports of an address that nobody listens on, over TCP or
// UDP, for a program that cannot be told to choose its own. Another process may
// take one meanwhile: give each program an address of its own.
func FreePorts(t failer, host string, n int) []int {
	t.Helper()
	var lc net.ListenConfig
	ctx := context.Background()
	var ports []int
	for len(ports) < n {
		tcp, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close() //nolint:errcheck // at the end, so that no port comes twice
		port := tcp.Addr().(*net.TCPAddr).Port
		udp, err := lc.ListenPacket(ctx, "udp", tcp.Addr().String())
		if err != nil {
			continue
		}
		_ = udp.Close()
		ports = append(ports, port)
	}
	return ports
}
