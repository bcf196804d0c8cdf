// Package httplimit bounds how much of an HTTP response is read, for clients
// that decode whatever a server sends, and how many requests a server answers at
// a time.
package httplimit

import (
	"fmt"
	"io"
	"net/http"
)

// Transport reads at most Max bytes of each response body. A longer body ends
// in an error, never in a silently shortened value.
type Transport struct {
	Base http.RoundTripper
	Max  int64 // bytes
}

// RoundTrip sends the request with Base.
func (t Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.Base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &body{ReadCloser: resp.Body, left: t.Max, max: t.Max}
	return resp, nil
}

// CloseIdleConnections lets http.Client reach Base's idle connections.
func (t Transport) CloseIdleConnections() {
	if c, ok := t.Base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

type body struct {
	io.ReadCloser
	left, max int64
}

func (b *body) Read(p []byte) (int, error) {
	// One byte more than allowed is asked for, because only that tells a body
	// of exactly max bytes from a longer one.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return 0, fmt.Errorf("response is larger than %d bytes", b.max)
	}
	return n, err
}

// InFlight answers at most n requests at a time, and refuses more.
func InFlight(n int, next http.Handler) http.Handler {
	slots := make(chan struct{}, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		default:
			http.Error(w, "too many requests at a time", http.StatusServiceUnavailable)
		}
	})
}
