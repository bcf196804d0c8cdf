package cloudtest

import (
	"sync"
	"time"
)

// Operations are changes that go on after they were accepted, of the clouds that
// tell of that. In the zero value they are over at once.
type Operations struct {
	mu    sync.Mutex
	slow  time.Duration
	fails Reason
	until []time.Time // when each is over, that of number 1 first
}

// Reason is why an operation failed, in the cloud's words.
type Reason struct{ Code, Message string }

// Slow makes operations go on for so long, and then end with an error unless
// code is empty.
func (o *Operations) Slow(d time.Duration, code, message string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.slow, o.fails = d, Reason{code, message}
}

// Begin begins an operation, and says whether it is to fail, so that nothing is
// to be changed. Numbers begin with 1.
func (o *Operations) Begin() (n int, fails bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.until = append(o.until, time.Now().Add(o.slow))
	return len(o.until), o.fails.Code != ""
}

// Look is how an operation stands, nil once it has ended well. It is false if
// there is none of that number.
func (o *Operations) Look(n int) (over bool, failed *Reason, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case n < 1 || n > len(o.until):
		return false, nil, false
	case time.Now().Before(o.until[n-1]):
		return false, nil, true
	case o.fails.Code != "":
		fails := o.fails
		return true, &fails, true
	}
	return true, nil, true
}
