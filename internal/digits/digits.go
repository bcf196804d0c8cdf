// Package digits shortens the figures of a JSON text to those digits that are the
// same on any machine. Go may compute x*y+z with one rounding or with two, by
// processor (https://go.dev/ref/spec#Floating_point_operators), and its Exp and Log
// are written once for each, so that the last digits of 17 differ between amd64 and
// arm64.
package digits

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
)

// Kept is how many significant digits stay: far more than any figure is true to,
// and far fewer than what differs between machines.
const Kept = 9

// token is a string of JSON, or a number that is not whole.
var token = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)`)

// WriteJSON writes v as indented JSON and a line break, shortened.
func WriteJSON(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	_, err = w.Write(append(Shorten(text), '\n'))
	return err
}

// Shorten returns a valid JSON text with each number that is not whole rounded to
// [Kept] digits. All else stays as it is, white space too.
func Shorten(text []byte) []byte {
	return token.ReplaceAllFunc(text, func(t []byte) []byte {
		if t[0] == '"' {
			return t
		}
		f, err := strconv.ParseFloat(string(t), 64)
		if err != nil {
			return t // beyond the range of float64: nothing that Go has written
		}
		return strconv.AppendFloat(nil, f, 'g', Kept, 64)
	})
}
