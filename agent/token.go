package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// tokenFile is a bearer token in a file that may be replaced at any time.
type tokenFile struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex
	token  string
	looked time.Time
	failed string // the last failure that was logged
}

// lookEvery bounds how often the file is read.
const lookEvery = time.Second

// current is the token in the file, or the last good one.
func (f *tokenFile) current() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.looked) < lookEvery {
		return f.token
	}
	f.looked = now
	token, err := readToken(f.path)
	switch {
	case err == nil:
		f.token, f.failed = token, ""
	case err.Error() != f.failed:
		f.failed = err.Error()
		f.log.Warn("cannot read the bearer token, so the one before is good on", "error", err)
	}
	return f.token
}

// readToken reads a token from the one line of a file.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	const most = 4 << 10
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", err
	}
	text = bytes.TrimSpace(text)
	if len(text) == 0 || len(text) > most {
		return "", fmt.Errorf("%s: want one token of up to %d bytes", path, most)
	}
	return string(text), checkToken(string(text))
}

// checkToken refuses what cannot stand in a header.
func checkToken(token string) error {
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("the bearer token has blanks or characters other than ASCII")
	}
	return nil
}
