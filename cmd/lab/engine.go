package main

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/labrun"
)

// engineFlags say what runs guests.
type engineFlags struct {
	tandem string
	inLab  bool
}

func (f *engineFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.tandem, "tandem", "", "static build of tandem (default: the one beside this program, or built from source)")
	c.Flags().BoolVar(&f.inLab, "lab", false, "use the lab even if this machine's own /dev/kvm can run Linux")
}

// open opens an engine with files of this machine put beside tandem.
func (f *engineFlags) open(ctx context.Context, log io.Writer, files map[string]string) (*labrun.Engine, error) {
	cfg := labrun.Config{Tandem: f.tandem, Lab: f.inLab, Files: files, Log: log}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if lab.IsStatic(exe) {
		cfg.Agent = exe
	}
	beside := filepath.Join(filepath.Dir(exe), "tandem")
	if _, err := os.Stat(beside); cfg.Tandem == "" && err == nil && lab.IsStatic(beside) {
		cfg.Tandem = beside
	}
	return labrun.Open(ctx, cfg)
}
