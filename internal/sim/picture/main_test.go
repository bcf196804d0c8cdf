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
	var b bytes.Buffer
	if err := draw(&b); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(b.Bytes())); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, label := range []string{"needed", "ready, predictive", "ready, nomad-target-value", "06:00", "11:30"} {
		if !strings.Contains(b.String(), ">"+label+"<") {
			t.Errorf("no label %q", label)
		}
	}
}
