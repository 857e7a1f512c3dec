package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConnections(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	const clients = 3
	answered := make(chan error, clients)
	go func() {
		for range clients {
			c, err := listener.Accept()
			if err == nil {
				err = answer(c)
				_ = c.Close()
			}
			answered <- err
		}
	}()
	for _, what := range []string{"send", "receive", "trips"} {
		if _, err := run([]string{what, listener.Addr().String(), "10001"}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := <-answered; err != nil {
			t.Errorf("%s: the server: %v", what, err)
		}
	}
}

func TestConnectionCutOff(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	for _, what := range []string{"send", "receive", "trips"} {
		if _, err := run([]string{what, listener.Addr().String(), "10"}); err == nil {
			t.Errorf("%s: nobody has answered, and nothing is said", what)
		}
	}
}

func TestDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	const blocks, block = 16, 4096
	before := []byte(strings.Repeat("x", blocks*block))
	if err := os.WriteFile(path, before, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"read", "write"} {
		if _, err := run([]string{what, path, fmt.Sprint(block), fmt.Sprint(blocks), "3"}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(after), "\x00"); got != blocks*block {
		t.Errorf("%d of %d bytes are written", got, blocks*block)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"read"}, {"read", "disk", "1", "1"}, {"send", "address", "0"}, {"send", "address", "much"}, {"copy", "a", "1"}} {
		if _, err := run(args); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
	if _, err := run([]string{"read", writeFile(t, 100), "512", "1", "1"}); err == nil || !strings.Contains(err.Error(), "less than a request") {
		t.Errorf("a disk of 100 bytes: %v", err)
	}
}

func writeFile(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(path, make([]byte, n), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
