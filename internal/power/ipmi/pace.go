package ipmi

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Bounds of how long a request waits for its answer before it is sent again.
const (
	// firstWait is for a BMC that has not answered yet. Over a LAN they answer
	// within some milliseconds; a busy one takes its time.
	firstWait = 300 * time.Millisecond
	// leastWait leaves a BMC that is quick as a rule time to be slow for once: an
	// answer to a repeat costs it as much as the first.
	leastWait = 200 * time.Millisecond
	// mostWait is for slow BMCs. What takes longer is waited for by patience: see
	// [login].
	mostWait = time.Second
)

// pace is how long one BMC takes to answer, over all of its sessions, and so how
// long to wait before a request is repeated. It is TCP's retransmission timer
// (RFC 6298) with the bounds above, and with two of the variation for a margin
// instead of four: a repeat that was not needed costs a BMC one more answer, and
// no other traffic anything. It is safe for concurrent use; the zero value has
// seen nothing.
type pace struct {
	mu        sync.Mutex
	smoothed  time.Duration // SRTT; zero before the first answer
	variation time.Duration // RTTVAR
}

// answered notes how long an answer took to a request that was sent once: of one
// that was repeated it is not known what was answered.
func (p *pace) answered(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if took = max(took, 1); p.smoothed == 0 {
		p.smoothed, p.variation = took, took/2
		return
	}
	p.variation += ((p.smoothed - took).Abs() - p.variation) / 4
	p.smoothed += (took - p.smoothed) / 8
}

// wait is how long the first sending of a request waits for its answer.
func (p *pace) wait() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.smoothed == 0 {
		return firstWait
	}
	margin := max(2*p.variation, p.smoothed/4)
	return min(max(p.smoothed+margin, leastWait), mostWait)
}

// longer is how long a request waits for its answer that was sent so many times
// before: the second time as long as the first, then half as long again each
// time, and up to a tenth more, so that a rack that was asked at once is not
// asked once more at once.
func longer(wait time.Duration, tries int) time.Duration {
	if tries > 1 {
		wait += wait / 2
	}
	return wait + rand.N(wait/10+1)
}
