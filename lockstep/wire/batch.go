package wire

// Batch is records that stand one behind the other, encoded: a frame's body and what its header needs.
type Batch struct {
	Base    Base
	Records int
	// Position is that of the last record.
	Position uint64
	Bytes    []byte
}

// Last returns the sequence number of the last record.
func (b *Batch) Last() uint64 { return b.Base.Sequence + uint64(b.Records) - 1 }
