package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// The picture is well-formed and the same each time; it is drawn anew by the
// command in the page, not by the test, because any change of the strategy
// changes it.
func TestPicture(t *testing.T) {
	wellFormed(t, nil, "needed", "ready, predictive", "ready, nomad-target-value", "06:00", "11:30")
}

// The record is the one in docs.
func TestPictureOfARecord(t *testing.T) {
	wellFormed(t, []string{"../../../docs/concepts/day.csv"}, "demand", "ready, predictive", "ready, target-value", "08:00", "10:00")
}

func TestRecordIsChecked(t *testing.T) {
	head := "# day 180 s, load 8 s\n" + strings.Join(columns, ",") + "\n"
	for name, text := range map[string]string{
		"empty":       "",
		"no day":      strings.Join(columns, ",") + "\n",
		"no length":   "# day 0 s, load 8 s\n",
		"other":       "# day 180 s, load 8 s\nseconds,demand\n1,2\n",
		"few rows":    head + "1,1,1,1,1,1\n",
		"no number":   head + strings.Repeat("1,1,NaN,1,1,1\n", 20),
		"too long":    head + strings.Repeat("99999,1,1,1,1,1\n", 20),
		"unordered":   head + "7,1,1,1,1,1\n" + strings.Repeat("1,1,1,1,1,1\n", 20),
		"one of five": head + strings.Repeat("1,1,1,1,1\n", 20),
	} {
		if _, err := recorded(strings.NewReader(text)); err == nil {
			t.Errorf("%s: drawn", name)
		}
	}
}

func wellFormed(t *testing.T, args []string, labels ...string) {
	t.Helper()
	var b bytes.Buffer
	if err := run(args, &b); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(b.Bytes())); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, label := range labels {
		if !strings.Contains(b.String(), ">"+label+"<") {
			t.Errorf("no label %q", label)
		}
	}
}
