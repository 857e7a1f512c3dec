package failover

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// testImage is the guest's image, built once for each state of the builder's source.
func testImage(ctx context.Context, t *testing.T) *Image {
	t.Helper()
	hash := sha256.New()
	for _, source := range []string{"image.go", "files", filepath.Join("..", "rootfs")} {
		err := filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			content, err := os.ReadFile(path)
			fmt.Fprintf(hash, "%q %d\n", path, len(content))
			hash.Write(content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	image, err := BuildImage(ctx, fmt.Sprintf("%x", hash.Sum(nil)[:8]), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return image
}
