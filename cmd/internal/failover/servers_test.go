package failover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/cmd/internal/imapload"
	"tandem/cmd/internal/redischeck"
)

const deadline = 5 * time.Minute

// TestServers runs the image's servers on this machine, in a changed root, and puts the loads on them that are put on the
// guest: what a healthy server does must be no fault.
func TestServers(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds an image")
	}
	if os.Getuid() != 0 {
		t.Skip("only root may change a process's root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	root := unpackImage(ctx, t)
	t.Run("imap", func(t *testing.T) { testIMAP(ctx, t, root) })
	t.Run("redis", func(t *testing.T) { testRedis(ctx, t, root) })
}

// unpackImage copies all of the image's files to a folder.
func unpackImage(ctx context.Context, t *testing.T) string {
	image := testImage(ctx, t)
	debugfs, err := exec.LookPath("debugfs")
	if err != nil {
		debugfs = "/usr/sbin/debugfs"
	}
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(ctx, debugfs, "-R", "rdump / "+root, image.Root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, minor := range map[string]int{"null": 3, "urandom": 9} {
		path := filepath.Join(root, "dev", name)
		if err := errors.Join(syscall.Mknod(path, syscall.S_IFCHR, 1<<8|minor), os.Chmod(path, 0o666)); err != nil {
			t.Skipf("this machine lets nobody make devices: %v", err)
		}
	}
	// Above the folder, everybody must be let in: the servers are users of their own.
	for dir := filepath.Dir(root); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// freePort is a TCP port that nobody has now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// appendLines adds to a file of the root.
func appendLines(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// serve runs a server of the image in its root until the test's end, and waits until its port answers.
func serve(ctx context.Context, t *testing.T, root string, port int, args ...string) (address string) {
	t.Helper()
	var out strings.Builder
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Pdeathsig: syscall.SIGTERM}
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("%s said: %s", args[0], &out)
		}
	})
	address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
			return address
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v: %s", args[0], err, &out)
		case <-ctx.Done():
			t.Fatalf("%s does not answer: %s", args[0], &out)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func testIMAP(ctx context.Context, t *testing.T, root string) {
	port := freePort(t)
	appendLines(t, filepath.Join(root, "etc/dovecot/local.conf"), fmt.Sprintf("service imap-login {\n  inet_listener imap {\n    port = %d\n  }\n}\n", port))
	address := serve(ctx, t, root, port, "/usr/sbin/dovecot", "-F")
	l, err := imapload.Start(ctx, imapload.Config{Dial: new(net.Dialer).DialContext, Address: address, Sessions: 50, User: User, Run: "r1", Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	for {
		s := l.Snapshot()
		if s.Broken() > 0 || !slices.ContainsFunc(s.Sessions, func(s imapload.SessionState) bool { return s.Appends < 10 || s.Searches == 0 || s.Fetches == 0 }) {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the server is too slow: %+v", s.Sessions)
		case <-time.After(10 * time.Millisecond):
		}
	}
	l.Stop(ctx)
	s := l.Snapshot()
	if s.Broken() != 0 {
		t.Errorf("broken sessions: %+v", s.Sessions)
	}
	v, err := l.Verify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, appends := s.Requests(); len(v.Faults) != 0 || v.Found != appends {
		t.Errorf("%d of %d messages are there: %q", v.Found, appends, v.Faults)
	}
}

func testRedis(ctx context.Context, t *testing.T, root string) {
	port := freePort(t)
	address := serve(ctx, t, root, port, "/usr/bin/redis-server", "/etc/redis/tandem.conf", "--port", strconv.Itoa(port), "--bind", "127.0.0.1")
	c, err := redischeck.Start(ctx, redischeck.Config{Dial: new(net.Dialer).DialContext, Address: address, Clients: 8, Run: "r1", Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	for {
		s := c.Snapshot()
		if len(s.Broken()) > 0 || s.Requests() > 5000 {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the server is too slow: %d requests", s.Requests())
		case <-time.After(10 * time.Millisecond):
		}
	}
	c.Stop(ctx)
	s := c.Snapshot()
	if broken := s.Broken(); len(broken) != 0 {
		t.Errorf("broken clients: %q", broken)
	}
	v, err := c.Verify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Faults) != 0 || v.Acknowledged == 0 {
		t.Errorf("%+v", v)
	}
}
