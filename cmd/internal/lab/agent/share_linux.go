package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"
)

// ShareMessageBytes bounds what one message of a shared folder carries of a
// file; with its header it fits in a frame.
const ShareMessageBytes = 32 << 10

// fuseDevice is where the kernel asks what a FUSE file system holds.
const fuseDevice = "/dev/fuse"

// share mounts a folder whose content the client serves: each message that the
// kernel has for a FUSE server (fuse(4)) goes to the client in a frame, and each
// frame that comes back is an answer. KindEnd says that the folder is ready.
func share(ctx context.Context, st *yamux.Stream, req Request) error {
	fd, err := unix.Open(fuseDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", fuseDevice, err)
	}
	err = mountShare(fd, req.Path)
	// Only now: before it is mounted it can't be waited for, which Go would remember.
	dev := os.NewFile(uintptr(fd), fuseDevice)
	defer dev.Close() // what is under way in the folder fails then
	if err != nil {
		return err
	}
	defer unix.Unmount(req.Path, unix.MNT_DETACH)
	if err := writeJSON(st, KindReply, Reply{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { dev.Close() })
	defer stop()
	go func() {
		defer dev.Close()
		_ = answerShare(dev, st) // the client went away
	}()
	w := LockedWriter(st)
	go func() {
		if learnNoPoll(req.Path) == nil {
			_ = WriteFrame(w, KindEnd, nil) // a stream that fails is seen by askShare
		}
	}()
	return askShare(w, dev)
}

// learnNoPoll lets the kernel find out that files of the folder can't be
// polled, which the client's server answers for a file of this name. Go asks
// that of every file that it opens, in a system call which is taken for one that
// can't wait: without an answer known before, the agent, which has to bring it,
// could stop.
func learnNoPoll(path string) error {
	fd, err := unix.Open(path+"/.go-fuse-epoll-hack", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err
}

func mountShare(fd int, path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,max_read=%d", fd, ShareMessageBytes)
	if err := unix.Mount("lab", path, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mounting the shared folder on %s: %w", path, err)
	}
	return nil
}

// askShare sends the kernel's requests until the folder is unmounted.
func askShare(w io.Writer, dev io.Reader) error {
	b := make([]byte, maxDataBytes)
	for {
		n, err := dev.Read(b)
		switch {
		case errors.Is(err, unix.ENOENT): // the one who asked has given up
		case errors.Is(err, unix.ENODEV), errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("reading what is asked of the shared folder: %w", err)
		default:
			if err := WriteFrame(w, KindData, b[:n]); err != nil {
				return err
			}
		}
	}
}

// answerShare brings the kernel the client's answers.
func answerShare(dev io.Writer, r io.Reader) error {
	for {
		k, b, err := ReadFrame(r)
		if err != nil {
			return err
		}
		if k != KindData {
			return fmt.Errorf("unexpected frame of kind %d from a shared folder", k)
		}
		if _, err := dev.Write(b); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
}
