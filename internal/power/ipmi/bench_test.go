package ipmi_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/power/ipmi"
	"github.com/gpupool/gpupool/internal/power/ipmi/ipmitest"
)

func benchDriver(b *testing.B, bmc *ipmitest.BMC) *ipmi.Driver {
	b.Helper()
	d, err := ipmi.New(ipmi.Config{
		Address: bmc.Addr.String(), Username: ipmitest.Username, Password: ipmitest.Password,
		CipherSuite: &bmc.Suite, MinInterval: "0s",
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = d.Close() })
	return d
}

// BenchmarkState reads one BMC: a login, the read and a logout.
func BenchmarkState(b *testing.B) {
	for name, start := range simulators {
		b.Run(name, func(b *testing.B) {
			d := benchDriver(b, start(b))
			for b.Loop() {
				ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
				if _, err := d.State(ctx); err != nil {
					b.Fatal(err)
				}
				cancel()
			}
		})
	}
}

// BenchmarkState64 sweeps 64 BMCs at once, as a poller does.
func BenchmarkState64(b *testing.B) {
	for name, start := range simulators {
		b.Run(name, func(b *testing.B) {
			drivers := make([]*ipmi.Driver, 64)
			for i := range drivers {
				drivers[i] = benchDriver(b, start(b))
			}
			for b.Loop() {
				ctx, cancel := context.WithTimeout(b.Context(), 20*time.Second)
				var wg sync.WaitGroup
				for _, d := range drivers {
					wg.Go(func() {
						if _, err := d.State(ctx); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
				cancel()
			}
		})
	}
}
