package labrun

import (
	"bufio"
	"context"
	"os"

	"tandem/cmd/internal/lab"
)

// InitMarker is the first that the guest's init prints; Prompt is its shell's.
const (
	InitMarker = "the guest is up"
	Prompt     = "guest# "
)

// GuestMemory is the memory that a guest gets.
const (
	GuestMemory      = "128M"
	GuestMemoryBytes = 128 << 20
)

// guestInit hands the console to a shell with job control.
const guestInit = `#!/bin/sh
echo "` + InitMarker + `"
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
export HOME=/root PS1="` + Prompt + `"
cd /root
exec setsid cttyhack sh
`

// writeGuest writes the guest's initramfs to a file of this machine.
func writeGuest(ctx context.Context, a *lab.Artifacts, path string) error {
	root, err := lab.GuestInitramfs(ctx, a, lab.GuestConfig{Init: guestInit})
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	_, err = root.WriteTo(w)
	if err == nil {
		err = w.Flush()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
