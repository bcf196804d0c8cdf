package ec2

import (
	"errors"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
)

// Replies as AWS's API reference has them.
func TestParse(t *testing.T) {
	var d describeReply
	err := parse([]byte(`<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
    <requestId>8f7724cf-496f-496e-8fe3-example</requestId>
    <reservationSet>
        <item>
            <reservationId>r-1234567890abcdef0</reservationId>
            <ownerId>123456789012</ownerId>
            <groupSet/>
            <instancesSet>
                <item>
                    <instanceId>i-1234567890abcdef0</instanceId>
                    <instanceState><code>48</code><name>terminated</name></instanceState>
                    <reason>Server.SpotInstanceTermination</reason>
                    <networkInterfaceSet><item><status>in-use</status></item></networkInterfaceSet>
                    <stateReason>
                        <code>Server.SpotInstanceTermination</code>
                        <message>Server.SpotInstanceTermination: Spot instance termination</message>
                    </stateReason>
                    <instanceLifecycle>spot</instanceLifecycle>
                </item>
            </instancesSet>
        </item>
    </reservationSet>
</DescribeInstancesResponse>`), &d)
	if err != nil {
		t.Fatal(err)
	}
	i := d.Reservations[0].Instances[0]
	if got, want := i.read().Why, "AWS took the spot instance back, Server.SpotInstanceTermination: Spot instance termination"; i.ID != "i-1234567890abcdef0" || got != want {
		t.Errorf("%+v reads as %q, want %q", i, got, want)
	}

	const start = `<StartInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>1</requestId>
<instancesSet><item><instanceId>i-1234567890abcdef0</instanceId><currentState><code>0</code><name>pending</name></currentState>
<previousState><code>80</code><name>stopped</name></previousState></item></instancesSet></StartInstancesResponse>`
	if err := parse([]byte(start), &changeReply{id: "i-1234567890abcdef0"}); err != nil {
		t.Error(err)
	}
	if err := parse([]byte(start), &changeReply{id: "i-2"}); err == nil {
		t.Error("an answer about another instance is taken for one about this")
	}

	code, text := parseFailure([]byte(`<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code><Message>none left</Message></Error></Errors><RequestID>ea966190</RequestID></Response>`))
	if code != "InsufficientInstanceCapacity" || text != "none left" {
		t.Errorf("failure is %q, %q", code, text)
	}
}

// FuzzReplies gives the parsers anything. They do not panic, and what is kept
// of a failure is safe for a log.
func FuzzReplies(f *testing.F) {
	for _, body := range []string{
		"", "<", "<a>", "null", `<Response><Errors><Error><Code>AuthFailure</Code><Message>secret-key&#27;[2J</Message></Error></Errors></Response>`,
		`<DescribeInstancesResponse><reservationSet><item><instancesSet><item><instanceId>i-1</instanceId><instanceState><name>running</name></instanceState></item></instancesSet></item></reservationSet></DescribeInstancesResponse>`,
		`<StartInstancesResponse><instancesSet><item><instanceId>i-1</instanceId></item></instancesSet></StartInstancesResponse>`,
		`{"Code":"Success","AccessKeyId":"a","SecretAccessKey":"secret-key","Token":"t","Expiration":"2026-11-22T00:00:00Z"}`,
		strings.Repeat("<a>", 1000), "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>", "\xff\xfe",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var d describeReply
		if parse(body, &d) == nil {
			for _, r := range d.Reservations {
				for _, i := range r.Instances {
					if text := i.read().String(); strings.ContainsAny(text, "\n\x1b") || len(text) > 1000 {
						t.Errorf("unsafe for a log: %q", text)
					}
				}
			}
		}
		_ = parse(body, &changeReply{id: "i-1"})
		if k, _, err := parseRole(body); err == nil && (k.id == "" || k.secret == "") {
			t.Error("half a credential")
		} else if err != nil && strings.Contains(err.Error(), "secret-key") {
			t.Errorf("spills: %v", err)
		}
		code, text := parseFailure(body)
		err := rules.Failure(answerOf(code, text))
		if s := err.Error(); strings.Contains(s, "secret-key") || strings.ContainsAny(s, "\n\r\x1b\x00") || len(s) > 1000 {
			t.Errorf("unsafe for a log: %q", s)
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
	})
}

// answerOf is an answer that came with these words.
func answerOf(code, text string) cloud.Answer {
	return cloud.Answer{Change: true, Seen: new(https.Exchange), Code: code, Text: text, Secrets: []power.Secret{"secret-key"}}
}
