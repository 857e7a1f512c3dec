package wire

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
)

// fileFrame is the size in bytes up to which the writer of a file puts batches into one frame.
const fileFrame = 256 << 10

// File is what a log is written to: an [*os.File], or a test's that fails.
type File interface {
	io.Writer
	Truncate(size int64) error
	Seek(offset int64, whence int) (int64, error)
	Sync() error
	Close() error
}

// FileWriter writes a ring's records to a file.
type FileWriter struct {
	file   File
	reader *RingReader
	frames *FrameWriter

	// syncMu keeps Close apart from Sync.
	syncMu sync.Mutex
	closed bool

	// Invariant: the file's first good bytes are whole: the header and frames.
	good    int64
	dirty   bool // bytes behind good may have been written
	written WriterStats
	mu      sync.Mutex // guards written
}

// WriterStats is what a writer has written.
type WriterStats struct {
	// Bytes is the size of the log with header and frames' headers.
	Bytes  int64
	Frames uint64
	// Sequence is the number of the last record that is written.
	Sequence uint64
}

// CreateFile creates a log in a file that must not exist yet, and returns a writer of what becomes visible in the ring
// from now on.
func CreateFile(path string, header *Header, ring *Ring) (*FileWriter, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create the log: %w", err)
	}
	w, err := NewFileWriter(file, header, ring)
	if err != nil {
		_ = file.Close()
		_ = os.Remove(path)
		return nil, err
	}
	return w, nil
}

// NewFileWriter writes a log's header to an empty file and returns a writer of what becomes visible in the ring from now
// on.
func NewFileWriter(file File, header *Header, ring *Ring) (*FileWriter, error) {
	p, err := header.Append(nil)
	if err != nil {
		return nil, err
	}
	if _, err := file.Write(p); err != nil {
		return nil, fmt.Errorf("write the log's header: %w", err)
	}
	return &FileWriter{
		file: file, reader: ring.NewReader(), frames: NewFrameWriter(file, true),
		good: int64(len(p)), written: WriterStats{Bytes: int64(len(p))},
	}, nil
}

// Run writes until the ring is closed and all of it is written, or the context is done, or the file fails. It belongs to
// one goroutine.
//
// After a failure (a full disk) nothing is lost: what is not written stays in the ring, which in the end makes the guest
// stand still. When the cause is gone Run is called again and goes on at the first record that is not written.
func (w *FileWriter) Run(ctx context.Context) error {
	w.reader.Rewind()
	for {
		b, err := w.reader.Next(ctx, fileFrame)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.write(b); err != nil {
			return fmt.Errorf("write the log (the guest stands still when %d bytes wait; make room, or stop it): %w", len(w.reader.ring.data), err)
		}
	}
}

// write writes one frame behind the good bytes.
func (w *FileWriter) write(b Batch) error {
	if w.dirty {
		if err := w.backOut(); err != nil {
			return err
		}
	}
	w.dirty = true
	n, err := w.frames.Write(b)
	if err != nil {
		if back := w.backOut(); back != nil {
			return fmt.Errorf("%w (nor could the part of a frame be taken back: %v)", err, back)
		}
		return err
	}
	w.dirty = false
	w.good += int64(n)
	w.mu.Lock()
	w.written = WriterStats{Bytes: w.good, Frames: w.written.Frames + 1, Sequence: b.Last()}
	w.mu.Unlock()
	return w.reader.Acknowledge(b.Last())
}

// backOut takes back what was written of a frame that is not whole.
func (w *FileWriter) backOut() error {
	if err := w.file.Truncate(w.good); err != nil {
		return err
	}
	if _, err := w.file.Seek(w.good, io.SeekStart); err != nil {
		return err
	}
	w.dirty = false
	return nil
}

// Stats returns what is written up to now. It may be called from any goroutine.
func (w *FileWriter) Stats() WriterStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written
}

// Sync brings what is written to stable storage. It may be called from any goroutine.
func (w *FileWriter) Sync() error {
	w.syncMu.Lock()
	defer w.syncMu.Unlock()
	if w.closed {
		return nil
	}
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("bring the log to stable storage: %w", err)
	}
	return nil
}

// Close ends the writing, after Run has returned: it leaves the ring, brings the file to stable storage and closes it.
func (w *FileWriter) Close() error {
	w.reader.Close()
	w.syncMu.Lock()
	defer w.syncMu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	syncErr, closeErr := w.file.Sync(), w.file.Close()
	if syncErr != nil {
		return fmt.Errorf("bring the log to stable storage: %w", syncErr)
	}
	if closeErr != nil {
		return fmt.Errorf("close the log: %w", closeErr)
	}
	return nil
}
