package arbiter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	// markName is the file by which an arbiter's folder is known. A mount point without its storage doesn't have it, which
	// is the point: on two hosts with an empty folder each, both would win.
	markName  = "tandem-arbiter"
	markMagic = "tandem-arbiter 1 "

	termPrefix = "term-"
	tempPrefix = "claim-"
	// maxEntries bounds a guest's folder: claims of a century of daily failovers.
	maxEntries = 40_000
)

var (
	markID        = regexp.MustCompile(`^[A-Z2-7]{26}$`)
	errNotRegular = errors.New("it is no regular file")
)

// File is an arbiter in a folder on shared storage:
//
//	tandem-arbiter                       what the folder is, and its identity
//	mail/term-00000000000000000007       the claim of term 7 of guest mail
//	mail/claim-XYZ                       a claim being made, or one whose maker died
//
// A claim is written under a name of its own, synced, and then linked to its term's name. link(2) is the one step that
// decides, and it is atomic on local file systems and on NFS, which locks are not as surely: those of a host that lost
// power last until the server's lease on it ends, which is 90 seconds during which nobody could win. What is under a
// term's name is always complete.
//
// A list of a folder may be stale on NFS. It serves only to refuse a claim of a term whose successor was won; that the term
// itself has one winner rests on link alone.
type File struct {
	storage storage
	folder  string
	guest   string
	id      string
	now     func() time.Time
	// turn holds the one piece of work under way. A call to storage that hangs keeps it, and others get ErrUnreachable.
	turn chan struct{}
}

// CreateFile makes an existing folder on shared storage an arbiter's, once, from one host. It fails with fs.ErrExist if it
// is one already.
func CreateFile(folder string) error { return createFile(hostStorage{}, folder) }

func createFile(s storage, folder string) error {
	mark := filepath.Join(folder, markName)
	if _, err := s.ReadFile(mark, MaxClaimBytes); err == nil {
		return fmt.Errorf("%s: %w", mark, fs.ErrExist)
	}
	temp, err := writeTemp(s, folder, []byte(markMagic+rand.Text()+"\n"))
	if err != nil {
		return err
	}
	err = s.Link(temp, mark)
	return errors.Join(err, s.Remove(temp), s.SyncDir(folder))
}

// OpenFile opens the arbiter in a folder for a guest.
func OpenFile(ctx context.Context, folder, guest string) (*File, error) {
	return openFile(ctx, hostStorage{}, folder, guest)
}

func openFile(ctx context.Context, s storage, folder, guest string) (*File, error) {
	if err := CheckGuest(guest); err != nil {
		return nil, err
	}
	f := &File{storage: s, folder: folder, guest: guest, now: time.Now, turn: make(chan struct{}, 1)}
	id, err := work(ctx, f, func() (string, error) { return f.mark() })
	if err != nil {
		return nil, err
	}
	f.id = id
	return f, nil
}

// mark reads the folder's identity.
func (f *File) mark() (string, error) {
	path := filepath.Join(f.folder, markName)
	b, err := f.storage.ReadFile(path, MaxClaimBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: %s is missing: is the shared storage mounted, and made an arbiter's?", ErrWrongArbiter, path)
	}
	if err != nil {
		return "", unreachable(err)
	}
	id, ok := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), markMagic)
	if !ok || !markID.MatchString(id) {
		return "", fmt.Errorf("%w: %s", ErrCorrupt, path)
	}
	return id, nil
}

// Identity names the folder, wherever each host has mounted it.
func (f *File) Identity(context.Context) (string, error) {
	return SpecFile + ":" + f.id + "/" + f.guest, nil
}

// Close does nothing: no file stays open.
func (f *File) Close() error { return nil }

// TestAndSet claims a term.
func (f *File) TestAndSet(ctx context.Context, term uint64, owner string) (won bool, holder Holder, err error) {
	c, err := NewClaim(f.guest, term, owner, f.now())
	if err != nil {
		return false, Holder{}, err
	}
	type outcome struct {
		won    bool
		holder Holder
	}
	o, err := work(ctx, f, func() (outcome, error) {
		won, holder, err := f.claim(c)
		return outcome{won, holder}, err
	})
	return o.won, o.holder, err
}

// Latest finds the claim of the latest term.
func (f *File) Latest(ctx context.Context) (Holder, error) {
	return work(ctx, f, func() (Holder, error) {
		if err := f.same(); err != nil {
			return Holder{}, err
		}
		return f.latest()
	})
}

// work does something that storage may hang in: a network file system without its server blocks for ever, and no signal
// ends that. The caller gets ErrUnreachable when the context ends; the work goes on, and what it does late harms nothing.
func work[T any](ctx context.Context, f *File, do func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return none, unreachable(fmt.Errorf("%s: %w", f.folder, context.Cause(ctx)))
	}
	done := make(chan result, 1)
	go func() {
		value, err := do()
		<-f.turn
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, unreachable(fmt.Errorf("%s does not answer: %w", f.folder, context.Cause(ctx)))
	}
}

func unreachable(err error) error { return fmt.Errorf("%w: %w", ErrUnreachable, err) }

// same makes sure that the folder is the one that was opened.
func (f *File) same() error {
	id, err := f.mark()
	if err == nil && id != f.id {
		err = fmt.Errorf("%w: %s was another folder's when it was opened", ErrWrongArbiter, f.folder)
	}
	return err
}

func (f *File) claim(c Claim) (won bool, holder Holder, err error) {
	if err := f.same(); err != nil {
		return false, Holder{}, err
	}
	latest, err := f.latest()
	if err != nil {
		return false, Holder{}, err
	}
	if won, done := c.Settle(latest); done {
		return f.settled(won, latest)
	}
	taken, err := f.link(c)
	if err != nil {
		return false, Holder{}, err
	}
	if !taken {
		return f.settled(true, c.Holder)
	}
	// Another was first, or it was this owner, whose link succeeded though storage said otherwise.
	latest, err = f.read(c.Term)
	if err != nil {
		return false, Holder{}, err
	}
	won, _ = c.Settle(latest)
	return f.settled(won, latest)
}

// settled makes a known outcome lasting before it is told: a winner must not lose its term to the storage's loss of power.
func (f *File) settled(won bool, holder Holder) (bool, Holder, error) {
	if !won {
		return false, holder, nil
	}
	if err := f.storage.SyncDir(f.guestFolder()); err != nil {
		return false, Holder{}, unreachable(err)
	}
	return true, holder, nil
}

// link puts the claim under its term's name; taken says that the name had a file.
func (f *File) link(c Claim) (taken bool, err error) {
	folder := f.guestFolder()
	if err := f.storage.Mkdir(folder); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, unreachable(err)
	}
	if err := f.storage.SyncDir(f.folder); err != nil {
		return false, unreachable(err)
	}
	temp, err := writeTemp(f.storage, folder, c.Encode())
	if err != nil {
		return false, unreachable(err)
	}
	err = f.storage.Link(temp, f.termPath(c.Term))
	// What stays of the temporary name if this fails is in nobody's way.
	removed := f.storage.Remove(temp)
	switch {
	case errors.Is(err, fs.ErrExist):
		return true, nil
	case err != nil:
		return false, unreachable(errors.Join(err, removed))
	}
	return false, nil
}

// writeTemp writes a complete, synced file of a new name.
func writeTemp(s storage, folder string, content []byte) (path string, err error) {
	path = filepath.Join(folder, tempPrefix+rand.Text())
	file, err := s.Create(path)
	if err != nil {
		return "", err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return "", errors.Join(err, s.Remove(path))
	}
	return path, nil
}

func (f *File) guestFolder() string { return filepath.Join(f.folder, f.guest) }

// termPath has the term in as many digits as any term has, so that a listing is in order.
func (f *File) termPath(term uint64) string {
	return filepath.Join(f.guestFolder(), fmt.Sprintf("%s%020d", termPrefix, term))
}

// latest reads the claim of the highest term in the folder.
func (f *File) latest() (Holder, error) {
	names, err := f.storage.Names(f.guestFolder(), maxEntries)
	if errors.Is(err, fs.ErrNotExist) {
		return Holder{}, nil
	}
	if err != nil {
		return Holder{}, unreachable(err)
	}
	var highest uint64
	for _, n := range names {
		digits, ok := strings.CutPrefix(n, termPrefix)
		if !ok {
			continue
		}
		term, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || len(digits) != 20 || term == 0 {
			return Holder{}, fmt.Errorf("%w: %s has a file %q", ErrCorrupt, f.guestFolder(), n)
		}
		highest = max(highest, term)
	}
	if highest == 0 {
		return Holder{}, nil
	}
	return f.read(highest)
}

// read reads the claim of a term that has one.
func (f *File) read(term uint64) (Holder, error) {
	path := f.termPath(term)
	b, err := f.storage.ReadFile(path, MaxClaimBytes)
	switch {
	case errors.Is(err, errTooLarge), errors.Is(err, errNotRegular):
		return Holder{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	case err != nil:
		return Holder{}, unreachable(err)
	}
	c, err := DecodeClaim(b, f.guest)
	if err == nil && c.Term != term {
		err = fmt.Errorf("%w: it claims term %d", ErrCorrupt, c.Term)
	}
	if err != nil {
		return Holder{}, fmt.Errorf("%s: %w", path, err)
	}
	return c.Holder, nil
}
