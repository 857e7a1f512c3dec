// Package boot turns a kernel image, a command line and an initial RAM disk into the contents of guest memory and the
// processor state in which a 64-bit kernel expects to be entered.
//
// Contract: everything here is a pure function of its arguments. Nothing reads a clock, a random source or a file, so two
// hosts that call Load with the same arguments get the same machine, which is what lockstep needs. No goroutine is started
// that outlives the call, and nothing is retained except the Kernel that the caller holds. A Kernel is not changed by Load
// and may be loaded many times; it must not be loaded while another goroutine rewrites it (package boot/rewrite).
//
// Two image formats are read:
//
//   - ELF64 vmlinux. Its PT_LOAD segments go to their physical addresses.
//   - bzImage, boot protocol 2.08 or later (Documentation/arch/x86/boot.rst in the Linux source). The setup header locates
//     the packed payload, which is such an ELF file (with relocation records behind it, if the kernel was built for KASLR).
//     The payload is unpacked here and loaded as ELF, so the guest runs no decompressor, and the kernel always stands at the
//     address it is linked for: KASLR can't make two hosts differ, and the rewriter sees the code before it runs.
//
// Entry is the 64-bit entry of boot.rst: long mode, identity-mapped page tables, RSI holding the physical address of
// boot_params ("zero page"), interrupts off. The ELF entry point of a 64-bit vmlinux is startup_64 at its physical address.
//
// # Guest memory
//
// RAM starts at 0 and is split around a hole below 4 GiB (Layout). What Load writes:
//
//	0x1000            GDT
//	0x2000            boot_params
//	0x3000 – 0x9000   page tables: the first 4 GiB, identity mapped in 2 MiB pages
//	0x9000 – 0xa000   room for a stack (RSP points at its end; the kernel replaces it at once)
//	0xa000            setup_data holding the random seed
//	0xb000            command line
//	1 MiB …           the kernel's segments, at their physical addresses
//	… top of low RAM  initial RAM disk, as high as the kernel allows, page aligned
//
// The kernel keeps the first 64 KiB reserved, copies boot_params and the command line before it allocates anything, and
// reserves setup_data and the RAM disk by itself.
//
// Guest memory is fresh, that is zero, when Load is called: Load leaves out the pages that would only be filled with zero
// (.bss, and the zero pages inside segments, a quarter of Debian's kernel), so that the host need not back them.
//
// # Hostile images
//
// An image may come from anyone. Every length in it is checked before it is used; memory is allocated as data appears, not
// as a header announces it, and never beyond maxUnpackedBytes. A broken image gives an error that wraps one of the Err…
// values and never a panic.
package boot
