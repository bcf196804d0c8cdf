package digits

import (
	"encoding/json"
	"math"
	"testing"
)

func TestShorten(t *testing.T) {
	for text, want := range map[string]string{
		`{"pinball": 1.8266638523798018, "count": 3}`:              `{"pinball": 1.82666385, "count": 3}`,
		`1.8266638523797996`:                                       `1.82666385`,
		`[0.1, -0.30000000000000004]`:                              `[0.1, -0.3]`,
		`18446744073709551615`:                                     `18446744073709551615`,
		`{"a 0.123456789012": "0.123456789012 \" 0.123456789012"}`: `{"a 0.123456789012": "0.123456789012 \" 0.123456789012"}`,
		`1.7976931348623157e+308`:                                  `1.79769313e+308`,
		`1e999`:                                                    `1e999`,
		`-123456789012.5`:                                          `-1.23456789e+11`,
	} {
		if got := string(Shorten([]byte(text))); got != want {
			t.Errorf("%s became %s, want %s", text, got, want)
		}
	}
}

// Whatever is shortened is JSON still, and nearly what it was.
func FuzzShorten(f *testing.F) {
	f.Add("a \" b 0.5", 0.1+0.2, uint64(7))
	f.Add("\\", 1e300, uint64(math.MaxUint64))
	f.Fuzz(func(t *testing.T, text string, figure float64, whole uint64) {
		if math.IsNaN(figure) || math.IsInf(figure, 0) || math.Abs(figure) > 1e300 {
			return
		}
		type doc struct {
			Text   string
			Figure float64
			Whole  uint64
		}
		long, err := json.Marshal(doc{text, figure, whole})
		if err != nil {
			t.Fatal(err)
		}
		var was, is doc
		if err := json.Unmarshal(long, &was); err != nil {
			t.Fatal(err)
		}
		short := Shorten(long)
		if err := json.Unmarshal(short, &is); err != nil {
			t.Fatalf("%s became %s: %v", long, short, err)
		}
		if is.Text != was.Text || is.Whole != was.Whole || math.Abs(is.Figure-figure) > 1e-8*math.Abs(figure) {
			t.Errorf("%s became %s", long, short)
		}
		if again := Shorten(short); string(again) != string(short) {
			t.Errorf("%s became %s, and then %s", long, short, again)
		}
	})
}
