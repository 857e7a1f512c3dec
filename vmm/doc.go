// Package vmm is the virtual machine monitor: the only place where KVM, boot, the devices and the input door are wired
// together.
//
// A [Machine] is owned by one goroutine, the one that calls [Machine.Run], which stays on its own OS thread. All device
// state is touched there, between two KVM_RUNs. The other methods that may be called from elsewhere say so. Host-side
// workers (console, disks, networks) live in this package or below it, post what they have to the door, and never touch
// a device.
package vmm
