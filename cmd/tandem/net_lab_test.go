package main

import (
	"context"
	"strings"
	"testing"

	"tandem/cmd/internal/labrun"
)

// testTap joins a guest to a bridge of the host, moves data both ways, and deletes the interface under the guest.
func testTap(ctx context.Context, t *testing.T, e *labrun.Engine) {
	if e.Native {
		t.Skip("makes a bridge on the host: only in the lab")
	}
	host(ctx, t, e, "modprobe tun; modprobe bridge; brctl addbr br7 && ip address add 10.9.0.1/24 dev br7 && ip link set br7 up")
	guest := deviceGuest(ctx, t, e, "--net", "tap,bridge=br7,ifname=tap7")
	enter(t, guest, "ip address add 10.9.0.2/24 dev eth0 && ip link set eth0 up && echo addressed $((1 + 1))\n")
	await(ctx, t, guest.Out, "addressed 2", labrun.Prompt)
	host(ctx, t, e, "ping -c 3 -W 20 10.9.0.2")

	// From the host into the guest, and from there back, compared by digest.
	enter(t, guest, "nc -l -p 5000 >/in; md5sum </in; until nc 10.9.0.1 5001 </in; do sleep 1; done\n")
	sum := host(ctx, t, e, "head -c 8000000 /dev/urandom >/tmp/out; until nc -w 20 10.9.0.2 5000 </tmp/out; do sleep 1; done; md5sum </tmp/out")
	await(ctx, t, guest.Out, strings.Fields(sum)[0])
	back := host(ctx, t, e, "nc -l -p 5001 >/tmp/back; md5sum </tmp/back")
	if back != sum {
		t.Errorf("what came back has the digest %q, want %q", back, sum)
	}

	host(ctx, t, e, "ip link delete tap7")
	await(ctx, t, guest.Err, "tap7")
	enter(t, guest, "ping -c 1 -W 1 10.9.0.1; echo still here $((2 + 2))\n")
	await(ctx, t, guest.Out, "100% packet loss", "still here 4")
	enter(t, guest, "poweroff -f\n")
	wantEnd(t, guest, statusOK)
	if left := host(ctx, t, e, "ls /sys/class/net; ip link delete br7"); strings.Contains(left, "tap7") {
		t.Errorf("the tap is still there: %q", left)
	}
}
