package consul_test

import (
	"net"
	"sync"
	"testing"
)

// proxy passes TCP on, until it is cut: then bytes vanish without a word.
type proxy struct {
	addr string

	mu  sync.Mutex
	on  *sync.Cond
	off bool
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String()}
	p.on = sync.NewCond(&p.mu)
	t.Cleanup(func() { _ = l.Close(); p.mend() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			go p.pipe(in, out)
			go p.pipe(out, in)
		}
	}()
	return p
}

func (p *proxy) pipe(dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		p.mu.Lock()
		for p.off {
			p.on.Wait()
		}
		p.mu.Unlock()
		if _, werr := dst.Write(buf[:n]); werr != nil || err != nil {
			return
		}
	}
}

func (p *proxy) cut() { p.set(true) }

func (p *proxy) mend() { p.set(false) }

func (p *proxy) set(off bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = off
	p.on.Broadcast()
}
