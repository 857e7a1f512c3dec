package image

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// AddBusybox puts the static busybox at /bin/busybox with a link for each of
// its applets, and the folders that a small root needs.
func (im *Initramfs) AddBusybox(ctx context.Context, busybox string) error {
	if err := im.AddSource("bin/busybox", busybox); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, busybox, "--list-full").Output()
	if err != nil {
		return fmt.Errorf("asking %s for its applets: %w", busybox, err)
	}
	for _, applet := range strings.Fields(string(out)) {
		if applet != "bin/busybox" {
			im.AddSymlink(applet, "/bin/busybox")
		}
	}
	im.AddSymlink("bin/sh", "/bin/busybox") // a merged-/usr busybox lists it elsewhere
	for _, d := range []string{"dev", "proc", "sys", "run", "root", "mnt", "etc", "var/lib", "usr/local/bin"} {
		im.AddDir(d, 0o755)
	}
	im.AddDir("tmp", 0o1777)
	im.AddFile("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	im.AddFile("etc/group", 0o644, []byte("root:x:0:\n"))
	return nil
}
