package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"text/tabwriter"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/labrun"
)

// ioInit is the guest's init: drivers, an address, a shell.
const ioInit = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in virtio_pci virtio_blk virtio_net; do modprobe $m; done
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
export PS1="` + labrun.Prompt + `"
exec setsid cttyhack sh
`

// ioLoad is work for a device of the guest's.
type ioLoad struct {
	name  string
	bytes int // moved by it
	// host is a script for the host that the guest talks to, guest what the guest does.
	host, guest string
	// count is a script that prints how many requests, or packets, the device has had.
	count string
}

const (
	diskCount = "awk '{print $1+$5}' /sys/block/vda/stat"
	netCount  = "awk '{s+=$1} END {print s}' /sys/class/net/eth0/statistics/?x_packets"
)

// ioLoads are what is measured. The first is nothing, to be taken off the others' exits.
var ioLoads = []ioLoad{
	{name: "nothing", guest: "true", count: "echo 0"},
	{name: "disk read, 1 MiB each", bytes: 64 << 20, guest: "dd if=/dev/vda of=/dev/null bs=1M count=64 iflag=direct", count: diskCount},
	{name: "disk write, 1 MiB each", bytes: 64 << 20, guest: "dd if=/dev/zero of=/dev/vda bs=1M count=64 oflag=direct", count: diskCount},
	{name: "disk read, 4 KiB each", bytes: 2 << 20, guest: "dd if=/dev/vda of=/dev/null bs=4k count=512 iflag=direct", count: diskCount},
	{name: "disk write, 4 KiB each", bytes: 2 << 20, guest: "dd if=/dev/zero of=/dev/vda bs=4k count=512 oflag=direct", count: diskCount},
	{name: "TCP from the guest", bytes: 32 << 20, host: "nc -l -p 7001 >/dev/null", guest: "dd if=/dev/zero bs=64k count=512 | nc 10.0.2.2 7001", count: netCount},
	{name: "TCP to the guest", bytes: 32 << 20, host: "dd if=/dev/zero bs=64k count=512 | nc -l -p 7002", guest: "nc 10.0.2.2 7002 >/dev/null </dev/tty", count: netCount},
	{name: "ping, 50 round trips", guest: "ping -q -A -c 50 10.0.2.2", count: netCount},
}

// ioResult is what a load has cost.
type ioResult struct {
	seconds                     float64
	requests, exits, interrupts float64
}

// benchIO measures a guest's disk and network: throughput, time, exits and interrupts of each request.
func benchIO(ctx context.Context, e *labrun.Engine, o benchOptions) error {
	root, err := lab.GuestInitramfs(ctx, e.Artifacts, lab.GuestConfig{Init: ioInit, Modules: []string{"virtio_pci", "virtio_blk", "virtio_net"}})
	if err != nil {
		return err
	}
	var initrd bytes.Buffer
	if _, err := root.WriteTo(&initrd); err != nil {
		return err
	}
	if err := e.Put(ctx, e.Path("io-initrd"), 0o644, &initrd); err != nil {
		return err
	}
	w := tabwriter.NewWriter(o.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "load\ttime s\tMB/s\trequests\tµs each\texits each\tinterrupts each")
	var idle ioResult
	for i, load := range ioLoads {
		r, err := load.measure(ctx, e)
		if err != nil {
			return fmt.Errorf("%s: %w", load.name, err)
		}
		if i == 0 {
			idle = r
			continue
		}
		n := max(r.requests, 1)
		fmt.Fprintf(w, "%s\t%.2f\t%.1f\t%.0f\t%.0f\t%.2f\t%.2f\n", load.name, r.seconds, float64(load.bytes)/1e6/max(r.seconds, 0.01),
			r.requests, r.seconds*1e6/n, (r.exits-idle.exits)/n, (r.interrupts-idle.interrupts)/n)
	}
	return w.Flush()
}

// ioLine is what the guest prints: up-time and requests before and after.
var ioLine = regexp.MustCompile(`measured: ([\d.]+) ([\d.]+) (\d+) (\d+) end`)

// measure boots a guest for the load.
func (l *ioLoad) measure(ctx context.Context, e *labrun.Engine) (ioResult, error) {
	disk, stats := e.Path("io-disk"), e.Path("io-stats")
	guest, err := e.Start(ctx, labrun.Options{}, "sh", "-c", fmt.Sprintf(
		"truncate -s 64M %s; exec %s run -k %s -i %s -m %s -c 'quiet io_delay=none' --disk %[1]s --net user,loopback --stats-json %[6]s",
		disk, e.Tandem(), e.Kernel(), e.Path("io-initrd"), labrun.GuestMemory, stats))
	if err != nil {
		return ioResult{}, err
	}
	if err := guest.Out.Await(ctx, labrun.Prompt); err != nil {
		return ioResult{}, err
	}
	if l.host != "" {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if _, err := e.Start(ctx, labrun.Options{}, "sh", "-c", l.host); err != nil {
			return ioResult{}, err
		}
	}
	script := "t() { cut -d' ' -f1 /proc/uptime; }; a=$(" + l.count + "); s=$(t); { " + l.guest + "; } >/dev/null 2>&1\n" +
		"f=$(t); echo \"measured: $s $f $a $(" + l.count + ") end\"; poweroff -f\n"
	if err := guest.Type(script); err != nil {
		return ioResult{}, err
	}
	if err := guest.Wait(); err != nil {
		return ioResult{}, fmt.Errorf("%w: %s", err, guest.Err)
	}
	m := ioLine.FindStringSubmatch(guest.Out.String())
	if m == nil {
		return ioResult{}, fmt.Errorf("the guest has not said what it measured: %s", guest.Out)
	}
	var n [4]float64
	for i := range n {
		n[i], _ = strconv.ParseFloat(m[i+1], 64) // the expression lets numbers through alone
	}
	r := ioResult{seconds: n[1] - n[0], requests: n[3] - n[2]}
	return r, r.addStats(ctx, e, stats)
}

// addStats reads how many exits and interrupts the machine counted.
func (r *ioResult) addStats(ctx context.Context, e *labrun.Engine, path string) error {
	var text bytes.Buffer
	if _, err := e.Get(ctx, path, &text); err != nil {
		return err
	}
	var stats struct {
		Exits []struct {
			Kind  string  `json:"kind"`
			Count float64 `json:"count"`
		} `json:"exits"`
		Interrupts float64 `json:"interrupts"`
	}
	if err := json.Unmarshal(text.Bytes(), &stats); err != nil {
		return err
	}
	r.interrupts = stats.Interrupts
	for _, x := range stats.Exits {
		if x.Kind != "interrupted" {
			r.exits += x.Count
		}
	}
	return nil
}
