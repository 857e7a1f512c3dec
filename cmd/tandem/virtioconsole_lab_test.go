package main

import (
	"context"
	"crypto/md5"
	"fmt"
	"strings"
	"testing"

	"tandem/cmd/internal/labrun"
)

// testVirtioConsole records a guest whose shell is on hvc0, on a terminal, and replays it.
func testVirtioConsole(ctx context.Context, t *testing.T, e *labrun.Engine) {
	dir, serial, shown := e.Path("hvc"), e.Path("hvc-serial"), e.Path("hvc-shown")
	s := start(ctx, t, e, labrun.Options{TTY: true}, e.Tandem(), "record", "-o", dir, "-k", e.Kernel(), "-i", e.Path("devices-initrd"),
		"-m", labrun.GuestMemory, "-c", "quiet", "--console", "file:"+serial, "--virtio-console", "stdio")
	await(ctx, t, s.Out, labrun.Prompt)
	enter(t, s, "tty; read line; echo -n $line | md5sum\n")
	await(ctx, t, s.Out, "/dev/hvc0\r\n")
	line := strings.Repeat("longer than a FIFO ", 100) + "." // as long as a line of a terminal may be, nearly
	enter(t, s, line+"\n")
	await(ctx, t, s.Out, fmt.Sprintf("%x", md5.Sum([]byte(line))), labrun.Prompt)
	// More than the guest's ring has buffers for.
	enter(t, s, "seq 1 300; echo all told; echo said >/dev/ttyS0\n")
	await(ctx, t, s.Out, "\r\n299\r\n300\r\nall told\r\n", labrun.Prompt)
	enter(t, s, "poweroff -f\n")
	wantEnd(t, s, statusOK)
	if got := host(ctx, t, e, "cat "+serial); !strings.Contains(got, "said") || strings.Contains(got, "all told") {
		t.Errorf("on the serial port: %q", got)
	}

	again := host(ctx, t, e, fmt.Sprintf("%s replay %s --console none --virtio-console file:%s && cat %[3]s", e.Tandem(), dir, shown))
	if !strings.Contains(again, "all told") || !strings.Contains(s.Out.String(), again) {
		t.Errorf("the replay shows %q", again)
	}
	host(ctx, t, e, "rm -r "+dir)
}
