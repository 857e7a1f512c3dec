package blk

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"

	"tandem/devices/virtio"
)

// Kind is what a disk's content is in, and so what of it has to be sent to make a replica. The words are part of what
// hosts tell each other and are never changed.
type Kind string

const (
	// Raw is a file or block device of its own: all of it is sent.
	Raw Kind = "raw"
	// Overlay is an overlay, of which only its own clusters are sent: both hosts have the base.
	Overlay Kind = "overlay"
	// ReadOnly is a disk that never changes: nothing is sent, both hosts have it.
	ReadOnly Kind = "read-only"
	// Shared is a disk that both hosts reach: nothing is sent.
	Shared Kind = "shared"
)

// Form says what a replica of a disk has to be like.
type Form struct {
	Kind Kind `json:"kind"`
	// Size is the disk's size in bytes.
	Size int64 `json:"size"`
	// Base is the fingerprint of what both hosts must have, in hexadecimal: an overlay's base, or a read-only disk. It is
	// empty for Raw.
	Base string `json:"base,omitempty"`
	// Identity names the fence of a shared disk, and Number the primary as its holder.
	Identity string `json:"identity,omitempty"`
	Number   uint64 `json:"number,omitempty"`
}

// formed is an image that knows its form.
type formed interface{ form() (Form, error) }

// FormOf returns the form of replicas of image.
func FormOf(image Image) (Form, error) {
	if f, ok := image.(formed); ok {
		return f.form()
	}
	if !image.ReadOnly() {
		return Form{Kind: Raw, Size: image.Size()}, nil
	}
	print, err := fingerprint(image)
	if err != nil {
		return Form{}, err
	}
	return Form{Kind: ReadOnly, Size: image.Size(), Base: hex.EncodeToString(print[:])}, nil
}

func (o *overlay) form() (Form, error) {
	return Form{Kind: Overlay, Size: o.head.size, Base: hex.EncodeToString(o.head.fingerprint[:])}, nil
}

// rowBytes is how much of a row of disks a disk of this form takes.
func (f Form) rowBytes() int64 {
	if f.Kind == ReadOnly || f.Kind == Shared {
		return 0
	}
	return f.Size
}

// check refuses a form that no disk has; it may come from a peer.
func (f Form) check() error {
	print, err := hex.DecodeString(f.Base)
	switch {
	case f.Size <= 0 || f.Size > maxDiskSize || f.Size%virtio.SectorSize != 0:
		return fmt.Errorf("the primary says that it has %d bytes, which no disk has", f.Size)
	case f.Kind == Shared:
		return f.checkShared()
	case f.Kind != Raw && f.Kind != Overlay && f.Kind != ReadOnly:
		return fmt.Errorf("the primary calls it %q, which this program does not know: install the same release on both hosts", f.Kind)
	case err != nil || f.Kind == Raw && len(print) != 0 || f.Kind != Raw && len(print) != fingerprintN:
		return fmt.Errorf("the primary's fingerprint of it is none")
	}
	return nil
}

// checkShared refuses what no shared disk is known by.
func (f Form) checkShared() error {
	if f.Base != "" || f.Identity == "" || len(f.Identity) > maxIdentity || f.Number == 0 || f.Number == math.MaxUint64 {
		return errors.New("the primary does not say which shared disk it is")
	}
	return nil
}

// maxIdentity bounds the name of a fence.
const maxIdentity = 256
