package rootfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// epoch is the time stamp of everything in an image, in seconds: 2024-01-01. It is not 0, which tools take for missing.
const epoch = 1704067200

// reservedBytes is what the journal, the inode tables and room for the servers to begin with take at least.
const reservedBytes = 48 << 20

// minImageBytes is the smallest file system that is worth a journal.
const minImageBytes = 64 << 20

// features are named one by one, so that neither the machine's mke2fs.conf nor its version decides (ext4(5)). All are known
// to Linux 5.x and newer.
const features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file," +
	"huge_file,dir_nlink,extra_isize,metadata_csum"

// writeExt4 makes an ext4 file system of the tree in the file at path, which it creates, of size bytes.
func (t *tree) writeExt4(ctx context.Context, path string, size int64) error {
	if need := t.bytes + reservedBytes; size < need {
		return fmt.Errorf("an image of %d MiB is too small for %d MiB of packages: give --size %dM or more", size>>20, t.bytes>>20, need>>20+1)
	}
	sum, err := t.digest()
	if err != nil {
		return err
	}
	id := contentUUID(sum)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	// The itable and the journal are written here rather than by the guest's kernel in the background after the mount.
	args := []string{
		"-q", "-F", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0", "-O", features, "-L", "tandem", "-U", id,
		"-E", "hash_seed=" + id + ",root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard",
		"-d", t.stage.Name(), path,
	}
	if err := e2fs(ctx, nil, "mke2fs", args...); err != nil {
		return err
	}
	if err := e2fs(ctx, t.inodeScript(), "debugfs", "-w", "-f", "-", path); err != nil {
		return err
	}
	return f.Sync()
}

// contentUUID makes an identifier of a digest (RFC 9562 §5.8, version 8: made by one's own rule).
func contentUUID(sum [sha256.Size]byte) string {
	b := sum[:16]
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// inodeScript tells debugfs what mke2fs could only take from the staged files: owner, mode and times.
func (t *tree) inodeScript() []byte {
	var b bytes.Buffer
	set := func(path, field string, value any) {
		fmt.Fprintf(&b, "set_inode_field \"/%s\" %s %v\n", path, field, value)
	}
	stamp := "@" + strconv.Itoa(epoch)
	for _, p := range append([]string{"", "lost+found"}, t.paths()...) {
		if n, ok := t.nodes[p]; ok {
			set(p, "mode", fmt.Sprintf("0%o", inodeMode(n.mode)))
			set(p, "uid", n.uid)
			set(p, "gid", n.gid)
		}
		for _, field := range []string{"atime", "ctime", "mtime", "crtime"} {
			set(p, field, stamp)
			set(p, field+"_extra", 0)
		}
	}
	return b.Bytes()
}

// e2fs runs a tool of e2fsprogs. debugfs reports a failed command of a script on standard error and goes on with status
// 0, so that anything said there beside the tool's name and version is a failure.
func e2fs(ctx context.Context, script []byte, name string, args ...string) error {
	tool, err := e2fsTool(name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Stdin = bytes.NewReader(script)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stamp := strconv.Itoa(epoch)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "E2FSPROGS_FAKE_TIME="+stamp, "SOURCE_DATE_EPOCH="+stamp, "MKE2FS_CONFIG=/dev/null")
	err = cmd.Run()
	var said []string
	for line := range strings.Lines(stderr.String()) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, name+" 1.") {
			said = append(said, line)
		}
	}
	switch text := strings.Join(said[:min(len(said), 3)], "; "); {
	case strings.Contains(text, "No space left") || strings.Contains(text, "Could not allocate block"):
		return fmt.Errorf("%s: no room left, in the image or on the disk that holds it: %s", name, text)
	case err != nil && text != "":
		return fmt.Errorf("%s: %s", name, text)
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case text != "" && name == "debugfs":
		return fmt.Errorf("%s: %s", name, text)
	}
	return nil
}

// e2fsTool finds a program that an ordinary user's PATH often lacks.
func e2fsTool(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not on this machine: install the package e2fsprogs", name)
}
