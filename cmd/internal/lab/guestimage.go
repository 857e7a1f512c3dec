package lab

import (
	"context"

	"tandem/cmd/internal/lab/image"
)

// GuestConfig describes the initramfs of a busybox guest.
type GuestConfig struct {
	// Init is the text of /init, normally a shell script ("#!/bin/sh\n...").
	Init string
	// Modules, with what they depend on, go to /lib/modules for modprobe.
	Modules []string
	// Files are put in: path in the guest → file of this machine.
	Files map[string]string
}

// GuestInitramfs builds a root of busybox for a guest of the same kernel as the
// lab's hosts. The caller may add to it before writing it.
func GuestInitramfs(ctx context.Context, a *Artifacts, cfg GuestConfig) (*image.Initramfs, error) {
	im := &image.Initramfs{}
	if err := im.AddBusybox(ctx, a.Busybox); err != nil {
		return nil, err
	}
	if len(cfg.Modules) > 0 {
		index, err := a.Modules()
		if err != nil {
			return nil, err
		}
		mods, err := index.Closure(cfg.Modules...)
		if err != nil {
			return nil, err
		}
		im.AddModules(index.Release, mods)
	}
	im.AddFile("init", 0o755, []byte(cfg.Init))
	for dst, src := range cfg.Files {
		if err := im.AddSource(dst, src); err != nil {
			return nil, err
		}
	}
	return im, nil
}
