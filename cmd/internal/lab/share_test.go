package lab

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"tandem/cmd/internal/lab/agent"
)

// TestServeFolder mounts a folder on this machine, through an agent that runs here.
func TestServeFolder(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		t.Skipf("mounting a FUSE file system needs root and /dev/fuse (%v)", err)
	}
	dir, at := t.TempDir(), t.TempDir() // first: they are removed when the server has ended
	c := localAgent(t)
	err := serveFolder(t.Context(), c, dir, at)
	if err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(at, name) }
	if err := os.WriteFile(path("a"), []byte("text"), 0o640); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(b) != "text" {
		t.Errorf("behind the mount there is %q, %v", b, err)
	}
	if err := os.Link(path("a"), path("b")); err != nil {
		t.Error(err)
	}
	if err := os.Link(path("a"), path("b")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a name is taken twice: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path("b")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that another removed is still seen: %v", err)
	}
	d, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		t.Errorf("fsync of the folder: %v", err)
	}
	if names, err := d.Readdirnames(-1); err != nil || len(names) != 1 || names[0] != "a" {
		t.Errorf("the folder holds %q, %v", names, err)
	}
}

// localAgent joins a client and a server on this machine.
func localAgent(t *testing.T) *agent.Client {
	t.Helper()
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- new(agent.Server).Serve(far) }()
	c, err := agent.Connect(near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := <-served; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return c
}
