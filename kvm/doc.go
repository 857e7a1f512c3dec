// Package kvm gives typed handles over /dev/kvm: a [System], its [VM]s, their [VCPU]s, and the guest's [Memory].
//
// It says what the KVM API says, with Go's types, and decides nothing: which CPUID bits to mask or what an exit means
// is for its callers. It imports golang.org/x/sys alone.
//
// A VCPU belongs to one OS thread: the goroutine that created it must have called runtime.LockOSThread and must make
// every call on it, except [VCPU.Kick], which any goroutine may call at any time. A VM and a Memory have no lock: they
// are set up before the vCPU runs and are then used by its goroutine.
//
// Every structure that crosses into the kernel has the layout of linux/kvm.h; a test holds sizes, offsets and ioctl
// numbers against the system's header. Uses of unsafe are in the files named *_unsafe.go and nowhere else.
package kvm
