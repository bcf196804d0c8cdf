package queue

import "sync"

// Secrets are the credentials that a source used, to blot them out of its
// errors. A source holds a pointer to them, which is what fmt prints. The
// zero value is ready.
type Secrets struct {
	mu   sync.Mutex
	used []string
}

// Use notes a credential. A few are kept: those in use, and one that was
// rotated a moment ago.
func (s *Secrets) Use(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.used {
		if u == secret {
			return
		}
	}
	const most = 8
	if s.used = append(s.used, secret); len(s.used) > most {
		s.used = s.used[1:]
	}
}

// Fail is [Fail] without the credentials.
func (s *Secrets) Fail(class error, what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Fail(class, what, s.used...)
}
