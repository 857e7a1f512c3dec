package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"tandem/cmd/internal/rootfs"
)

func newImageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Make what a guest is started from",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newImageBuildCommand())
	return cmd
}

// imageFlags are the flags of image build that need reading.
type imageFlags struct {
	size     string
	packages []string
	add      []string
	options  rootfs.Options
}

func newImageBuildCommand() *cobra.Command {
	var f imageFlags
	cmd := &cobra.Command{
		Use:   "build --out FILE [flags]",
		Short: "Build a root image from Debian packages, with its kernel and initramfs",
		Long: `Build makes a bootable ext4 image from Debian packages, as any user, with this machine's apt and dpkg. The packages are
unpacked and their installation scripts are not run. For redis-server and dovecot-imapd, build does what the scripts
would, and the image starts them; other packages are only unpacked. Without --package the image has busybox alone.

The servers are open to whoever reaches the guest: redis has no password, and dovecot has the user "tandem" with the
password "tandem" and no TLS. Root's shell is on the console.

Downloads are kept in $TANDEM_CACHE, or "tandem" in the user's cache directory.`,
		Example: `  tandem image build --out root.ext4 --initrd-out initrd --kernel-out vmlinuz --package redis-server,dovecot-imapd
  tandem run --kernel vmlinuz --initrd initrd --disk root.ext4`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.read()
			if err != nil {
				return usage(err)
			}
			return buildImage(cmd.Context(), o, cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.options.Image, "out", "o", "", "root image `file` to write")
	flags.StringVar(&f.options.Initrd, "initrd-out", "", "initramfs `file` to write: it loads the virtio modules and mounts the root")
	flags.StringVar(&f.options.Kernel, "kernel-out", "", "kernel `file` to write: Debian's cloud kernel")
	flags.StringVar(&f.size, "size", "1G", "size of the image, with a unit (M, G); the file is sparse")
	flags.StringSliceVarP(&f.packages, "package", "p", nil, "Debian `packages` to put in, with what they depend on")
	flags.StringArrayVar(&f.add, "add", nil, "file of this machine to put in, as `SOURCE:TARGET`; may be repeated")
	flags.StringVar(&f.options.Hostname, "hostname", "tandem", "the guest's host `name`")
	flags.BoolVar(&f.options.Refresh, "refresh", false, "download current packages even if older ones are in the cache")
	return cmd
}

// read turns the flags into options.
func (f *imageFlags) read() (rootfs.Options, error) {
	o := f.options
	size, err := units.RAMInBytes(f.size)
	if err != nil || size <= 0 {
		return o, fmt.Errorf("--size %q is not a size: give a number and a unit, like 512M or 4G", f.size)
	}
	o.SizeBytes = size
	for _, p := range f.packages {
		if p = strings.TrimSpace(p); p != "" {
			o.Packages = append(o.Packages, p)
		}
	}
	for _, a := range f.add {
		source, target, ok := strings.Cut(a, ":")
		if !ok {
			return o, fmt.Errorf("--add %q has no target: give SOURCE:TARGET", a)
		}
		o.Add = append(o.Add, rootfs.Addition{Source: source, Target: target})
	}
	cache, err := cacheDir()
	if err != nil {
		return o, err
	}
	o.CacheDir = filepath.Join(cache, "image")
	return o, o.Validate()
}

// cacheDir is where what was downloaded is kept.
func cacheDir() (string, error) {
	if dir := os.Getenv("TANDEM_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("there is no cache directory: name one in TANDEM_CACHE (%w)", err)
	}
	return filepath.Join(dir, "tandem"), nil
}

func buildImage(ctx context.Context, o rootfs.Options, log io.Writer) error {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	p := newProgress(log)
	o.Progress = p
	result, err := rootfs.Build(ctx, o)
	p.end()
	if ctx.Err() != nil {
		return failure(errors.New("interrupted: nothing was written"))
	}
	if err != nil {
		return failure(err)
	}
	report(log, o, result)
	return nil
}

func report(w io.Writer, o rootfs.Options, r *rootfs.Result) {
	if o.Image != "" {
		fmt.Fprintf(w, "%s: %d packages", o.Image, len(r.Packages))
		if len(r.Services) > 0 {
			fmt.Fprintf(w, "; runs %s", strings.Join(r.Services, ", "))
		}
		fmt.Fprintln(w)
	}
	if o.Initrd != "" {
		fmt.Fprintf(w, "%s: initramfs for kernel %s\n", o.Initrd, r.KernelRelease)
	}
	if o.Kernel != "" {
		fmt.Fprintf(w, "%s: kernel %s\n", o.Kernel, r.KernelRelease)
	}
}

// progress is a bar on a terminal, and elsewhere a line for each part of the work.
type progress struct {
	w        io.Writer
	terminal bool
	bar      *progressbar.ProgressBar
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// Phase implements rootfs.Progress.
func (p *progress) Phase(name string, total int) {
	p.end()
	if !p.terminal {
		fmt.Fprintln(p.w, name)
		return
	}
	if total == 0 {
		total = -1 // a spinner
	}
	p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(p.w), progressbar.OptionSetDescription(name),
		progressbar.OptionSetWidth(30), progressbar.OptionSpinnerType(14), progressbar.OptionClearOnFinish())
}

// Step implements rootfs.Progress.
func (p *progress) Step() {
	if p.bar != nil {
		_ = p.bar.Add(1)
	}
}

func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
}
