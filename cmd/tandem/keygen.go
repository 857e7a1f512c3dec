package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"tandem/lockstep/link"
)

// keygenOptions are the flags of keygen.
type keygenOptions struct {
	out   string
	hosts []string
	days  int
}

func newKeygenCommand() *cobra.Command {
	var o keygenOptions
	cmd := &cobra.Command{
		Use:   "keygen [--out DIR] [--hosts A,B] [--days N]",
		Short: "Make the keys by which a pair's hosts know each other",
		Long: `Keygen makes a folder for each host, with the host's own key (` + link.HostFile + `) and the certificates of the others
(` + link.TrustFile + `). A host accepts exactly those: there is no authority that could sign more, and no password.

Copy each folder to its host by a way that you trust, then delete it here. To revoke a key, or before the keys expire,
run keygen again, into another folder, and replace all folders: the keys of different runs refuse each other.`,
		Example: `  tandem keygen --out keys
  tandem keygen --out keys --hosts alpha,beta,spare`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return keygen(o, time.Now(), cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.out, "out", "o", "tandem-keys", "`folder` to make; it must not exist")
	flags.StringSliceVar(&o.hosts, "hosts", []string{"a", "b"}, "`names` of the hosts: two, and any that may take a lost one's place")
	flags.IntVar(&o.days, "days", 730, "`days` until the keys expire")
	return cmd
}

// maxKeyDays keeps an expiry within what a certificate can say.
const maxKeyDays = 36500

func keygen(o keygenOptions, now time.Time, out io.Writer) error {
	if o.days < 1 || o.days > maxKeyDays {
		return usage(fmt.Errorf("--days %d: from 1 to %d", o.days, maxKeyDays))
	}
	keys, err := link.GenerateKeys(o.hosts, now, time.Duration(o.days)*24*time.Hour)
	if err != nil {
		return usage(err)
	}
	if err := writeKeys(o.out, keys); errors.Is(err, fs.ErrExist) {
		return usage(fmt.Errorf("%s exists: keys are never overwritten; name another folder, or remove that one if no host uses its keys", o.out))
	} else if err != nil {
		return failure(fmt.Errorf("writing the keys: %w", err))
	}
	fmt.Fprintf(out, "Keys of %d hosts, valid until %s:\n", len(keys), now.AddDate(0, 0, o.days).Format(time.DateOnly))
	for _, k := range keys {
		fmt.Fprintf(out, "  copy %s to host %s\n", filepath.Join(o.out, k.Name)+string(filepath.Separator), k.Name)
	}
	fmt.Fprintf(out, "Each folder has a secret key: copy it by a way that you trust, for its host alone, then delete %s.\n", o.out)
	return nil
}

// writeKeys makes the folder with everything in it, or nothing: it is filled under another name and then renamed.
func writeKeys(folder string, keys []link.HostKeys) error {
	folder = filepath.Clean(folder)
	if _, err := os.Lstat(folder); err == nil {
		return fs.ErrExist
	}
	temp, err := os.MkdirTemp(filepath.Dir(folder), ".tandem-keys-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	for _, k := range keys {
		host := filepath.Join(temp, k.Name)
		if err := os.Mkdir(host, 0o700); err != nil {
			return err
		}
		for name, content := range map[string][]byte{link.HostFile: k.Host, link.TrustFile: k.Trust} {
			if err := writeSynced(filepath.Join(host, name), content); err != nil {
				return err
			}
		}
	}
	// rename(2) replaces no folder that has something in it, whoever made it in the meantime.
	return os.Rename(temp, folder)
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}
