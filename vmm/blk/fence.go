package blk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tandem/lockstep/arbiter"
)

// ErrFenced says that another host has a shared disk, or had it since: nothing of this host's may reach it any more.
var ErrFenced = errors.New("another host has the disk")

const (
	// sureFor is how long a host takes it that it still has a disk, counted from when it began to look.
	sureFor = 20 * time.Millisecond
	// maxAnswer is how long storage may take with its answer, for that to be worth anything.
	maxAnswer = 200 * time.Millisecond
	// graceOfHolder is how long a new holder waits before it writes: until all that its predecessor was sure of is over.
	graceOfHolder = maxAnswer + 50*time.Millisecond
	// fenceTimeout is how long storage may take to say who has a disk before it counts as not answering.
	fenceTimeout = 2 * time.Second
	// fenceSuffix makes the name of an image's fence of that of the image.
	fenceSuffix = ".tandem"
	// fenceGuest is how the fence's arbiter calls what its terms are of.
	fenceGuest = "disk"
	// heldPrefix begins the name of a holder's own file.
	heldPrefix = "held-"
	// maxHolders bounds the names in a fence's folder.
	maxHolders = 100_000
	// maxOverText bounds what is read of why a holder is none any more.
	maxOverText = 256
)

// fence says who may write to a shared disk. It is a folder on storage that all its hosts have:
//
//	tandem-arbiter     what the folder is, and its identity, by which hosts tell that they mean the same disk
//	disk/term-…        who won which number: each holder's is one more than that of the one before it (lockstep/arbiter)
//	held-…             a file for each holder, by its number: empty while it may write; who comes after it writes into it
//
// The numbers decide, by link(2), who comes next. A holder looks only at its own file, and always by opening it anew: a
// network file system may answer from what it remembers when it is asked for a name or a list, but asks its server when a
// file is opened. A file that has something in it never becomes empty again, so it does not matter who is late.
type fence struct {
	folder string
	claims *arbiter.File
	// identity is the same for all who mean the same fence.
	identity string
	owner    string
}

// createFence opens the fence in a folder, which is made one if it is none.
func createFence(folder string) (*fence, error) {
	if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := arbiter.CreateFile(folder); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return openFence(folder)
}

// openFence opens the fence in a folder, whose error is arbiter.ErrWrongArbiter if there is none.
func openFence(folder string) (*fence, error) {
	ctx, cancel := context.WithTimeout(context.Background(), fenceTimeout)
	defer cancel()
	claims, err := arbiter.OpenFile(ctx, folder, fenceGuest)
	if err != nil {
		return nil, err
	}
	identity, err := claims.Identity(ctx)
	if err != nil {
		return nil, err
	}
	return &fence{folder: folder, claims: claims, identity: identity, owner: newOwner()}, nil
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9]+`)

// newOwner names a use of a disk by this host.
func newOwner() string {
	host, _ := os.Hostname() // a host without a name is one of many
	return fmt.Sprintf("h%.32s-%.10s", notInNames.ReplaceAllString(host, "-"), rand.Text())
}

// latest returns the number of the latest holder; 0 is none.
func (f *fence) latest() (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), fenceTimeout)
	defer cancel()
	holder, err := f.claims.Latest(ctx)
	return holder.Term, err
}

// take makes this host holder number n. An error that is not ErrFenced says that storage did not answer, and take can be
// called again. When it returns nil no predecessor looks at its file and finds it empty any more.
func (f *fence) take(n uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), fenceTimeout)
	defer cancel()
	won, holder, err := f.claims.TestAndSet(ctx, n, f.owner)
	if err != nil {
		return err
	}
	if !won {
		return fmt.Errorf("%w: %s took it (number %d, %d was to be this host's)", ErrFenced, holder.Owner, holder.Term, n)
	}
	before, err := f.holders(n)
	if err != nil {
		return err
	}
	for _, p := range before {
		if err := f.end(p, n); err != nil {
			return err
		}
	}
	own, err := os.OpenFile(f.path(n), os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(own.Sync(), own.Close(), syncFolder(f.path(n)))
}

// holders returns the numbers of those before n that may have a file, at least of the last one.
func (f *fence) holders(n uint64) ([]uint64, error) {
	folder, err := os.Open(f.folder)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	names, err := folder.Readdirnames(maxHolders)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var numbers []uint64
	if n > 1 {
		numbers = append(numbers, n-1)
	}
	for _, name := range names {
		digits, ok := strings.CutPrefix(name, heldPrefix)
		if number, err := strconv.ParseUint(digits, 10, 64); ok && err == nil && number+1 < n && number > 0 {
			numbers = append(numbers, number)
		}
	}
	return numbers, nil
}

// end says that holder p is none any more, for n is.
func (f *fence) end(p, n uint64) error {
	if over, err := f.over(p); err == nil && over != "" {
		return nil
	}
	file, err := os.OpenFile(f.path(p), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "%s took it (number %d) at %s\n", f.owner, n, time.Now().UTC().Format(time.RFC3339))
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// check tells whether holder n still is it: nil if so. An error that is not ErrFenced says that storage did not answer.
func (f *fence) check(n uint64) error {
	over, err := f.over(n)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Either somebody has deleted the file, which may have had something in it, or the folder is not there.
		if _, lost := f.latest(); lost != nil {
			return lost
		}
		return fmt.Errorf("%w: %w", ErrFenced, err)
	case err != nil:
		return err
	case over != "":
		return fmt.Errorf("%w: %s", ErrFenced, over)
	}
	return nil
}

// over returns why holder n is none any more; "" if it is.
func (f *fence) over(n uint64) (string, error) {
	file, err := os.Open(f.path(n))
	if err != nil {
		return "", err
	}
	defer file.Close()
	text := make([]byte, maxOverText)
	at, err := file.Read(text)
	if at == 0 {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return "", err
	}
	return fmt.Sprintf("%.*q", maxOverText, strings.TrimSpace(string(text[:at]))), nil
}

func (f *fence) path(n uint64) string {
	return filepath.Join(f.folder, fmt.Sprintf("%s%020d", heldPrefix, n))
}

// hostTime is a clock that goes on while the host is suspended.
func hostTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(fmt.Sprintf("blk: CLOCK_BOOTTIME: %v", err)) // Linux has had it since 2.6.39
	}
	return time.Duration(t.Nano())
}
