package redfish

import (
	"strings"
	"testing"
)

func TestAccountLock(t *testing.T) {
	for body, want := range map[string]string{
		`{"AccountLockoutThreshold":5,"AccountLockoutDuration":300}`: "ok after 5 failed logins, for 5m0s",
		`{"AccountLockoutThreshold":2}`:                              "warning after 2 failed logins",
		`{"AccountLockoutThreshold":0}`:                              "ok accounts are never locked",
		`{"AccountLockoutThreshold":-1}`:                             "",
		`{"AccountLockoutThreshold":"five"}`:                         "",
		`{}`:                                                         "",
		`[`:                                                          "",
	} {
		var got []string
		for _, f := range auditLock([]byte(body)) {
			got = append(got, f.Level.String()+" "+f.What)
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: got %q, want %q", body, got, want)
		}
	}
}
