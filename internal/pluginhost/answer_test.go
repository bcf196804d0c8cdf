package pluginhost

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// TestAnswerWaitsForItsAddress: an address that somebody else has is no reason
// to fail, and one that is given back is taken.
func TestAnswerWaitsForItsAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	said := new(lockedBuffer)
	log := hclog.New(&hclog.LoggerOptions{Output: said})
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not so: %s\n%s", what, said.String())
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Answer(ctx, address, http.NotFoundHandler(), log)
	}()
	until("it says so", func() bool {
		return strings.Contains(said.String(), "not served") && strings.Contains(said.String(), address)
	})
	cancel()
	<-done
	_ = l.Close()

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	go Answer(ctx, address, http.NotFoundHandler(), log)
	until("it answers", func() bool {
		resp, err := http.Get("http://" + address + "/")
		if err != nil {
			return false
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.Body.Close() == nil
	})
}
