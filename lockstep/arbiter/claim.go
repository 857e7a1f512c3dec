package arbiter

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
)

// MaxClaimBytes bounds an encoded claim.
const MaxClaimBytes = 512

const claimMagic = "tandem-claim 1"

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	fields     = [...]string{"guest ", "term ", "owner ", "at "}
)

// Encode returns the claim's bytes.
func (c Claim) Encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nguest %s\nterm %d\nowner %s\nat %s\n", claimMagic, c.Guest, c.Term, c.Owner, c.At.Format(time.RFC3339))
	return fmt.Appendf(b.Bytes(), "crc32c %08x\n", crc32.Checksum(b.Bytes(), castagnoli))
}

// DecodeClaim decodes a claim of a guest. Every error is ErrCorrupt.
func DecodeClaim(b []byte, guest string) (Claim, error) {
	c, err := decode(b)
	if err != nil {
		return Claim{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if !bytes.Equal(c.Encode(), b) {
		return Claim{}, fmt.Errorf("%w: its checksum or form is wrong", ErrCorrupt)
	}
	if c.Guest != guest {
		return Claim{}, fmt.Errorf("%w: it is a claim of guest %q, not of %q", ErrCorrupt, c.Guest, guest)
	}
	return c, nil
}

// decode reads the fields; whether they were written so is left to the caller.
func decode(b []byte) (Claim, error) {
	if len(b) > MaxClaimBytes {
		return Claim{}, fmt.Errorf("it is longer than %d bytes", MaxClaimBytes)
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) != len(fields)+3 || lines[0] != claimMagic {
		return Claim{}, fmt.Errorf("it is no %q", claimMagic)
	}
	var values [len(fields)]string
	for i, field := range fields {
		value, ok := strings.CutPrefix(lines[i+1], field)
		if !ok {
			return Claim{}, fmt.Errorf("line %d is not its %s", i+2, strings.TrimSpace(field))
		}
		values[i] = value
	}
	term, err := strconv.ParseUint(values[1], 10, 64)
	if err != nil {
		return Claim{}, fmt.Errorf("its term: %w", err)
	}
	at, err := time.Parse(time.RFC3339, values[3])
	if err != nil {
		return Claim{}, fmt.Errorf("its time: %w", err)
	}
	return NewClaim(values[0], term, values[2], at)
}
