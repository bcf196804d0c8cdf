package pluginhost

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// intercept runs every call to the plugin. A panic becomes an error, an error
// becomes one that the autoscaler can take, and the end of the plugin or of
// the caller's patience is not held up by a handler: the autoscaler passes no
// context to a plugin, so a handler that hangs is abandoned, not cancelled.
func (s *server) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if strings.HasPrefix(info.FullMethod, "/plugin.") { // go-plugin's own: Shutdown
		return handler(ctx, req)
	}
	method := path.Base(info.FullMethod)
	type result struct {
		reply any
		err   error
	}
	done := make(chan result, 1)
	go func() {
		r := result{err: status.Errorf(codes.Internal, "%s: %s ended without an answer", s.name, method)}
		defer func() {
			if p := recover(); p != nil {
				s.panics.report(s.log, method, p)
				r = result{err: status.Errorf(codes.Internal,
					"%s: %s failed on a bug in the plugin: %v (the stack is in the log)", s.name, method, p)}
			}
			done <- r
		}()
		r.reply, r.err = handler(ctx, req)
	}()
	select {
	case r := <-done:
		return r.reply, readable(r.err)
	case <-s.stopping:
		return nil, status.Error(codes.Unavailable, s.errStopping().Error())
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// readable rewrites an error's text by [safeText] and keeps its code, which is
// how the host tells a no-op from a failure.
func readable(err error) error {
	if err == nil {
		return nil
	}
	st, _ := status.FromError(err)
	return status.Error(st.Code(), safeText(st.Message()))
}

// maxErrorText bounds an error's text, in bytes. It ends up on one log line.
const maxErrorText = 16 << 10

var eofWord = regexp.MustCompile(`\bEOF\b`)

// safeText returns text without the two phrases that make the autoscaler stop
// all policies (policy/manager.go, isUnrecoverableError: a case-sensitive
// strings.Contains), saying the same in other words.
func safeText(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.ReplaceAll(text, "connection refused", "connection was refused")
	text = eofWord.ReplaceAllLiteralString(text, "end of file")
	text = strings.ReplaceAll(text, "EOF", "eof") // inside another word
	if len(text) <= maxErrorText {
		return text
	}
	cut := maxErrorText
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return fmt.Sprintf("%s ... (%d more bytes)", text[:cut], len(text)-cut)
}

// panicLog logs panics, with the stack only the first time that one place
// panics: a method that fails at every evaluation would fill the disk.
type panicLog struct {
	mu   sync.Mutex
	seen map[[16]uintptr]int // call stack of the panic: times seen
}

// report must be called by the deferred function that recovered.
func (l *panicLog) report(log hclog.Logger, where string, p any) {
	var stack [16]uintptr
	runtime.Callers(3, stack[:]) // from runtime.gopanic down
	l.mu.Lock()
	if l.seen == nil {
		l.seen = make(map[[16]uintptr]int)
	}
	l.seen[stack]++
	times := l.seen[stack]
	l.mu.Unlock()

	if times > 1 {
		log.Error("recovered from a bug in the plugin, again", "in", where, "panic", fmt.Sprint(p), "times", times)
		return
	}
	log.Error("recovered from a bug in the plugin", "in", where, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}
