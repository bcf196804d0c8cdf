package httplimit

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestTransport(t *testing.T) {
	for name, test := range map[string]struct {
		size int
		ok   bool
	}{
		"empty":         {0, true},
		"exactly full":  {1000, true},
		"one too large": {1001, false},
		"far too large": {1 << 20, false},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, strings.Repeat("x", test.size))
			}))
			defer srv.Close()

			client := http.Client{Transport: Transport{Base: http.DefaultTransport, Max: 1000}}
			resp, err := client.Get(srv.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if test.ok && (err != nil || len(got) != test.size) {
				t.Errorf("read %d bytes of %d: %v", len(got), test.size, err)
			}
			if !test.ok && err == nil {
				t.Errorf("%d bytes were read without an error", len(got))
			}
		})
	}
}
