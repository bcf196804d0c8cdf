package openstack

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
)

func TestParseFailure(t *testing.T) {
	for body, want := range map[string]string{
		`{"conflictingRequest": {"code": 409, "message": "Cannot 'stop' instance while it is in vm_state stopped"}}`: "conflictingRequest",
		`{"forbidden": {"code": 403, "message": "Quota exceeded for instances: Requested 1, but already used 10"}}`:  "QuotaExceeded",
		`{"error": {"code": 401, "message": "The request you have made requires authentication.", "title": "x"}}`:    "error",
		`{"badRequest": {"message": "No valid host was found. "}}`:                                                   "NoValidHost",
		`{"a": {"message": "x"}, "b": {"message": "y"}}`:                                                             "",
		`[]`: "", ``: "", `{"a": 1}`: "", `{"a": {}}`: "",
	} {
		if code, _ := parseFailure([]byte(body)); code != want {
			t.Errorf("%s: code %q, want %q", body, code, want)
		}
	}
}

// FuzzReplies gives the parsers anything. They do not panic, and what is kept
// of it is safe for a log and of one class.
func FuzzReplies(f *testing.F) {
	for _, body := range []string{
		"", "null", "{}", "[]", "\xff\xfe", strings.Repeat("[", 1000), `{"a":null}`, `{"a":{"message":"secret-key\u001b[2J\n"}}`,
		`{"id":"x","status":"ERROR","OS-EXT-STS:task_state":null,"fault":{"message":"No valid host\nwas found"}}`,
		`{"id":"x","status":"ACTIVE","OS-EXT-STS:task_state":"powering-off"}`, `{"overLimit":{"message":"slow down"}}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		code, text := parseFailure(body)
		var s server
		if json.Unmarshal(body, &s) == nil {
			if said := s.read().String(); strings.ContainsAny(said, "\n\x1b") || len(said) > 1000 {
				t.Errorf("unsafe for a log: %q", said)
			}
		}
		a := &api{settings: settings{secret: "secret-key"}}
		for _, err := range []error{
			rules.Failure(cloud.Answer{Change: true, Seen: new(https.Exchange), Code: code, Text: text, Secrets: []power.Secret{"secret-key"}}),
			a.fault(s.Fault.Message),
		} {
			said := err.Error()
			if strings.Contains(said, "secret-key") || strings.ContainsAny(said, "\n\r\x1b\x00") || len(said) > 1000 {
				t.Errorf("unsafe for a log: %q", said)
			}
			classes := 0
			for _, class := range []error{power.ErrUnreachable, power.ErrAuth, power.ErrAmbiguous, power.ErrRefused, power.ErrCapacity, power.ErrUnsupported} {
				if errors.Is(err, class) {
					classes++
				}
			}
			if classes != 1 {
				t.Errorf("of %d classes: %v", classes, err)
			}
		}
	})
}
