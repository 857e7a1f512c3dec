package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/lockstep/link"
)

func runKeygen(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newKeygenCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.Execute()
	return out.String(), err
}

// join links host b to host a with the keys in two folders, and returns what the dialer is told.
func join(t *testing.T, a, b string) error {
	t.Helper()
	load := func(folder string) link.Config {
		c, err := link.LoadCredentials(folder)
		if err != nil {
			t.Fatal(err)
		}
		return link.Config{Credentials: c, Version: 1, HandshakeTimeout: time.Minute}
	}
	l, err := link.Listen(t.Context(), "127.0.0.1:0", load(b))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		if c, err := l.Accept(ctx); err == nil {
			defer c.Close()
			c.Receive()
		}
	}()
	c, err := link.Dial(ctx, l.Addr().String(), load(a))
	if err == nil {
		c.Close()
	}
	return err
}

func TestKeygenMakesAPair(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	out, err := runKeygen(t, "--out", keys)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"a", "b"} {
		if !strings.Contains(out, filepath.Join(keys, host)) {
			t.Errorf("it does not say what to do with %s: %s", host, out)
		}
	}
	err = filepath.WalkDir(keys, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := join(t, filepath.Join(keys, "a"), filepath.Join(keys, "b")); err != nil {
		t.Errorf("the pair does not know itself: %v", err)
	}
	again := filepath.Join(t.TempDir(), "again")
	if _, err := runKeygen(t, "--out", again); err != nil {
		t.Fatal(err)
	}
	if err := join(t, filepath.Join(keys, "a"), filepath.Join(again, "b")); !errors.Is(err, link.ErrWrongKey) {
		t.Errorf("a stale key: %v", err)
	}
}

func TestKeygenRefuses(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	if err := os.WriteFile(taken, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"--out", dir}, "never overwritten"},
		{[]string{"--out", taken}, "never overwritten"},
		{[]string{"--out", filepath.Join(dir, "no", "such")}, "no such file"},
		{[]string{"--out", filepath.Join(dir, "x"), "--hosts", "a"}, "2 to 16"},
		{[]string{"--out", filepath.Join(dir, "x"), "--hosts", "a,.."}, `".."`},
		{[]string{"--out", filepath.Join(dir, "x"), "--days", "0"}, "--days 0"},
		{[]string{"--out", filepath.Join(dir, "x"), "--days", "99999999"}, "36500"},
	}
	for _, tt := range tests {
		if _, err := runKeygen(t, tt.args...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v", tt.args, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if b, err := os.ReadFile(taken); err != nil || string(b) != "mine" {
		t.Errorf("%q, %v", b, err)
	}
}
