package main

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"tandem/cmd/internal/labrun"
)

// labTimeout bounds a test that runs Linux, on a busy machine.
const labTimeout = 3 * time.Minute

var shared struct {
	once   sync.Once
	engine *labrun.Engine
	err    error
}

// linux returns where this machine can run Linux, opened once for all tests, and a context that bounds the test.
func linux(t *testing.T) (context.Context, *labrun.Engine) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs Linux, maybe on an emulated host: not with -short")
	}
	shared.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), labTimeout)
		defer cancel()
		shared.engine, shared.err = labrun.Open(ctx, labrun.Config{Log: os.Stderr})
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), labTimeout)
	t.Cleanup(cancel)
	return ctx, shared.engine
}

// closeEngine ends what linux has opened.
func closeEngine() error {
	if shared.engine == nil {
		return nil
	}
	return shared.engine.Close()
}
