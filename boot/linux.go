package boot

import "bytes"

// IsLinux tells whether the image is a Linux kernel, and not some other program in the form of one: a bzImage always is;
// an ELF file is if it holds the banner that Linux prints first (init/version.c).
func (k *Kernel) IsLinux() bool {
	if k.Format == FormatBzImage {
		return true
	}
	for _, s := range k.Segments {
		if bytes.Contains(s.Data, []byte("Linux version ")) {
			return true
		}
	}
	return false
}
