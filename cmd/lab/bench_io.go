package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/labrun"
)

// ioInit is the guest's init: drivers, an address, slack for the timers of Go's runtime (package ioload says why), a shell. Linux
// hands parameters of its command line that it does not know to init as variables.
const ioInit = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in virtio_pci virtio_mmio virtio_blk virtio_net; do modprobe $m; done
ip address add ${guest_address:-10.0.2.15/24} dev eth0
ip link set eth0 up
echo 100000000 >/proc/$$/timerslack_ns
export server=${guest_host:-10.0.2.2}:` + ioPort + ` PS1="` + labrun.Prompt + `"
exec setsid cttyhack sh
`

const (
	ioTimeout   = 5 * time.Minute // of one load
	ioPort      = "7001"          // where the guest's peer is, on the host
	ioDiskMiB   = 64
	ioloadName  = "ioload"
	ioInterrupt = "awk '/virtio/ {s+=$2} END {print s+0}' /proc/interrupts"
)

// What counts a device's requests, in the guest.
const (
	diskCount = "awk '{print $1+$5}' /sys/block/vda/stat"
	netCount  = "cat /sys/class/net/eth0/statistics/?x_packets | awk '{s+=$1} END {print s}'"
)

// ioLoad is work for a device of the guest's.
type ioLoad struct {
	name  string
	bytes int    // moved by it
	trips int    // round trips made by it, which are then what is counted
	guest string // what the guest does; it prints what ioload does
	count string // a script that prints how many requests, or packets, the device has had
}

// ioLoads are what is measured. The first is nothing, to be taken off the others' exits.
var ioLoads = []ioLoad{
	{name: "nothing", guest: "echo took 0 s", count: "echo 0"},
	{name: "disk read, 1 MiB", bytes: 256 << 20, guest: "ioload read /dev/vda 1048576 256 1", count: diskCount},
	{name: "disk write, 1 MiB", bytes: 256 << 20, guest: "ioload write /dev/vda 1048576 256 1", count: diskCount},
	{name: "disk read, 4 KiB", bytes: 8 << 20, guest: "ioload read /dev/vda 4096 2048 1", count: diskCount},
	{name: "disk read, 4 KiB, 16 at a time", bytes: 16 << 20, guest: "ioload read /dev/vda 4096 4096 16", count: diskCount},
	{name: "disk write, 4 KiB", bytes: 8 << 20, guest: "ioload write /dev/vda 4096 2048 1", count: diskCount},
	{name: "disk write, 4 KiB, 16 at a time", bytes: 16 << 20, guest: "ioload write /dev/vda 4096 4096 16", count: diskCount},
	{name: "TCP from the guest", bytes: 32 << 20, guest: "ioload send $server 33554432", count: netCount},
	{name: "TCP to the guest", bytes: 32 << 20, guest: "ioload receive $server 33554432", count: netCount},
	{name: "TCP there and back, 1 byte", trips: 1000, guest: "ioload trips $server 1000", count: netCount},
}

// onDisk tells which device a load is for.
func (l *ioLoad) onDisk() bool { return l.count == diskCount }
func (l *ioLoad) onNet() bool  { return l.count == netCount }

// ioResult is what a load has cost.
type ioResult struct {
	seconds                     float64
	requests, exits, interrupts float64
}

// benchIO measures a guest's disk and network: throughput, time, exits and interrupts of each request.
func benchIO(ctx context.Context, e *labrun.Engine, o benchOptions) error {
	fmt.Fprintf(o.out, "io: a disk of %d MiB, and user-mode networking to a server on the host; %s\n", ioDiskMiB, e.Reason)
	stop, err := prepareIO(ctx, e)
	if err != nil {
		return err
	}
	defer stop()
	if err := measureIO(ctx, e, o.out, tandemIO(e)); err != nil {
		return err
	}
	if o.other.program == "" {
		return nil
	}
	fmt.Fprintf(o.out, "the same with %s:\n", o.other.program)
	return measureIO(ctx, e, o.out, o.other.io(e))
}

// prepareIO puts the guest's root, its disk and the server that it talks to into the engine, and starts the server.
func prepareIO(ctx context.Context, e *labrun.Engine) (stop func(), err error) {
	dir, err := os.MkdirTemp("", "ioload-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program, err := lab.BuildStatic(ctx, "tandem/cmd/internal/ioload", ioloadName)
	if err != nil {
		return nil, err
	}
	if err := e.PutFile(ctx, program, e.Path(ioloadName)); err != nil {
		return nil, err
	}
	root, err := lab.GuestInitramfs(ctx, e.Artifacts, lab.GuestConfig{
		Init: ioInit, Modules: []string{"virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net"},
		Files: map[string]string{"bin/ioload": program},
	})
	if err != nil {
		return nil, err
	}
	var initrd bytes.Buffer
	if _, err := root.WriteTo(&initrd); err != nil {
		return nil, err
	}
	if err := e.Put(ctx, e.Path("io-initrd"), 0o644, &initrd); err != nil {
		return nil, err
	}
	serving, cancel := context.WithCancel(ctx)
	_, err = e.Start(serving, labrun.Options{}, e.Path(ioloadName), "serve", "127.0.0.1:"+ioPort)
	return cancel, err
}

// ioMachine is a command that runs the guest.
type ioMachine struct {
	command   string
	disk, net bool   // it has them
	stats     string // the file where it leaves tandem's statistics, "" for another VMM
}

func tandemIO(e *labrun.Engine) ioMachine {
	stats := e.Path("io-stats")
	return ioMachine{
		command: fmt.Sprintf("%s run -k %s -i %s -m %s -c 'quiet io_delay=none' --disk %s --net user,loopback --stats-json %s",
			e.Tandem(), e.Kernel(), e.Path("io-initrd"), labrun.GuestMemory, e.Path("io-disk"), stats),
		disk: true, net: true, stats: stats,
	}
}

// io is the other VMM's command. It has a disk if it wants {disk}, and a network if it tells the guest of it by guest_host=ADDR
// and guest_address=ADDR/BITS on the kernel's command line.
func (v otherVMM) io(e *labrun.Engine) ioMachine {
	fill := strings.NewReplacer("{kernel}", e.Kernel(), "{initrd}", e.Path("io-initrd"), "{disk}", e.Path("io-disk"),
		"{memory}", strconv.Itoa(labrun.GuestMemoryBytes>>20), "{cmdline}", "console=ttyS0 quiet")
	return ioMachine{
		command: e.Path(otherName) + " " + fill.Replace(v.rest),
		disk:    strings.Contains(v.rest, "{disk}"), net: strings.Contains(v.rest, "guest_host="),
	}
}

// measureIO prints a row for each load as soon as it is measured.
func measureIO(ctx context.Context, e *labrun.Engine, out io.Writer, m ioMachine) error {
	fmt.Fprintf(out, "  %-32s %8s %8s %9s %9s %8s %10s\n", "", "seconds", "MB/s", "requests", "µs each", "exits", "interrupts")
	var idle ioResult
	for i, load := range ioLoads {
		if load.onDisk() && !m.disk || load.onNet() && !m.net {
			continue
		}
		r, err := load.measure(ctx, e, m)
		if err != nil {
			return fmt.Errorf("%s: %w", load.name, err)
		}
		if i == 0 {
			idle = r
			continue
		}
		r.exits -= idle.exits
		fmt.Fprintln(out, load.row(r, m.stats != ""))
	}
	return nil
}

// row says what a load has cost. Exits and interrupts are those of a request.
func (l *ioLoad) row(r ioResult, exits bool) string {
	throughput, perRequest := "", "-"
	if l.bytes > 0 {
		throughput = fmt.Sprintf("%.1f", float64(l.bytes)/1e6/max(r.seconds, 1e-6))
	}
	n := max(r.requests, 1)
	if l.trips > 0 {
		n = float64(l.trips)
	}
	if exits {
		perRequest = fmt.Sprintf("%.2f", r.exits/n)
	}
	return fmt.Sprintf("  %-32s %8.2f %8s %9.0f %9.0f %8s %10.2f", l.name, r.seconds, throughput, n, r.seconds*1e6/n, perRequest, r.interrupts/n)
}

// ioLine is what the guest prints: how long the load took, and requests and interrupts before and after.
var ioLine = regexp.MustCompile(`measured: took ([\d.]+) s, (\d+) to (\d+), (\d+) to (\d+) end`)

// measure boots a guest for the load.
func (l *ioLoad) measure(ctx context.Context, e *labrun.Engine, m ioMachine) (ioResult, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, ioTimeout, fmt.Errorf("not done after %v", ioTimeout))
	defer cancel() // ends the command, too
	disk := fmt.Sprintf("rm -f %[1]s; dd if=/dev/zero of=%[1]s bs=1048576 count=%[2]d 2>/dev/null; ", e.Path("io-disk"), ioDiskMiB)
	guest, err := e.Start(ctx, labrun.Options{}, "sh", "-c", disk+"exec "+m.command)
	if err != nil {
		return ioResult{}, err
	}
	if err := guest.Out.Await(ctx, labrun.Prompt); err != nil {
		return ioResult{}, fmt.Errorf("%w; %s said: %s", err, filepath.Base(m.command), guest.Err)
	}
	script := fmt.Sprintf("n() { %s; }; i() { %s; }; a=$(n); b=$(i); r=$(%s); echo \"measured: $r, $a to $(n), $b to $(i) end\"\n", l.count, ioInterrupt, l.guest)
	if err := guest.Type(script); err != nil {
		return ioResult{}, err
	}
	if err := guest.Out.Await(ctx, " end\r\n"); err != nil {
		return ioResult{}, fmt.Errorf("%w; the guest said: %s", err, guest.Out)
	}
	said := ioLine.FindStringSubmatch(guest.Out.String())
	if said == nil {
		return ioResult{}, fmt.Errorf("the guest has not said what it measured: %s", guest.Out)
	}
	var n [5]float64
	for i := range n {
		n[i], _ = strconv.ParseFloat(said[i+1], 64) // the expression lets numbers through alone
	}
	r := ioResult{seconds: n[0], requests: n[2] - n[1], interrupts: n[4] - n[3]}
	if m.stats == "" {
		return r, nil
	}
	if err := guest.Type("poweroff -f\n"); err != nil {
		return ioResult{}, err
	}
	if err := guest.Wait(); err != nil {
		return ioResult{}, fmt.Errorf("%w: %s", err, guest.Err)
	}
	return r, r.addExits(ctx, e, m.stats)
}

// addExits reads how many exits the machine counted.
func (r *ioResult) addExits(ctx context.Context, e *labrun.Engine, path string) error {
	var text bytes.Buffer
	if _, err := e.Get(ctx, path, &text); err != nil {
		return err
	}
	var stats struct {
		Exits []struct {
			Kind  string  `json:"kind"`
			Count float64 `json:"count"`
		} `json:"exits"`
	}
	if err := json.Unmarshal(text.Bytes(), &stats); err != nil {
		return err
	}
	for _, x := range stats.Exits {
		if x.Kind != "interrupted" {
			r.exits += x.Count
		}
	}
	return nil
}
