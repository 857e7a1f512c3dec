// Command guest is diskcheck for use inside a guest: guest write|verify|verify-uncertain DEVICE SEED WRITES. It goes past
// the page cache.
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"tandem/cmd/internal/diskcheck"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Printf("diskcheck: FAILED: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("want write|verify|verify-uncertain DEVICE SEED WRITES")
	}
	seed, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return err
	}
	writes, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[1], os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	plan := diskcheck.Plan{Seed: seed, Writes: writes, Blocks: size / diskcheck.BlockBytes}
	if err := plan.Check(); err != nil {
		return err
	}
	// Direct I/O wants memory that is aligned.
	buffer, err := unix.Mmap(-1, 0, diskcheck.MaxRunBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	switch args[0] {
	case "write":
		return write(plan, f, buffer)
	case "verify":
		err = plan.Verify(f, buffer, func(int64) bool { return false })
	default:
		err = plan.Verify(f, buffer, func(int64) bool { return true })
	}
	if err == nil {
		fmt.Printf("diskcheck: %s is right in all %d blocks after %d writes\n", args[1], plan.Blocks, plan.Writes)
	}
	return err
}

// write carries the plan out and reads all back at once.
func write(plan diskcheck.Plan, f *os.File, buffer []byte) error {
	uncertain, failure := plan.Write(f, buffer)
	if failure != nil {
		fmt.Printf("diskcheck: writes failed, the last with: %v\n", failure)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := plan.Verify(f, buffer, func(b int64) bool { return uncertain[b] }); err != nil {
		return err
	}
	fmt.Printf("diskcheck: wrote %s, %d of %d blocks uncertain\n", f.Name(), len(uncertain), plan.Blocks)
	return nil
}
