package failover

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// etcdPort is where the hosts find etcd, at the client outside.
const etcdPort = 2379

// startEtcd runs the real server on this machine, and gives the hosts a way to it that no cut between them touches.
func startEtcd(ctx context.Context, t *testing.T, p *Pair) (spec string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "etcd")
	build := exec.CommandContext(ctx, "go", "build", "-o", path, ".")
	build.Dir = filepath.Join("..", "..", "..", "lockstep", "arbiter", "etcd", "testdata", "server")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building etcd: %v: %s", err, out)
	}
	local := "127.0.0.1:" + strconv.Itoa(freePort(t))
	client, peer := "http://"+local, "http://127.0.0.1:"+strconv.Itoa(freePort(t))
	var said bytes.Buffer
	server := exec.Command(path, "--name", "one", "--data-dir", filepath.Join(dir, "data"),
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "one="+peer, "--log-level", "error")
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		if t.Failed() {
			t.Logf("etcd said: %s", &said)
		}
	})
	listener, err := p.Client.Listen("tcp", ":"+strconv.Itoa(etcdPort))
	if err != nil {
		t.Fatal(err)
	}
	relayTo(t, listener, func() (net.Conn, error) { return net.Dial("tcp", local) })
	return "etcd:http://" + net.JoinHostPort(ClientAddress, strconv.Itoa(etcdPort))
}

// relayTo joins each connection that a listener takes to one that dial makes, until the test's end.
func relayTo(t *testing.T, listener net.Listener, dial func() (net.Conn, error)) {
	var mu sync.Mutex
	var open []net.Conn
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, c)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := dial()
			if err != nil {
				near.Close()
				continue
			}
			keep(near)
			keep(far)
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				running.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					near.Close()
					far.Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
}
