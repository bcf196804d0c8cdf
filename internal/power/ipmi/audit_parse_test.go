package ipmi

import (
	"testing"

	"github.com/bougou/go-ipmi/pkg/types"
)

// Replies as IPMI 2.0 sections 13.18 and 22.13 lay them out.
var (
	openReply    = []byte{6, 0, 0xff, 7, 6, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0x11, 0, 0, 0x67, 0x70, 0x75, 0x70}
	channelReply = []byte{6, 0, 0xff, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0x81, 0x1c, 0x63, 0x20, 4, 0x38, 0, 1, 0x97, 0x04, 3, 0, 0, 0, 0, 0}
)

func TestRepliesToProbes(t *testing.T) {
	if status, ok := statusOf(openReply); !ok || status != types.RmcpStatusCodeNoCipherSuiteMatch {
		t.Errorf("got %v, %v", status, ok)
	}
	for flags, want := range map[[2]byte]channel{
		{0x97, 0x04}: {noAuth: true},
		{0x96, 0x04}: {},
		{0x96, 0x06}: {nullUser: true},
		{0x96, 0x07}: {nullUser: true, anonymous: true},
	} {
		reply := append([]byte(nil), channelReply...)
		reply[22], reply[23] = flags[0], flags[1]
		if got, ok := channelOf(reply); !ok || got != want {
			t.Errorf("%x: got %+v, %v, want %+v", flags, got, ok, want)
		}
	}
	refused := append([]byte(nil), channelReply...)
	refused[20] = 0xc1 // completion code
	if _, ok := channelOf(refused); ok {
		t.Error("an error is read as an answer")
	}
}

func FuzzRepliesToProbes(f *testing.F) {
	f.Add(openReply)
	f.Add(channelReply)
	f.Add([]byte{6, 0, 0xff, 7})
	f.Fuzz(func(_ *testing.T, reply []byte) {
		statusOf(reply)
		channelOf(reply)
	})
}
