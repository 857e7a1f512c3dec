// Package kerneltest finds a stock distribution kernel for the tests that need a real one.
package kerneltest

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// PathVariable names the environment variable that holds the path of a bzImage to test with.
const PathVariable = "TANDEM_TEST_KERNEL"

// Read returns Debian's cloud kernel (a bzImage): the file that PathVariable names, or the one that the lab has put into its
// cache, tandem/ in the user's cache directory. Without either it skips the test.
func Read(tb testing.TB) []byte {
	tb.Helper()
	path := os.Getenv(PathVariable)
	if path == "" {
		path = cached()
	}
	if path == "" {
		tb.Skipf("no Debian cloud kernel: the lab has not fetched one yet, and %s names none", PathVariable)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return image
}

// cached returns the newest cloud kernel, by name, under the lab's cache, or nothing.
func cached() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	var found string
	// A cache that is not there, or can't be read, holds no kernel.
	_ = filepath.WalkDir(filepath.Join(cache, "tandem"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		name := d.Name()
		if d.Type().IsRegular() && strings.HasPrefix(name, "vmlinuz-") && strings.HasSuffix(name, "-cloud-amd64") {
			found = path
		}
		return nil
	})
	return found
}
