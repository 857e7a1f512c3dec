package vmm

import (
	"regexp"
	"runtime/debug"
	"testing"

	"tandem/boot"
	"tandem/devices"
	"tandem/devices/virtio"
	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
	"tandem/testdata/guests"
)

// everyDevice makes a machine that has a device of each kind, with a guest loaded.
func everyDevice(t *testing.T, image []byte) *Machine {
	t.Helper()
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Skip(err)
	}
	defer system.Close()
	m, err := New(system, Config{
		MemoryBytes: guestMemoryBytes, EpochNS: guestEpochNS, Console: newSink(), Debug: newSink(), Entropy: true,
		Disks:         []Disk{{BlkConfig: virtio.BlkConfig{Sectors: 2048}, Name: "disk"}},
		NICs:          []NIC{{NetConfig: virtio.NetConfig{MAC: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 1500}, Out: newSink()}},
		VirtioConsole: &VirtioConsole{ConsoleConfig: virtio.ConsoleConfig{Columns: 80, Rows: 25}, Out: newSink()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	k, err := boot.ReadKernel(image)
	if err == nil {
		err = m.Load(k, boot.Options{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// hostileValues take the place of each number and truth value in a state.
var hostileValues = []string{
	"-1", "0", "1", "2", "7", "8", "16", "17", "255", "256", "65535", "65536", "2147483648", "9223372036854775807", "18446744073709551615",
	"true", "false", "null", "[]", "{}", `""`,
}

// jsonValue finds numbers and truth values in the canonical JSON of states.
var jsonValue = regexp.MustCompile(`([:\[,])(-?[0-9]+|true|false)`)

// maxVaried is how many values of a state are varied: the first ones. Behind them there are only more of an array's.
const maxVaried = 150

// variants returns all states that differ from a good one in one value.
func variants(good string) []string {
	var all []string
	for _, span := range jsonValue.FindAllStringSubmatchIndex(good, maxVaried) {
		for _, hostile := range hostileValues {
			all = append(all, good[:span[4]]+hostile+good[span[5]:])
		}
	}
	return all
}

// TestHostileDeviceStates gives each device states that differ from a good one in one value. Each must be refused, or leave a
// machine that can be run without harm to this process.
func TestHostileDeviceStates(t *testing.T) {
	m := everyDevice(t, guests.Random(700, 500))
	for _, part := range m.parts() {
		t.Run(part.Name, func(t *testing.T) {
			good, err := part.SaveState()
			if err != nil {
				t.Fatal(err)
			}
			refused, taken := 0, 0
			for _, text := range variants(string(good)) {
				if testHostile(t, m, part, good, text) {
					taken++
				} else {
					refused++
				}
			}
			if err := part.LoadState(good); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d states refused, %d taken", refused, taken)
			if refused == 0 || taken == 0 {
				t.Errorf("%d states refused, %d taken", refused, taken)
			}
		})
	}
}

// testHostile loads a state into a device and, if it is taken, uses the machine and puts the good state back.
func testHostile(t *testing.T, m *Machine, part devices.Part, good []byte, text string) (taken bool) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("%s: panic: %v\n%s", text, p, debug.Stack())
		}
	}()
	if part.LoadState([]byte(text)) != nil {
		return false
	}
	use(t, m)
	if err := part.LoadState(good); err != nil {
		t.Fatalf("behind %s the good state is refused: %v", text, err)
	}
	return true
}

// use uses a machine as its run loop and its guest do, without entering the guest.
func use(t *testing.T, m *Machine) {
	t.Helper()
	m.Replay(&listed{records: []wire.Record{{Kind: wire.KindTick}, {Kind: wire.KindTick}, {Kind: wire.KindClock, Time: 1e9}}})
	m.door.At(0)
	for range 3 {
		_, _ = m.door.Next(m.waiting())
		m.advance()
		if m.pc.PIC.Pending() {
			m.pc.PIC.Acknowledge()
		}
		var p [4]byte
		for port := range uint64(0x1000) {
			m.pc.Ports.Read(port, p[:1])
		}
	}
	if m.pc.UART.Room() > 0 {
		m.pc.UART.Receive([]byte("x"))
	}
	if m.room(lockstep.KindConsole, VirtioConsoleDevice, []byte("x")) > 0 {
		m.virtio.console.Receive([]byte("x"))
	}
	if _, err := m.capture(); err != nil {
		t.Errorf("it can't be saved: %v", err)
	}
}
