package wire

import "fmt"

// FormatError says that bytes break the format. What a file or a connection fails at is never one.
type FormatError struct{ text string }

func (e *FormatError) Error() string { return e.text }

func malformed(format string, args ...any) error {
	return &FormatError{fmt.Sprintf(format, args...)}
}

// DamageError says where and why a log ends that has no end. All records before it are good.
type DamageError struct {
	// Offset is the byte at which the frame begins that is not whole, or its record.
	Offset int64
	// Sequence and Position are those of the last good record; Sequence is 0 if there is none.
	Sequence, Position uint64
	// Torn says that bytes are missing, as behind a writer that was killed; otherwise they are wrong.
	Torn bool
	Err  error
}

func (e *DamageError) Error() string {
	what := "is damaged"
	if e.Torn {
		what = "is cut off"
	}
	good := "there is no good record"
	if e.Sequence > 0 {
		good = fmt.Sprintf("good up to record %d (exit %d)", e.Sequence, e.Position)
	}
	return fmt.Sprintf("the log %s at byte %d: %v; %s", what, e.Offset, e.Err, good)
}

func (e *DamageError) Unwrap() error { return e.Err }
