package failover

import (
	"context"
	"embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/rootfs"
)

//go:embed files
var files embed.FS

// Image is what the guest is started from: files of this machine.
type Image struct{ Root, Initrd, Kernel string }

// imageBytes holds the servers and the mail of a long run.
const imageBytes = 320 << 20

// BuildImage makes the guest with Redis and dovecot, with dovecot set up for many sessions in little memory. It is kept in
// the cache under key, which has to change when the builder does; of what is kept under other keys one is left.
func BuildImage(ctx context.Context, key string, log io.Writer) (*Image, error) {
	cache, err := lab.CacheDir()
	if err != nil {
		return nil, err
	}
	packages := filepath.Join(cache, "image")
	dir := filepath.Join(packages, imagePrefix+key)
	image := &Image{Root: filepath.Join(dir, "root.ext4"), Initrd: filepath.Join(dir, "initrd"), Kernel: filepath.Join(dir, "vmlinuz")}
	if _, err := os.Stat(image.Root); err == nil { // the last to be written
		return image, nil
	}
	if err := removeImages(packages); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	added, err := additions(dir)
	if err != nil {
		return nil, err
	}
	_, err = rootfs.Build(ctx, rootfs.Options{
		Image: image.Root, Initrd: image.Initrd, Kernel: image.Kernel, SizeBytes: imageBytes, Hostname: "guest", CacheDir: packages,
		Packages: []string{"redis-server", "dovecot-imapd"}, Add: added, Progress: progress{log},
	})
	if err != nil {
		return nil, err
	}
	return image, nil
}

// additions writes the files that the servers get beside the builder's own.
func additions(dir string) ([]rootfs.Addition, error) {
	conf, err := files.ReadFile("files/dovecot-local.conf")
	if err != nil {
		return nil, err
	}
	var users strings.Builder
	for i := range MaxSessions {
		name, password := User(i)
		fmt.Fprintf(&users, "%s:{PLAIN}%s::::::\n", name, password)
	}
	var added []rootfs.Addition
	for name, content := range map[string]string{"local.conf": string(conf), "users": users.String()} {
		source := filepath.Join(dir, name)
		if err := os.WriteFile(source, []byte(content), 0o644); err != nil {
			return nil, err
		}
		added = append(added, rootfs.Addition{Source: source, Target: "/etc/dovecot/" + name})
	}
	return added, nil
}

// MaxSessions is how many mail accounts the guest has.
const MaxSessions = 200

// User names a mail account of the guest.
func User(session int) (name, password string) { return fmt.Sprintf("user%d", session+1), "tandem" }

const imagePrefix = "failover-"

// removeImages leaves the latest image alone: a demonstration's and the tests' take turns.
func removeImages(packages string) error {
	old, err := filepath.Glob(filepath.Join(packages, imagePrefix+"*"))
	if err != nil {
		return err
	}
	built := map[string]time.Time{}
	for _, dir := range old {
		if st, err := os.Stat(dir); err == nil {
			built[dir] = st.ModTime()
		}
	}
	slices.SortFunc(old, func(a, b string) int { return built[b].Compare(built[a]) })
	for _, dir := range old[min(1, len(old)):] {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// progress tells a build's parts, a line each.
type progress struct{ w io.Writer }

func (p progress) Phase(name string, _ int) { fmt.Fprintln(p.w, "image: "+name) }
func (p progress) Step()                    {}
