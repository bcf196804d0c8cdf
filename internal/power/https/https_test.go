package https

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/power/powertest/loopback"
)

func TestParseEndpoint(t *testing.T) {
	for text, want := range map[string]string{
		"https://api.example.net":             "https://api.example.net",
		"https://api.example.net:8443/v1/":    "https://api.example.net:8443/v1",
		"https://[fd00::17]/":                 "https://[fd00::17]",
		"api.example.net":                     "is not a URL",
		"https://":                            "is not a URL",
		"https:///v1":                         "is not a URL",
		"http://api.example.net":              "is not over TLS",
		"ftp://api.example.net":               "is not over TLS",
		"https://user:sesame@api.example.net": "contains a user name",
		"https://api.example.net?a=b":         "has a query",
		"https://api.example.net#a":           "has a query",
		"https://a b":                         "is not a URL",
	} {
		u, err := ParseEndpoint(text)
		if got := fmt.Sprint(u, err); !strings.Contains(got, want) || strings.Contains(got, "sesame") {
			t.Errorf("%s: %v, %v, want %s", text, u, err, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 5 * time.Second, "x": 5 * time.Second, "-1": 5 * time.Second, "0": 0, "7": 7 * time.Second, "99999": time.Minute,
		"999999999999999999999": 5 * time.Second, "Sun, 22 Nov 2026 12:00:20 GMT": 20 * time.Second, "Sun, 22 Nov 2026 11:00:00 GMT": 0,
	} {
		if got := RetryAfter(http.Header{"Retry-After": {text}}, now, 5*time.Second, time.Minute); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

func TestBrief(t *testing.T) {
	const secret = "pass\"word\u00e9"
	for _, text := range []string{secret, `{"p":"pass\"wordé"}`, strings.Repeat("a ", 150) + secret} {
		if got := Brief(text, "", secret); strings.Contains(got, "word") {
			t.Errorf("%s spills: %s", text, got)
		}
	}
	if got := Brief(" a\n\tb\x1b[2J\x00 "); got != "a b [2J" {
		t.Errorf("%q", got)
	}
	if got := Brief(strings.Repeat("é", 500)); len(got) > 410 || !strings.HasSuffix(got, "é…") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

// What an exchange proves: that nothing was sent, that something may have
// arrived, and what was answered.
func TestExchange(t *testing.T) {
	s := loopback.Start(t, loopback.Options{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("User-Agent") != "gpupool" {
			t.Errorf("it is asked by %s", r.Header.Get("User-Agent"))
		}
		if r.URL.Path == "/elsewhere" {
			http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusFound)
		}
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
	}))
	to, err := ParseEndpoint(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Trust{Fingerprint: s.Fingerprint}.Client(2, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	ask := func(limit time.Duration, target string) (written bool, status int, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		ctx, seen := Watch(ctx)
		if written, status, _ := seen.Seen(); written || status != 0 {
			t.Error("something was seen before anything was sent")
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = Send(c, req)
		if cause := seen.Cause(errors.New("flattened")); err != nil && !errors.Is(cause, err) {
			t.Errorf("%v is said to be caused by %v", err, cause)
		}
		written, status, _ = seen.Seen()
		return written, status, err
	}
	for _, x := range []struct {
		target  string
		limit   time.Duration
		written bool
		status  int
		err     error
	}{
		{s.URL, 20 * time.Second, true, 200, nil},
		{s.URL + "/elsewhere", 20 * time.Second, true, 302, nil},
		{s.URL + "/hang", 200 * time.Millisecond, true, 0, context.DeadlineExceeded},
		{s.URL, 0, false, 0, context.DeadlineExceeded},
		{"https://127.0.0.1:1/", 20 * time.Second, false, 0, errElsewhere},
		{strings.Replace(s.URL, "https", "http", 1), 20 * time.Second, false, 0, errElsewhere},
	} {
		if written, status, err := ask(x.limit, x.target); written != x.written || status != x.status || !errors.Is(err, x.err) {
			t.Errorf("%s in %s: written %t, status %d, %v, want %t, %d, %v", x.target, x.limit, written, status, err, x.written, x.status, x.err)
		}
	}
}

// Without a list of hosts everything goes, over TLS.
func TestAllow(t *testing.T) {
	for target, good := range map[string]bool{"https://a.example.net/x": true, "http://a.example.net/x": false} {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		if err := allow(nil)(&http.Request{URL: u}); (err == nil) != good {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestTrustReportsEverything(t *testing.T) {
	text := fmt.Sprint(errors.Join(Trust{CAFile: "x", Fingerprint: "x", Insecure: true}.Validate()...))
	for _, key := range []string{"fingerprint: ", "insecure_skip_verify: "} {
		if !strings.Contains(text, key) {
			t.Errorf("no word of %s in %s", key, text)
		}
	}
	if _, err := (Trust{CAFile: "/no/such/file"}).Client(1); !strings.Contains(fmt.Sprint(err), "ca_file: ") {
		t.Errorf("%v", err)
	}
}
