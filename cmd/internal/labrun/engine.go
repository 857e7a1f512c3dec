// Package labrun runs tandem's Linux guests where they can be run: on this machine if its own /dev/kvm is up to it, else in
// a lab of one emulated host. What it starts is the same in both places, so that a test, a demonstration or a measurement
// is written once.
//
// An Engine may be used by many goroutines; a Session has one user.
package labrun

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/lab/agent"
	"tandem/kvm"
	"tandem/vmm/doctor"
)

// Config says what engine to open.
type Config struct {
	// Tandem is a static build of cmd/tandem; empty builds it, which needs the Go toolchain and a working directory inside
	// the module.
	Tandem string
	// Agent is a static build of cmd/lab; empty builds it if a lab is needed.
	Agent string
	// Lab asks for a lab even where this machine would do.
	Lab bool
	// Files are put beside tandem: name there → file of this machine.
	Files map[string]string
	// Images are raw disk images of this machine for guests to read; Engine.Images says where they are over there.
	Images []string
	// Log gets progress lines; nil discards them.
	Log io.Writer
}

// Engine is a place to run guests in. The embedded client starts commands and moves files there.
type Engine struct {
	*agent.Client
	// Native tells that the guests run on this machine itself.
	Native bool
	// Reason says in one line where guests are run, and why there.
	Reason string
	// Artifacts are the lab's parts on this machine, of which guests are made too.
	Artifacts *lab.Artifacts
	// Images are the paths of Config.Images over there: files, or a lab host's disks.
	Images []string

	dir   string // where its files are, over there
	close func() error
}

// Names of what every engine has in its folder.
const (
	tandemName = "tandem"
	kernelName = "vmlinuz"
	initrdName = "initrd"
)

// labDir is an engine's folder in a lab's host.
const labDir = "/labrun"

// Open fetches and builds what is missing and returns an engine that is ready.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	artifacts, err := lab.Setup(ctx, lab.SetupOptions{Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	if cfg.Tandem == "" {
		if cfg.Tandem, err = lab.BuildStatic(ctx, "tandem/cmd/tandem", tandemName); err != nil {
			return nil, err
		}
	}
	local, err := os.MkdirTemp("", "labrun-")
	if err != nil {
		return nil, err
	}
	e, err := open(ctx, cfg, artifacts, local)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(local))
	}
	end := e.close
	e.close = func() error { return errors.Join(end(), os.RemoveAll(local)) }
	return e, nil
}

func open(ctx context.Context, cfg Config, a *lab.Artifacts, local string) (*Engine, error) {
	initrd := filepath.Join(local, initrdName)
	if err := writeGuest(ctx, a, initrd); err != nil {
		return nil, err
	}
	files := map[string]string{tandemName: cfg.Tandem, kernelName: a.Kernel, initrdName: initrd}
	for name, source := range cfg.Files {
		files[name] = source
	}
	reason, native := "guests run in the lab, as was asked for", false
	if !cfg.Lab {
		reason, native = choose()
	}
	fmt.Fprintln(cfg.Log, "lab: "+reason)
	e := &Engine{Native: native, Reason: reason, Artifacts: a}
	if native {
		e.Images = cfg.Images
		return e, e.openNative(local, files)
	}
	return e, e.openLab(ctx, cfg, files)
}

// choose tells whether this machine can run Linux, and why guests run where they do.
func choose() (reason string, native bool) {
	system, err := kvm.Open("/dev/kvm")
	if err == nil {
		defer system.Close()
		why, ok := doctor.CanRunLinux(system)
		if ok {
			return "guests run on this machine's own /dev/kvm, which can run Linux", true
		}
		return fmt.Sprintf("guests run in the lab (an emulated host), since this machine's own /dev/kvm can't run Linux: %s", why), false
	}
	return fmt.Sprintf("guests run in the lab (an emulated host): %v", err), false
}

// openNative serves the client from this process.
func (e *Engine) openNative(dir string, files map[string]string) error {
	e.dir = dir
	for name, source := range files {
		if target := filepath.Join(dir, name); target != source {
			absolute, err := filepath.Abs(source)
			if err != nil {
				return err
			}
			if err := os.Symlink(absolute, target); err != nil {
				return err
			}
		}
	}
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- (&agent.Server{}).Serve(far) }()
	client, err := agent.Connect(near)
	if err != nil {
		return errors.Join(err, near.Close())
	}
	e.Client = client
	e.close = func() error { return errors.Join(client.Close(), <-served) }
	return nil
}

func (e *Engine) openLab(ctx context.Context, cfg Config, files map[string]string) error {
	e.dir = labDir
	inside := map[string]string{}
	for name, source := range files {
		inside[path.Join(labDir, name)] = source
	}
	var host lab.HostConfig
	for i, image := range cfg.Images {
		host.Disks = append(host.Disks, lab.Disk{Path: image, ReadOnly: true})
		e.Images = append(e.Images, fmt.Sprintf("/dev/vd%c", 'a'+i))
	}
	l, err := lab.Start(ctx, lab.Config{Hosts: []lab.HostConfig{host}, Files: inside, Agent: cfg.Agent, Log: cfg.Log})
	if err != nil {
		return err
	}
	e.Client, e.close = l.Hosts()[0].Client, l.Close
	return nil
}

// Close ends all that runs in the engine and removes its files.
func (e *Engine) Close() error { return e.close() }

// Path returns where a file of the engine's folder is.
func (e *Engine) Path(name string) string { return path.Join(e.dir, name) }

// Tandem returns the path of the program.
func (e *Engine) Tandem() string { return e.Path(tandemName) }

// Kernel returns the path of Debian's cloud kernel.
func (e *Engine) Kernel() string { return e.Path(kernelName) }

// Initrd returns the path of the guest's root, which prints InitMarker and then gives a shell on the console.
func (e *Engine) Initrd() string { return e.Path(initrdName) }
