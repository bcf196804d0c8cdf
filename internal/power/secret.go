package power

import (
	"fmt"
	"io"
)

// Secret is a credential that prints as "(redacted)" through every verb of
// fmt and every text encoding, so that a config struct can be logged or
// compared in a test without spilling it. Its underlying kind is string, so
// gohcl decodes into it.
//
// fmt cannot call the methods of what it finds in unexported fields, so a type
// that keeps a Secret in one brings String and GoString of its own.
type Secret string

const redacted = "(redacted)"

// Reveal returns the credential. Call it where the credential is used, and
// nowhere else.
func (s Secret) Reveal() string { return string(s) }

// String hides the credential.
func (s Secret) String() string { return redacted }

// GoString hides the credential.
func (s Secret) GoString() string { return redacted }

// Format hides the credential from every verb, %x and %q included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText hides the credential from encoding/json and its kin.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
