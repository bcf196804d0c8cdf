package gce

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
)

// FuzzReplies gives the parsers anything. They do not panic, and what is kept
// of it is safe for a log.
func FuzzReplies(f *testing.F) {
	for _, body := range []string{
		"", "null", "[]", "{}", "\xff\xfe", strings.Repeat("[", 1000),
		`{"kind":"compute#instanceList","items":[{"name":"gpu-1","status":"TERMINATED","statusMessage":"a\nb\u001b[2J","scheduling":{"preemptible":true}}]}`,
		`{"kind":"compute#operation","name":"op","status":"DONE","error":{"errors":[{"code":"ZONE_RESOURCE_POOL_EXHAUSTED","message":"secret-key"}]}}`,
		`{"kind":"compute#operationList","items":[{"operationType":"compute.instances.preempted","insertTime":"x"}]}`,
		`{"error":{"code":403,"message":"secret-key","errors":[{"reason":"rateLimitExceeded"}]}}`, `{"error":{"status":"PERMISSION_DENIED"}}`,
		`{"error":"invalid_grant","error_description":"no"}`, `{"access_token":"secret-key","expires_in":3599}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		safe := func(text string) {
			t.Helper()
			if strings.Contains(text, "secret-key") || strings.ContainsAny(text, "\n\r\x1b\x00") || len(text) > 1000 {
				t.Errorf("unsafe for a log: %q", text)
			}
		}
		oneClass := func(err error) {
			t.Helper()
			classes := 0
			for _, class := range []error{power.ErrUnreachable, power.ErrAuth, power.ErrAmbiguous, power.ErrRefused, power.ErrCapacity, power.ErrUnsupported} {
				if errors.Is(err, class) {
					classes++
				}
			}
			if classes != 1 {
				t.Errorf("of %d classes: %v", classes, err)
			}
			safe(err.Error())
		}
		a := &api{settings: settings{credentials: "secret-key"}, preempted: make(map[string]preemption)}
		a.token = cloud.NewLoan(lend(nil, a.settings.metadata)) // not asked: the context is over
		over, end := context.WithCancel(t.Context())
		end()
		var list instanceList
		if parse(body, &list) == nil {
			for i := range list.Items {
				list.Items[i].Scheduling.Preemptible, list.Items[i].Scheduling.ProvisioningModel = false, ""
			}
			for _, i := range a.explain(over, list.Items) {
				if !strings.Contains(i.String(), "secret-key") { // names of the user's own
					safe(i.String())
				}
			}
		}
		var op operation
		if parse(body, &op) == nil {
			if _, err := op.ended(a); err != nil {
				oneClass(err)
			}
		}
		_ = parse(body, &operationList{})
		code, text := parseFailure(body)
		oneClass(rules.Failure(cloud.Answer{Change: true, Seen: new(https.Exchange), Code: code, Text: text, Secrets: []power.Secret{"secret-key"}}))
		code, text = parseTokenFailure(body)
		oneClass(tokenRules.Failure(cloud.Answer{Seen: new(https.Exchange), Code: code, Text: text, Secrets: []power.Secret{"secret-key"}}))
		if token, life, err := parseToken(body); err == nil && (token == "" || life <= 0) {
			t.Error("half a token")
		} else if err != nil {
			safe(err.Error())
		}
	})
}
