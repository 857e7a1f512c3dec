package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"tandem/cmd/internal/lab/agent"
)

// benchLab boots a lab for a benchmark.
func benchLab(b *testing.B, cfg Config) (context.Context, *Lab) {
	b.Helper()
	if testing.Short() {
		b.Skip("boots emulated hosts: not with -short")
	}
	ctx, cancel := context.WithTimeout(b.Context(), labTimeout)
	b.Cleanup(cancel)
	l, err := Start(ctx, cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	return ctx, l
}

// BenchmarkBoot is the time from starting QEMU to the agent's hello, and what
// the host holds of this machine's memory then.
func BenchmarkBoot(b *testing.B) {
	for _, cpus := range []int{1, 2} {
		b.Run(fmt.Sprintf("cpus=%d", cpus), func(b *testing.B) {
			for b.Loop() {
				_, l := benchLab(b, Config{CPUs: cpus})
				h := l.Host("h1")
				b.ReportMetric(h.BootTime.Seconds(), "boot-s")
				b.ReportMetric(residentMB(b, h.PID()), "resident-MB")
				l.Close()
			}
		})
	}
}

func residentMB(b *testing.B, pid int) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kB float64
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		b.Fatal(err)
	}
	return kB / 1024
}

// BenchmarkExec is one command from start to exit status.
func BenchmarkExec(b *testing.B) {
	ctx, l := benchLab(b, Config{})
	h := l.Host("h1")
	for b.Loop() {
		if err := h.Run(ctx, agent.Cmd{Args: []string{"true"}}); err != nil {
			b.Fatal(err)
		}
	}
}

const benchFileBytes = 16 << 20

// BenchmarkPut and BenchmarkGet move a file of 16 MiB by the agent.
func BenchmarkPut(b *testing.B) {
	ctx, l := benchLab(b, Config{})
	content := make([]byte, benchFileBytes)
	b.SetBytes(benchFileBytes)
	for b.Loop() {
		if err := l.Host("h1").Put(ctx, "/tmp/file", 0o644, bytes.NewReader(content)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	ctx, l := benchLab(b, Config{})
	h := l.Host("h1")
	if err := h.Put(ctx, "/tmp/file", 0o644, bytes.NewReader(make([]byte, benchFileBytes))); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchFileBytes)
	for b.Loop() {
		if _, err := h.Get(ctx, "/tmp/file", io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDisk reads 64 MiB of a virtio disk.
func BenchmarkDisk(b *testing.B) {
	const diskBytes = 64 << 20
	path := b.TempDir() + "/disk.raw"
	if err := os.WriteFile(path, make([]byte, diskBytes), 0o644); err != nil {
		b.Fatal(err)
	}
	ctx, l := benchLab(b, Config{Hosts: []HostConfig{{Disks: []Disk{{Path: path}}}}})
	b.SetBytes(diskBytes)
	for b.Loop() {
		script := "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=1M"
		if err := l.Host("h1").Run(ctx, agent.Cmd{Args: []string{"sh", "-c", script}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNetwork sends 16 MiB over TCP from one host to another.
func BenchmarkNetwork(b *testing.B) {
	ctx, l := benchLab(b, Config{Hosts: make([]HostConfig, 2)})
	b.SetBytes(benchFileBytes)
	for b.Loop() {
		sink, err := l.Host("h2").Start(ctx, agent.Cmd{Args: []string{"sh", "-c", "nc -l -p 7000 | wc -c"}})
		if err != nil {
			b.Fatal(err)
		}
		script := fmt.Sprintf("until head -c %d /dev/zero | nc h2 7000; do :; done", benchFileBytes)
		if err := l.Host("h1").Run(ctx, agent.Cmd{Args: []string{"sh", "-c", script}}); err != nil {
			b.Fatal(err)
		}
		if err := sink.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}
