package vmm

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"tandem/boot"
	"tandem/devices"
	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
)

// Config is what a machine is made of. Two machines with equal configurations are the same machine.
type Config struct {
	MemoryBytes uint64
	// EpochNS is the wall-clock time at which the guest clock is 0, in Unix ns: what the RTC shows first.
	EpochNS int64
	// Console and Debug take what the guest writes to its serial port and to port 0xe9.
	Console devices.Sink
	Debug   devices.Sink
	// CPUID is what the guest's processor says that it is; nil means what this host can give. A host that can't give it is
	// refused.
	CPUID kvm.CPUID
	Disks []Disk
	NICs  []NIC
	// Entropy gives the guest a virtio entropy device.
	Entropy bool
	// VirtioConsole, if not nil, gives the guest a virtio console beside its serial port.
	VirtioConsole *VirtioConsole
	// MMIO puts the virtio devices on memory-mapped registers instead of a PCI bus, for kernels built without PCI. The
	// kernel must be told of them: see Machine.MMIODevices.
	MMIO bool
	// TrapTSC hides the host's time-stamp counter from the guest: the kernel's reads were rewritten (Rewrite), and
	// programs' reads are trapped. Without it the machine can't be recorded faithfully.
	TrapTSC bool
	// MeasureHandling makes Stats tell how long exits take to handle. It costs two clock readings an exit.
	MeasureHandling bool
}

// Machine is a virtual machine with one vCPU.
type Machine struct {
	config Config
	vm     *kvm.VM
	vcpu   *kvm.VCPU
	memory *kvm.Memory
	leaves kvm.CPUID // what the guest's CPUID answers
	start  int64     // guest time in ns at which the machine gets its first door

	pc     *devices.PC
	virtio virtioDevices
	timers []devices.Timer

	// door is where inputs come from. live is the part of it that takes inputs from the world, nil while replaying;
	// recorder is the door if the machine is being recorded.
	door     lockstep.Door
	live     *lockstep.Live
	recorder *lockstep.Recorder
	// recording is the folder that the machine is recorded into, nil if it is not.
	recording *Recording
	// follower is the door of a machine that follows a peer's, else nil. follows is the number of the first record that it
	// followed.
	follower *lockstep.Replayer
	follows  uint64
	outputs  outputs
	visitors visitors
	pace     atomic.Int32 // a Pace
	rested   time.Time    // when a slow machine last rested

	position lockstep.Position
	// shownPosition and shownTime are position and guest time as others may see them.
	shownPosition atomic.Uint64
	shownTime     atomic.Int64
	exit          kvm.Exit
	tsc           tscTrap
	sregs         kvm.Sregs // where special registers are read to
	amd           bool      // the guest's processor is AMD's
	// pageWriter and pageReader code the deltas of forced stops. They hold the shadow and live as long as the door.
	pageWriter *wire.PageWriter
	pageReader *wire.PageReader
	dirty      []dirtyPages // by region; used while recording
	// devicesLogged is where hashes of the devices' states were last logged, devicesEvery after how many exits they are.
	devicesLogged lockstep.Position
	devicesEvery  uint64
	// forgotten is the guest time in ns at which dirty.stop was last emptied at an exit, 0 for never; forgetEvery is after how
	// long that is done again.
	forgotten, forgetEvery int64
	started                bool // it is startNS since the guest was first seen in a program
	digest                 exitDigest
	digested               bool // exits are digested, since a log is written or followed
	halted                 bool // the vCPU has executed HLT and no interrupt has come since
	ended                  Cause
	logEnd                 wire.Cause // why the log ends that the machine has followed

	// stopPosition and stopTime are where the machine stops by itself, if they are not 0.
	stopPosition lockstep.Position
	stopTime     int64

	// inGuest is true while the vCPU may be in the guest, where only a kick reaches it.
	inGuest atomic.Bool
	stop    atomic.Bool
	// failure is why a machine was stopped that can't go on, and onDiskLost is OnDiskLost's.
	failure    atomic.Pointer[error]
	onDiskLost func(error)

	stats Stats
}

// New makes a machine on a host's KVM. Before it can run it needs a kernel (Load) and a door (GoLive, Record or Replay).
func New(system *kvm.System, config Config) (*Machine, error) { return newMachine(system, config, nil) }

// newMachine makes a machine with RAM that there is, or with its own if memory is nil. The RAM is the machine's from here on: if
// it fails, it is closed.
func newMachine(system *kvm.System, config Config, memory *kvm.Memory) (*Machine, error) {
	m := &Machine{config: config, memory: memory}
	if err := checkHost(system); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if err := m.create(system); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	pc, err := devices.NewPC(devices.PCConfig{
		Clock: clockOfDoor{m}, EpochNS: config.EpochNS, MemoryBytes: config.MemoryBytes,
		Console: m.outlet(lockstep.KindConsole, SerialConsole, config.Console), Debug: m.outlet(lockstep.KindConsole, debugConsole, config.Debug),
		Reset: func() { m.ended = CauseReset },
	})
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	m.pc = pc
	m.timers = pc.Timers()
	if err := m.addVirtio(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// clockOfDoor is the clock of whichever door the machine has at the time.
type clockOfDoor struct{ m *Machine }

func (c clockOfDoor) Now() int64 { return c.m.door.Now() }

// checkHost refuses a host on which the machine can't be made at all.
func checkHost(system *kvm.System) error {
	needed := []struct {
		capability int
		name       string
	}{
		{kvm.CapUserMemory, "KVM_CAP_USER_MEMORY"},
		{kvm.CapExtCPUID, "KVM_CAP_EXT_CPUID"},
		{kvm.CapVCPUEvents, "KVM_CAP_VCPU_EVENTS"},
		{kvm.CapImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"},
		{kvm.CapSyncRegs, "KVM_CAP_SYNC_REGS"},
	}
	for _, n := range needed {
		value, err := system.Capability(n.capability)
		if err != nil {
			return err
		}
		if value == 0 {
			return fmt.Errorf("this host's KVM lacks %s: use a host with Linux 4.17 or newer", n.name)
		}
	}
	return nil
}

func (m *Machine) create(system *kvm.System) error {
	leaves, err := GuestCPUID(system)
	if err != nil {
		return err
	}
	m.leaves = leaves
	m.amd = isAMD(m.leaves)
	if m.config.CPUID != nil {
		if err := checkCPUID(m.config.CPUID, m.leaves); err != nil {
			return err
		}
	}
	if m.vm, err = system.CreateVM(); err != nil {
		return err
	}
	if err := m.vm.SetTSS(); err != nil {
		return err
	}
	if m.memory == nil {
		if m.memory, err = kvm.NewMemory(regions(m.config.MemoryBytes)); err != nil {
			return err
		}
	}
	if err := m.vm.SetMemory(m.memory, false); err != nil {
		return err
	}
	if m.vcpu, err = m.vm.CreateVCPU(0); err != nil {
		return err
	}
	return m.vcpu.SetCPUID(m.leaves)
}

func regions(memoryBytes uint64) []kvm.Region {
	var out []kvm.Region
	for _, r := range boot.Layout(memoryBytes) {
		out = append(out, kvm.Region{Base: r.Start, Bytes: r.Size})
	}
	return out
}

// Close releases the machine. Run must have returned.
func (m *Machine) Close() error {
	var errs []error
	if m.live != nil {
		m.live.Close()
	}
	errs = append(errs, m.closeBackEnds())
	if m.vcpu != nil {
		errs = append(errs, m.vcpu.Close())
	}
	if m.vm != nil {
		errs = append(errs, m.vm.Close())
	}
	if m.memory != nil {
		errs = append(errs, m.memory.Close())
	}
	return errors.Join(errs...)
}

// CloseButMemory releases the machine and returns its RAM, which is the caller's now. Run must have returned.
func (m *Machine) CloseButMemory() (*kvm.Memory, error) {
	memory := m.memory
	m.memory = nil
	return memory, m.Close()
}

// Load puts a kernel into the machine and the vCPU at its first instruction.
func (m *Machine) Load(k *boot.Kernel, options boot.Options) error {
	entry, err := boot.Load(m.memory, k, options)
	if err != nil {
		return err
	}
	return m.enter(entry)
}

// enter sets the vCPU's registers for a kernel's entry.
func (m *Machine) enter(entry boot.Entry) error {
	var sregs kvm.Sregs
	if err := m.vcpu.Sregs(&sregs); err != nil {
		return err
	}
	code := kvm.Segment{Limit: 0xffffffff, Selector: entry.CodeSelector, Type: 0xb, Present: 1, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: 0xffffffff, Selector: entry.DataSelector, Type: 0x3, Present: 1, S: 1, DB: 1, G: 1}
	sregs.CS = code
	sregs.DS, sregs.ES, sregs.FS, sregs.GS, sregs.SS = data, data, data, data, data
	sregs.GDT = kvm.DTable{Base: entry.GDTBase, Limit: entry.GDTLimit}
	sregs.IDT = kvm.DTable{}
	sregs.CR0, sregs.CR3, sregs.CR4, sregs.EFER = entry.CR0, entry.CR3, entry.CR4, entry.EFER
	if m.config.TrapTSC {
		sregs.CR4 |= cr4TSD
	}
	if err := m.vcpu.SetSregs(&sregs); err != nil {
		return err
	}
	return m.vcpu.SetRegs(&kvm.Regs{RIP: entry.RIP, RSI: entry.RSI, RSP: entry.RSP, RFLAGS: 2})
}

// Memory returns the guest's RAM.
func (m *Machine) Memory() *kvm.Memory { return m.memory }

// Stats returns the machine's counters, which belong to the goroutine in Run.
func (m *Machine) Stats() *Stats { return &m.stats }

// Logged returns why the log ends that the machine has followed to its end.
func (m *Machine) Logged() wire.Cause { return m.logEnd }

// Time returns the guest clock in ns.
func (m *Machine) Time() int64 { return m.time() }

// Place returns where the machine stands, or stood a moment ago, and the guest clock in ns there. It may be called from any
// goroutine.
func (m *Machine) Place() (lockstep.Position, int64) {
	return lockstep.Position(m.shownPosition.Load()), m.shownTime.Load()
}

// Position returns where in the instruction stream the machine stands.
func (m *Machine) Position() lockstep.Position { return m.position }

// GoLive gives the machine a door to the world: its inputs are what the world posts, and its clock goes on from where it
// stands, now.
func (m *Machine) GoLive() {
	m.leaveWorld()
	m.live = lockstep.NewLive(m.time(), m.kick)
	m.door, m.recorder, m.digested = m.live, nil, false
	m.stopPosition, m.stopTime = 0, 0
	m.stop.Store(false)
	m.startBackEnds()
}

// Record gives the machine a door to the world that logs every input.
func (m *Machine) Record(log lockstep.Log, options lockstep.RecorderOptions) {
	m.leaveWorld()
	m.recorder = lockstep.NewRecorder(m.time(), m.position, log, m.recorderOptions(options))
	m.live = m.recorder.Live
	m.door, m.digested = m.recorder, true
	m.devicesLogged, m.devicesEvery = m.position, DefaultDevicesEvery
	m.pageWriter = nil
	m.startBackEnds()
}

// recorderOptions completes options with what the machine itself tells its recorder.
func (m *Machine) recorderOptions(o lockstep.RecorderOptions) lockstep.RecorderOptions {
	o.Kick = m.vcpu.Kick
	if o.StopCost == nil {
		o.StopCost = m.stopCost
	}
	return o
}

// Replay gives the machine a door to a log: its inputs are what the log says, where the log says.
func (m *Machine) Replay(source lockstep.Source) {
	m.door = lockstep.NewReplayer(m.time(), m.position, source)
	m.live, m.recorder, m.digested = nil, nil, true
	m.pageReader = nil
}

// leaveWorld closes the door to the world that the machine has had until now, if any.
func (m *Machine) leaveWorld() {
	if m.live != nil {
		m.live.Close()
	}
}

// time returns where the guest clock stands.
func (m *Machine) time() int64 {
	if m.door == nil {
		return m.start
	}
	return m.door.Time()
}

// ErrReplaying says that a machine takes no inputs from the world, since it has them from a log.
var ErrReplaying = errors.New("the machine is replaying a log")

// Post hands an input to the machine; it may wait while the queue is full. It may be called from any goroutine once the
// machine has its door.
func (m *Machine) Post(in lockstep.Input) error {
	if m.live == nil {
		return ErrReplaying
	}
	return m.live.Post(in)
}

// Offer hands a received packet for network device n to the machine, or returns false if as many wait already as may. The
// packet's format is that of package devices/virtio. It may be called from any goroutine once the machine has its door.
func (m *Machine) Offer(n uint8, packet []byte) bool {
	return m.live != nil && m.live.Offer(lockstep.Input{Kind: lockstep.KindFrame, Device: n, Payload: packet})
}

// Stop makes Run return with CauseStopped. It may be called from any goroutine once the machine has its door.
func (m *Machine) Stop() {
	m.stop.Store(true)
	if m.live != nil {
		m.live.Wake()
		return
	}
	m.vcpu.Kick()
}

// StopAt makes Run return with CauseStopped at a position, or when the guest clock has come to a time in ns, if they are
// not 0.
func (m *Machine) StopAt(p lockstep.Position, timeNS int64) { m.stopPosition, m.stopTime = p, timeNS }

// Stopped tells whether the machine has been stopped from outside or is where StopAt wants it.
func (m *Machine) Stopped() bool {
	return m.stop.Load() || m.stopPosition != 0 && m.position >= m.stopPosition || m.stopTime != 0 && m.time() >= m.stopTime
}

// kick makes a vCPU that is in the guest come out.
func (m *Machine) kick() {
	if m.inGuest.Load() {
		m.vcpu.Kick()
	}
}
