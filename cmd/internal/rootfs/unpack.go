package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
)

// unpack adds what a package holds to the tree, its maintainer scripts apart.
func (t *tree) unpack(ctx context.Context, deb string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	tarErr := t.untar(out)
	if tarErr == nil {
		_, tarErr = io.Copy(io.Discard, out) // padding after the end mark
	}
	out.Close()
	if err := cmd.Wait(); err != nil && tarErr == nil {
		tarErr = fmt.Errorf("dpkg-deb: %w: %s", err, firstLine(stderr.String()))
	}
	if tarErr != nil {
		return fmt.Errorf("unpacking %s: %w", filepath.Base(deb), tarErr)
	}
	return nil
}

func (t *tree) untar(r io.Reader) error {
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := t.add(h, archive); err != nil {
			return err
		}
	}
}

func (t *tree) add(h *tar.Header, content io.Reader) error {
	perm := h.FileInfo().Mode() &^ (h.FileInfo().Mode().Type())
	switch h.Typeflag {
	case tar.TypeDir:
		return t.mkdir(h.Name, perm, h.Uid, h.Gid)
	case tar.TypeReg:
		return t.file(h.Name, perm, h.Uid, h.Gid, content)
	case tar.TypeSymlink:
		return t.symlink(h.Name, h.Linkname, h.Uid, h.Gid)
	case tar.TypeLink:
		return t.link(h.Name, h.Linkname)
	}
	return fmt.Errorf("%s is of tar type %q, which no package should have", h.Name, h.Typeflag)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
