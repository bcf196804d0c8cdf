package power

import (
	"fmt"
	"time"
)

// ParseDuration reads a duration of a driver's config, such as "1m30s". Empty
// text means def. The error says what to write instead; the caller names the
// key.
func ParseDuration(text string, def, least, most time.Duration) (time.Duration, error) {
	if text == "" {
		return def, nil
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return def, fmt.Errorf("%q is not a duration with a unit, such as %q", text, def)
	case d < least || d > most:
		return def, fmt.Errorf("%s is outside of %s to %s", d, least, most)
	}
	return d, nil
}
