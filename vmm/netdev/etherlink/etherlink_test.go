package etherlink

import (
	"bytes"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// received is a stack that keeps what it gets.
type received struct {
	stack.NetworkDispatcher
	frames [][]byte
}

func (r *received) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	r.frames = append(r.frames, Frame(0, pkt))
}

func TestEndpoint(t *testing.T) {
	var sent [][]byte
	const fit = 2
	e := New(Config{MTUBytes: 1500, Send: func(pkt *stack.PacketBuffer) bool {
		if len(sent) == fit {
			return false
		}
		sent = append(sent, Frame(3, pkt))
		return true
	}})
	if e.MTU() != 1500+header.EthernetMinimumSize || e.IsAttached() {
		t.Errorf("a new endpoint has an MTU of %d, attached %v", e.MTU(), e.IsAttached())
	}
	e.Deliver([]byte("lost")) // no stack yet
	r := &received{}
	e.Attach(r)
	f := []byte("frame")
	e.Deliver(f)
	f[0] = 'x' // the stack has a copy
	if !e.IsAttached() || len(r.frames) != 1 || string(r.frames[0]) != "frame" {
		t.Errorf("the stack got %q", r.frames)
	}
	var list stack.PacketBufferList
	defer list.Reset()
	for range fit + 1 {
		list.PushBack(stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData([]byte("packet"))}))
	}
	n, err := e.WritePackets(list)
	if _, closed := err.(*tcpip.ErrClosedForSend); n != fit || !closed {
		t.Errorf("%d packets were sent, %v", n, err)
	}
	for _, p := range sent {
		if !bytes.Equal(p, []byte("\x00\x00\x00packet")) {
			t.Errorf("sent %q", p)
		}
	}
}
