package lab

import (
	"context"
	"fmt"
	"io"
	"log"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"tandem/cmd/internal/lab/agent"
)

// serveFolder gives a host a folder of this machine at path.
func serveFolder(ctx context.Context, c *agent.Client, dir, path string) error {
	root, err := fs.NewLoopbackRoot(dir)
	if err != nil {
		return fmt.Errorf("sharing %s: %w", dir, err)
	}
	options := fuse.MountOptions{
		MaxWrite: agent.ShareMessageBytes, MaxReadAhead: agent.ShareMessageBytes,
		Logger: log.New(io.Discard, "", 0),
	}
	var never time.Duration // for nothing may be remembered: the other hosts change it
	tree := fs.NewNodeFS(root, &fs.Options{
		EntryTimeout: &never, AttrTimeout: &never, NegativeTimeout: &never, MountOptions: options,
	})
	server := fuse.NewProtocolServer(tree, &options)
	err = c.Share(ctx, path, func(request, reply []byte) int {
		n, _ := server.HandleRequest([][]byte{request}, [][]byte{reply}) // a failure is in the reply
		return n
	})
	if err != nil {
		return fmt.Errorf("sharing %s: %w", dir, err)
	}
	return nil
}
