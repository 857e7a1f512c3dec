package rootfs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// node is what an image says of a path beside its content.
type node struct {
	mode   fs.FileMode // type and permissions, with set-user-ID, set-group-ID and sticky bits
	uid    int
	gid    int
	target string // of a symbolic link
}

// tree is an image in the making. Contents are files below stage; owners and permissions are in nodes, because a user who
// is not root can't give them to the staged files. Paths are relative, cleaned and free of links to directories: /bin
// and its like are mapped to /usr/bin on the way in.
type tree struct {
	stage *os.Root
	nodes map[string]node
	// bytes is the sum of the sizes of all regular files written. Invariant: bytes <= limit + 1.
	bytes, limit int64
	// versions has the packages that were unpacked.
	versions map[string]string
}

// merged are the top directories that Debian has moved below /usr. Older packages still name the old places.
var merged = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// maxTreeBytes bounds what is unpacked: a sparse file in a small archive can claim any size.
const maxTreeBytes = 64 << 30

// maxLinkDepth bounds how often a path is followed through links; Linux has 40 too.
const maxLinkDepth = 40

func newTree(stage *os.Root) (*tree, error) {
	t := &tree{stage: stage, nodes: map[string]node{}, limit: maxTreeBytes, versions: map[string]string{}}
	for _, dir := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64"} {
		if err := t.mkdir(dir, 0o755, 0, 0); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := t.symlink(name, "usr/"+name, 0, 0); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// clean makes a path of an archive one of the tree. What would leave the tree is cut off at its root.
func clean(name string) (string, error) {
	if strings.ContainsAny(name, "\n\x00\"") {
		return "", fmt.Errorf("%q: a line break, NUL or quote in a path is not supported", name)
	}
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	for _, dir := range merged {
		if strings.HasPrefix(name, dir+"/") {
			return "usr/" + name, nil
		}
	}
	return name, nil
}

// resolve maps the directories of a path through the tree's links, so that two names of one file are one path.
func (t *tree) resolve(name string) (string, error) {
	name, err := clean(name)
	if err != nil {
		return "", err
	}
	for range maxLinkDepth {
		link, rest := t.firstLink(name)
		if link == "" {
			return name, nil
		}
		target := t.nodes[link].target
		if !strings.HasPrefix(target, "/") {
			target = path.Join("/", path.Dir(link), target)
		}
		if name, err = clean(path.Join(target, rest)); err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("%s: too many links", name)
}

// firstLink finds the first proper prefix of a path that is a symbolic link.
func (t *tree) firstLink(name string) (link, rest string) {
	for i := range len(name) {
		if name[i] != '/' {
			continue
		}
		if n, ok := t.nodes[name[:i]]; ok && n.mode&fs.ModeSymlink != 0 {
			return name[:i], name[i+1:]
		}
	}
	return "", ""
}

// place resolves a path and makes the directories above it.
func (t *tree) place(name string) (string, error) {
	name, err := t.resolve(name)
	if err != nil || name == "" {
		return name, err
	}
	if dir := path.Dir(name); dir != "." {
		if _, ok := t.nodes[dir]; !ok {
			if err := t.mkdir(dir, 0o755, 0, 0); err != nil {
				return "", err
			}
		}
	}
	return name, nil
}

// mkdir makes a directory, or gives one that exists a new mode and owner. The tree's root stays as it is.
func (t *tree) mkdir(name string, perm fs.FileMode, uid, gid int) error {
	name, err := t.place(name)
	if err != nil || name == "" {
		return err
	}
	old, ok := t.nodes[name]
	if ok && old.mode&fs.ModeSymlink != 0 {
		return nil // a package that ships /bin as a directory, or /var/run
	}
	if ok && !old.mode.IsDir() {
		return fmt.Errorf("%s is a file in one package and a directory in another", name)
	}
	if !ok {
		if err := t.stage.Mkdir(name, 0o755); err != nil {
			return err
		}
	}
	t.nodes[name] = node{mode: fs.ModeDir | perm, uid: uid, gid: gid}
	return nil
}

func (t *tree) symlink(name, target string, uid, gid int) error {
	name, err := t.place(name)
	if err != nil {
		return err
	}
	if strings.ContainsAny(target, "\n\x00") || target == "" {
		return fmt.Errorf("%s: %q is no target for a link", name, target)
	}
	if old, ok := t.nodes[name]; ok && old.mode.IsDir() {
		return nil // Debian keeps the directory that is there
	}
	if err := t.remove(name); err != nil {
		return err
	}
	if err := t.stage.Symlink(target, name); err != nil {
		return err
	}
	t.nodes[name] = node{mode: fs.ModeSymlink | 0o777, uid: uid, gid: gid, target: target}
	return nil
}

// file writes a regular file, in place of one that may be there.
func (t *tree) file(name string, perm fs.FileMode, uid, gid int, content io.Reader) error {
	name, err := t.place(name)
	if err != nil {
		return err
	}
	if err := t.remove(name); err != nil {
		return err
	}
	f, err := t.stage.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(content, t.limit-t.bytes+1))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if t.bytes += n; t.bytes > t.limit && err == nil {
		err = fmt.Errorf("%s: the packages hold more than %d MiB", name, t.limit>>20)
	}
	t.nodes[name] = node{mode: perm, uid: uid, gid: gid}
	return err
}

// text is file for what the builder itself writes; root owns it.
func (t *tree) text(name string, perm fs.FileMode, content string) error {
	return t.file(name, perm, 0, 0, strings.NewReader(content))
}

// link makes name another name of the file at target.
func (t *tree) link(name, target string) error {
	name, err := t.place(name)
	if err != nil {
		return err
	}
	if target, err = t.resolve(target); err != nil {
		return err
	}
	n, ok := t.nodes[target]
	if !ok || n.mode.IsDir() {
		return fmt.Errorf("%s is a link to %s, which the package does not have", name, target)
	}
	if name == target {
		return nil
	}
	if err := t.remove(name); err != nil {
		return err
	}
	t.nodes[name] = n
	return t.stage.Link(target, name)
}

// remove makes room at a path; a directory is not removed.
func (t *tree) remove(name string) error {
	n, ok := t.nodes[name]
	switch {
	case name == "":
		return errors.New("the root directory can't be replaced")
	case !ok:
		return nil
	case n.mode.IsDir():
		return fmt.Errorf("%s is a directory in one package and a file in another", name)
	}
	delete(t.nodes, name)
	return t.stage.Remove(name)
}

// chown gives a file another mode, and the user and group of the same number.
func (t *tree) chown(name string, perm fs.FileMode, id int) error {
	name, err := t.resolve(name)
	if err != nil {
		return err
	}
	n, ok := t.nodes[name]
	if !ok || !n.mode.IsRegular() {
		return fmt.Errorf("%s: no package has such a file", name)
	}
	n.mode, n.uid, n.gid = perm, id, id
	t.nodes[name] = n
	return nil
}

// removeAll drops a directory with all in it, if it is there.
func (t *tree) removeAll(name string) error {
	for p := range t.nodes {
		if p == name || strings.HasPrefix(p, name+"/") {
			delete(t.nodes, p)
		}
	}
	return t.stage.RemoveAll(name)
}

// has reports whether the path exists; links in its directories are followed, one at its end is not.
func (t *tree) has(name string) bool {
	name, err := t.resolve(name)
	if err != nil {
		return false
	}
	_, ok := t.nodes[name]
	return ok
}

func (t *tree) read(name string) (string, error) {
	name, err := t.resolve(name)
	if err != nil {
		return "", err
	}
	b, err := t.stage.ReadFile(name)
	return string(b), err
}

// paths lists the tree in order: a directory comes before what is in it.
func (t *tree) paths() []string {
	names := make([]string, 0, len(t.nodes))
	for p := range t.nodes {
		names = append(names, p)
	}
	slices.Sort(names)
	return names
}

// digest is over everything that the image will say.
func (t *tree) digest() ([sha256.Size]byte, error) {
	h := sha256.New()
	for _, p := range t.paths() {
		n := t.nodes[p]
		fmt.Fprintf(h, "%q %o %d %d %q\n", p, inodeMode(n.mode), n.uid, n.gid, n.target)
		if n.mode.IsRegular() {
			if err := t.digestFile(h, p); err != nil {
				return [sha256.Size]byte{}, err
			}
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

func (t *tree) digestFile(h hash.Hash, p string) error {
	f, err := t.stage.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(h, f)
	fmt.Fprintf(h, "\n%d\n", n)
	return err
}

// inodeMode is a mode as an inode has it (inode(7)).
func inodeMode(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	for _, bit := range []struct {
		have fs.FileMode
		want uint32
	}{
		{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000},
	} {
		if m&bit.have != 0 {
			out |= bit.want
		}
	}
	switch {
	case m.IsDir():
		out |= 0o040000
	case m&fs.ModeSymlink != 0:
		out |= 0o120000
	default:
		out |= 0o100000
	}
	return out
}
