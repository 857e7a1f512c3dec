package frame

import (
	"bytes"
	"io"
	"testing"
)

func TestQueueIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		packets, bytes, size, fit int
	}{
		"by packets":     {3, 1000, 10, 3},
		"by bytes":       {100, 25, 10, 2},
		"one always can": {100, 25, 50, 1},
	} {
		q := NewQueue(c.packets, c.bytes)
		for i := range 10 {
			if got := q.Offer(make([]byte, c.size)); got != (i < c.fit) {
				t.Errorf("%s: packet %d: %v", name, i, got)
			}
		}
		if q.Dropped() != uint64(10-c.fit) {
			t.Errorf("%s: %d dropped", name, q.Dropped())
		}
		if _, ok := q.Take(); !ok || !q.Offer(nil) && c.fit > 1 {
			t.Errorf("%s: there is no room after Take", name)
		}
	}
}

func TestQueueKeepsOrderAndWaits(t *testing.T) {
	q := NewQueue(4, 1<<20)
	const all = 10000
	go func() {
		for i := range all {
			q.Put([]byte{byte(i), byte(i >> 8)})
		}
	}()
	for i := range all {
		p, ok := q.Take()
		if !ok || p[0] != byte(i) || p[1] != byte(i>>8) {
			t.Fatalf("packet %d: %v, %v", i, p, ok)
		}
	}
}

func TestQueueCloseLetsGo(t *testing.T) {
	full, empty := NewQueue(1, 1), NewQueue(1, 1)
	full.Put(nil)
	ended := make(chan bool, 2)
	go func() { ended <- full.Put(nil) }()
	go func() {
		_, ok := empty.Take()
		ended <- ok
	}()
	full.Close()
	empty.Close()
	for range 2 {
		if <-ended {
			t.Error("something came through a closed queue")
		}
	}
	if full.Offer(nil) {
		t.Error("a closed queue takes packets")
	}
}

func TestStream(t *testing.T) {
	var b bytes.Buffer
	sizes := []int{MinBytes, 1514, MaxBytes}
	for i, size := range sizes {
		if err := WriteStream(&b, Plain(bytes.Repeat([]byte{byte(i + 1)}, size))); err != nil {
			t.Fatal(err)
		}
	}
	for i, size := range sizes {
		p, err := ReadStream(&b)
		if err != nil || !bytes.Equal(p, Plain(bytes.Repeat([]byte{byte(i + 1)}, size))) {
			t.Errorf("frame %d: %d bytes, %v", i, len(p), err)
		}
	}
	if _, err := ReadStream(&b); err != io.EOF {
		t.Errorf("the end is %v", err)
	}
}

func TestStreamErrors(t *testing.T) {
	for name, p := range map[string][]byte{
		"too short": {0, 0, 0, 13}, "too long": {0, 1, 0, 18}, "far too long": {0xff, 0xff, 0xff, 0xff},
		"cut in the length": {0, 0}, "cut before the frame": {0, 0, 0, 14}, "cut in the frame": {0, 0, 0, 14, 1},
	} {
		if got, err := ReadStream(bytes.NewReader(p)); err == nil || err == io.EOF {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func FuzzReadStream(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x0eabcdefghijklmn\x00\x00\x00\x0eabc"))
	f.Fuzz(func(t *testing.T, p []byte) {
		r := bytes.NewReader(p)
		var again bytes.Buffer
		for {
			packet, err := ReadStream(r)
			if err != nil {
				break
			}
			if !Valid(packet) {
				t.Fatalf("a packet of %d bytes", len(packet))
			}
			if err := WriteStream(&again, packet); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(p, again.Bytes()) {
			t.Error("what was read does not write back")
		}
	})
}
