package main

import (
	"bufio"
	"io"
)

// The OpenIPMI virtual machine codec, which QEMU's ipmi-bmc-extern speaks too:
// frames that end in one of two bytes, with an escape for those that would look
// like one. A frame is an IPMI message or a hardware command. The host sends
// no messages, so only commands matter here.
// Source: OpenIPMI lanserv/serial_ipmi.c; QEMU hw/ipmi/ipmi_bmc_extern.c.
const (
	endMessage  = 0xa0
	endCommand  = 0xa1
	escape      = 0xaa
	escapedBit  = 0x10
	maxFrame    = 256 // bytes; longer ones are cut
	cmdPowerOff = 0x03
	cmdReset    = 0x04
	cmdShutdown = 0x09
)

// hello tells the BMC what this machine can do for it: power off (01h), reset
// (02h) and graceful shutdown (20h).
var hello = []byte{0x08, 0x01 | 0x02 | 0x20, endCommand}

// readCommand returns the next hardware command of a BMC. It passes over
// messages, which answer what was never asked, and over empty frames.
func readCommand(r *bufio.Reader) (byte, error) {
	var frame []byte
	escaped := false
	for {
		b, err := r.ReadByte()
		if err != nil {
			if err == io.EOF && len(frame) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		switch b {
		case endCommand:
			if len(frame) > 0 {
				return frame[0], nil
			}
			escaped = false
		case endMessage:
			frame, escaped = frame[:0], false
		case escape:
			escaped = true
		default:
			if escaped {
				b, escaped = b&^escapedBit, false
			}
			if len(frame) < maxFrame {
				frame = append(frame, b)
			}
		}
	}
}
