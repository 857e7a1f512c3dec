// Package rootfs builds what a guest is started from: an ext4 root image made of Debian packages, the initramfs that finds
// it, and the kernel.
//
// Contract: no root is needed and nothing outside the cache and the named outputs is changed. An output appears complete
// or not at all. The same packages and options give the same bytes: entries are sorted, time stamps are one constant, and
// the file system's identity is a digest of its content.
//
// # What the image is
//
// Packages are unpacked and their maintainer scripts are not run: a script may do anything, as root, on the machine that
// builds. What the scripts of a server do that matters (users, directories, configuration) is in its [recipe] instead. A
// package without a recipe is unpacked and nothing more. The file system has /usr merged, as every Debian since 12 has it.
//
// PID 1 is busybox's init. Its table and the scripts that it runs are in files/. They bring up the network (DHCP on each
// interface, or tandem.address= on the kernel command line), start the servers and say so on the console:
//
//	tandem: address 192.168.127.2/24 on eth0
//	tandem: redis-server listens on port 6379
//	tandem: ready
//
// The image has no kernel and no modules. The initramfs has the modules that a root on a virtio disk needs, each after
// those that it depends on, so that any image works with any kernel.
//
// # Ownership without root
//
// A file unpacked by an ordinary user is that user's. So owners, modes and times are kept apart, in a [tree], while the
// contents are staged on disk; mke2fs copies the contents, then debugfs writes the rest into the inodes.
//
// A build belongs to one goroutine. Processes that share a cache take turns by a lock.
package rootfs
