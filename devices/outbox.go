package devices

// outboxChunkBytes is the size of the pieces in which an outbox allocates.
const outboxChunkBytes = 4096

// outbox hands single bytes to a sink, which keeps the memory, without an allocation for each.
type outbox struct {
	sink  Sink
	chunk []byte // memory not yet handed out
}

func (o *outbox) send(v byte) {
	if len(o.chunk) == 0 {
		o.chunk = make([]byte, outboxChunkBytes)
	}
	p := o.chunk[:1:1]
	o.chunk = o.chunk[1:]
	p[0] = v
	o.sink.Output(p)
}
