package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// stride scatters requests: the i-th is at block i*stride of the disk, which is a prime so that all blocks have their turn.
const stride = 1000003

// disk reads or writes count blocks of n bytes, depth at a time.
func disk(write bool, path string, n, count, depth int64) (time.Duration, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	blocks := size / n
	if blocks == 0 {
		return 0, fmt.Errorf("%s has %d bytes, less than a request", path, size)
	}
	// Direct I/O wants memory that is aligned.
	memory, err := unix.Mmap(-1, 0, int(n*depth), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return 0, err
	}
	// Each worker has a processor of its own: one whose request is under way must not keep another waiting until the runtime
	// notices, which takes longer where timers have slack.
	runtime.GOMAXPROCS(max(int(depth)+1, runtime.GOMAXPROCS(0)))
	var next atomic.Int64
	var workers sync.WaitGroup
	failures := make(chan error, depth)
	start := time.Now()
	for w := range depth {
		buffer := memory[w*n : (w+1)*n]
		workers.Go(func() {
			for i := next.Add(1) - 1; i < count; i = next.Add(1) - 1 {
				if err := request(f, write, buffer, i*stride%blocks*n); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	workers.Wait()
	took := time.Since(start)
	select {
	case err := <-failures:
		return 0, err
	default:
		return took, nil
	}
}

func request(f *os.File, write bool, buffer []byte, at int64) error {
	if write {
		_, err := f.WriteAt(buffer, at)
		return err
	}
	_, err := f.ReadAt(buffer, at)
	return err
}
