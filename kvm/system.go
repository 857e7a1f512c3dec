package kvm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// apiVersion is the one version of the KVM API that has been current since Linux 2.6.22.
const apiVersion = 12

// System is an open /dev/kvm.
type System struct {
	fd       int
	mmapSize int
}

// Open opens path, which is /dev/kvm or stands for it. Its errors name the cause and the remedy.
func Open(path string) (*System, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	s := &System{fd: fd}
	if err := s.probe(path); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return s, nil
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%s does not exist: load the kvm_intel or kvm_amd module (and enable virtualisation in the firmware, or nested virtualisation on a cloud machine): %w", path, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s may not be opened by this user: join the group kvm or run as root: %w", path, err)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%s has no driver behind it: load the kvm_intel or kvm_amd module: %w", path, err)
	}
	return fmt.Errorf("open %s: %w", path, err)
}

func (s *System) probe(path string) error {
	version, err := ioctlInt(s.fd, "KVM_GET_API_VERSION", ioGetAPIVersion, 0)
	if err != nil {
		return fmt.Errorf("%s is not a KVM device: name the real one: %w", path, err)
	}
	if version != apiVersion {
		return fmt.Errorf("%s speaks KVM API version %d, not %d: use a kernel of this century", path, version, apiVersion)
	}
	s.mmapSize, err = ioctlInt(s.fd, "KVM_GET_VCPU_MMAP_SIZE", ioGetVCPUMmapSize, 0)
	if err != nil {
		return err
	}
	if s.mmapSize < runPageBytes {
		return fmt.Errorf("%s: a vCPU's run area has %d bytes, fewer than the %d that are needed: use a newer kernel", path, s.mmapSize, runPageBytes)
	}
	return nil
}

// Close closes the device. VMs made from it live on.
func (s *System) Close() error { return opError("close", unix.Close(s.fd)) }

// Capability returns the value of KVM_CHECK_EXTENSION for a capability: 0 if it is missing.
func (s *System) Capability(capability int) (int, error) {
	return ioctlInt(s.fd, "KVM_CHECK_EXTENSION", ioCheckExtension, capability)
}

// SupportedCPUID returns what this host could let a guest see (KVM_GET_SUPPORTED_CPUID).
func (s *System) SupportedCPUID() (CPUID, error) {
	buf := &cpuid2{count: maxCPUIDEntries}
	if _, err := ioctlPtr(s.fd, "KVM_GET_SUPPORTED_CPUID", ioGetSupportedCPUID, buf); err != nil {
		return nil, err
	}
	return append(CPUID(nil), buf.entries[:buf.count]...), nil
}

// MSRIndices returns the MSRs that this host can save and restore (KVM_GET_MSR_INDEX_LIST).
func (s *System) MSRIndices() ([]uint32, error) {
	buf := &msrList{count: uint32(len(msrList{}.indices))}
	if _, err := ioctlPtr(s.fd, "KVM_GET_MSR_INDEX_LIST", ioGetMSRIndexList, buf); err != nil {
		return nil, err
	}
	return append([]uint32(nil), buf.indices[:buf.count]...), nil
}

// CreateVM makes an empty virtual machine without an interrupt controller or timer in the host kernel.
func (s *System) CreateVM() (*VM, error) {
	fd, err := ioctlInt(s.fd, "KVM_CREATE_VM", ioCreateVM, 0)
	if err != nil {
		return nil, err
	}
	v := &VM{fd: fd, mmapSize: s.mmapSize}
	if err := v.KeepDirtyLog(true); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}
