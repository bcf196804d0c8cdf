package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
)

func TestReadCommand(t *testing.T) {
	for name, tc := range map[string]struct {
		sent []byte
		want []byte
		end  error
	}{
		"what ipmi_sim says first": {[]byte{0xff, 0x01, 0xa1, 0x00, 0xa1}, []byte{0xff, 0x00}, io.EOF},
		"soft off":                 {[]byte{0x09, 0xa1}, []byte{cmdShutdown}, io.EOF},
		"off and reset":            {[]byte{0x03, 0xa1, 0x04, 0xa1}, []byte{cmdPowerOff, cmdReset}, io.EOF},
		"a message between":        {[]byte{0x01, 0x18, 0x03, 0xa0, 0x03, 0xa1}, []byte{cmdPowerOff}, io.EOF},
		"escaped end of command":   {[]byte{0xaa, 0xb1, 0xa1}, []byte{endCommand}, io.EOF},
		"empty frames":             {[]byte{0xa1, 0xa0, 0xa1}, nil, io.EOF},
		"cut short":                {[]byte{0x03}, nil, io.ErrUnexpectedEOF},
		"endless frame":            {append(bytes.Repeat([]byte{0x09}, 10*maxFrame), 0xa1), []byte{cmdShutdown}, io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			r := bufio.NewReader(bytes.NewReader(tc.sent))
			var got []byte
			for {
				cmd, err := readCommand(r)
				if err != nil {
					if !errors.Is(err, tc.end) {
						t.Errorf("ended with %v, want %v", err, tc.end)
					}
					break
				}
				got = append(got, cmd)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got % x, want % x", got, tc.want)
			}
		})
	}
}
