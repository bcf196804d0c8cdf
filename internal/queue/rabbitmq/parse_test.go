package rabbitmq

import (
	"errors"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/setting"
)

func TestFrames(t *testing.T) {
	frame := "\x01\x00\x00\x00\x00\x00\x03abc\xce"
	for text, want := range map[string]bool{
		frame: true, frame + frame: true, "\x08\x00\x00\x00\x00\x00\x00\xce": true, "": true, "\x01": true, "AMQ": true,
		"AMQP\x00\x00\x09\x01": false, "HTTP/1.1": false, "\x01\x00\x00\xff\xff\xff\xff": false, "\x01\x00\x00\x00\x02\x00\x01": false,
		"\x09\x00\x00\x00\x00\x00\x00": false, frame + "\xff\x00\x00\x00\x00\x00\x00": false,
	} {
		for _, size := range []int{1, 2, 5, 1 << 20} {
			var f frames
			got := true
			for rest := text; rest != "" && got; {
				n := min(size, len(rest))
				got, rest = f.Feed([]byte(rest[:n])), rest[n:]
			}
			if got != want {
				t.Errorf("%q in parts of %d: %v, want %v", text, size, got, want)
			}
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x03abc\xce\x08\x00\x00\x00\x00\x00\x00\xce"), uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, cut uint8) {
		var whole, parts frames
		a := whole.Feed(data)
		n := min(int(cut), len(data))
		b := parts.Feed(data[:n]) && parts.Feed(data[n:])
		if a != b {
			t.Errorf("whole %v, cut at %d %v", a, n, b)
		}
	})
}

func TestAnswers(t *testing.T) {
	for body, want := range map[string]string{
		`{"name": "q", "messages_ready": 4, "messages_unacknowledged": 2}`: "",
		`{"name": "q"}`:                      "has not counted yet",
		`{"name": "q", "messages_ready": 4}`: "has not counted yet",
		`{"name": "p", "messages_ready": 4, "messages_unacknowledged": 2}`:  "is about queue",
		`{"name": "q", "messages_ready": -4, "messages_unacknowledged": 2}`: "are no counts",
		`{"name": "q", "messages_ready": 4, "messages_unacknowledged": -2}`: "are no counts",
		`{"name": "q", "messages_ready": "x"}`:                              "none of RabbitMQ",
		`[]`:                                                                "none of RabbitMQ",
		``:                                                                  "none of RabbitMQ",
	} {
		r, err := Config{Queue: "q", Mode: QueueLength}.read([]byte(body))
		if want == "" {
			if err != nil || r.Waiting != 4 || *r.Running != 2 {
				t.Errorf("%s: %v, %v", body, r, err)
			}
			continue
		}
		if !errors.Is(err, queue.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"name": "q", "messages_ready": 4, "messages_unacknowledged": 2}`), true)
	f.Add([]byte(`{"name": "q", "messages_ready": 4, "messages_unacknowledged": 2, "message_stats": {"publish_details": {"rate": -1}}}`), false)
	f.Fuzz(func(t *testing.T, body []byte, rate bool) {
		c := Config{Queue: "q", Mode: QueueLength}
		if rate {
			c.Mode = MessageRate
		}
		r, err := c.read(body)
		if err != nil && !errors.Is(err, queue.ErrInvalid) {
			t.Errorf("no class: %v", err)
		}
		if err == nil && !(r.Work() >= 0) {
			t.Errorf("%s is %v", body, r)
		}
	})
}

// A password in the URL is refused without being printed.
func TestHost(t *testing.T) {
	t.Setenv("RABBIT_PASSWORD", "x")
	for host, want := range map[string]string{
		"http://h:15672": "", "https://h/prefix": "", "amqp://h": "", "amqps://h:5671/": "",
		"amqp://guest:hunter2@h":    "has a user name or password",
		"http://guest:hunter2@h/":   "has a user name or password",
		"amqp://h/vhost":            "has a path",
		"h:5672":                    "is no",
		"http://h?x=hunter2":        "is no URL",
		"redis://h":                 "is not of http",
		"":                          "is required",
		"http://[hunter2":           "is no URL",
		"http://h:15672#hunter2":    "is no URL",
		"amqp://u:hunter2@h/ space": "has a user name or password",
	} {
		given := map[string]setting.Given{"queue_name": {Text: "q"}, "password": {Text: "env:RABBIT_PASSWORD"}}
		if host != "" {
			given["host"] = setting.Given{Text: host}
		}
		r := setting.NewReader(setting.Place{}, given)
		Declare(r)
		err := r.Problems().Err()
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%q: %v, want %q", host, err, want)
		}
	}
}
