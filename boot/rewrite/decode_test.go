package rewrite

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// One instruction a line, at least one for each way in which a length comes about; assembled by GNU as.
var instructions = []string{
	"90",                               // nop
	"f3 90",                            // pause
	"00 00",                            // add %al,(%rax)
	"04 7f",                            // add $0x7f,%al
	"05 78 56 34 12",                   // add $0x12345678,%eax
	"66 05 34 12",                      // add $0x1234,%ax
	"48 05 78 56 34 12",                // add $0x12345678,%rax
	"66 48 05 78 56 34 12",             // REX.W beats the operand-size prefix
	"63 c1",                            // movslq %ecx,%eax
	"48 63 04 25 00 10 00 00",          // movslq 0x1000,%rax: SIB without base
	"8b 05 78 56 34 12",                // mov 0x12345678(%rip),%eax
	"8b 44 24 08",                      // mov 8(%rsp),%eax
	"8b 84 24 00 01 00 00",             // mov 0x100(%rsp),%eax
	"8b 80 00 01 00 00",                // mov 0x100(%rax),%eax
	"41 8b 04 24",                      // mov (%r12),%eax
	"42 8b 04 2d 00 00 00 00",          // mov 0x0(,%r13,1),%eax
	"68 78 56 34 12",                   // push $0x12345678
	"69 c0 78 56 34 12",                // imul $0x12345678,%eax,%eax
	"6b c0 10",                         // imul $0x10,%eax,%eax
	"6a 01",                            // push $1
	"74 00",                            // je
	"80 38 00",                         // cmpb $0,(%rax)
	"81 38 78 56 34 12",                // cmpl
	"66 81 38 34 12",                   // cmpw
	"83 38 00",                         // cmpl $0,(%rax)
	"8f 00",                            // pop (%rax)
	"a0 88 77 66 55 44 33 22 11",       // movabs 0x1122334455667788,%al
	"67 a1 44 33 22 11",                // addr32 mov 0x11223344,%eax
	"a8 01",                            // test $1,%al
	"a9 78 56 34 12",                   // test $0x12345678,%eax
	"b0 01",                            // mov $1,%al
	"b8 78 56 34 12",                   // mov $0x12345678,%eax
	"66 b8 34 12",                      // mov $0x1234,%ax
	"48 b8 88 77 66 55 44 33 22 11",    // movabs $0x1122334455667788,%rax
	"c0 e0 04",                         // shl $4,%al
	"c2 08 00",                         // ret $8
	"c3",                               // ret
	"c6 00 01",                         // movb $1,(%rax)
	"c7 04 24 78 56 34 12",             // movl $0x12345678,(%rsp)
	"66 c7 00 34 12",                   // movw $0x1234,(%rax)
	"c8 10 00 00",                      // enter $0x10,$0
	"ca 08 00",                         // lret $8
	"cc",                               // int3
	"cd 80",                            // int $0x80
	"d1 e0",                            // shl %eax
	"dd 44 24 08",                      // fldl 8(%rsp)
	"e5 e0",                            // in $0xe0,%eax
	"e7 e0",                            // out %eax,$0xe0
	"e8 00 00 00 00",                   // call
	"e9 00 00 00 00",                   // jmp
	"eb fe",                            // jmp
	"f0 0f b1 0a",                      // lock cmpxchg %ecx,(%rdx)
	"f6 00 01",                         // testb $1,(%rax)
	"f6 10",                            // notb (%rax)
	"f7 00 78 56 34 12",                // testl $0x12345678,(%rax)
	"66 f7 00 34 12",                   // testw $0x1234,(%rax)
	"48 f7 08 78 56 34 12",             // test /1, an alias
	"f7 d8",                            // neg %eax
	"ff 25 00 00 00 00",                // jmp *0(%rip)
	"0f 01 f9",                         // rdtscp
	"0f 01 ca",                         // clac
	"0f 05",                            // syscall
	"0f 0b",                            // ud2
	"0f 0d 08",                         // prefetchw (%rax)
	"0f 1f 84 00 00 00 00 00",          // nopl 0(%rax,%rax,1)
	"66 2e 0f 1f 84 00 00 00 00 00",    // the same, longer
	"66 66 2e 0f 1f 84 00 00 00 00 00", // and longer
	"0f 22 e0",                         // mov %rax,%cr4
	"41 0f 22 e1",                      // mov %r9,%cr4
	"0f 22 20",                         // mod bits that are ignored
	"0f 22 24",                         // and no SIB byte with them
	"0f 30",                            // wrmsr
	"0f 31",                            // rdtsc
	"0f 38 f0 00",                      // movbe (%rax),%eax
	"f2 48 0f 38 f1 c8",                // crc32
	"66 0f 3a 0f c1 08",                // palignr $8
	"0f 70 c1 1b",                      // pshufw
	"0f 77",                            // emms
	"0f 78 c1",                         // vmread
	"66 0f 78 c1 02 04",                // extrq
	"f2 0f 78 c1 02 04",                // insertq
	"0f 84 00 00 00 00",                // je
	"0f a2",                            // cpuid
	"0f a4 c1 04",                      // shld $4
	"0f a5 c1",                         // shld %cl
	"0f ae e8",                         // lfence
	"0f ba e0 05",                      // bt $5,%eax
	"0f c2 c1 00",                      // cmpps
	"0f c7 08",                         // cmpxchg8b (%rax)
	"0f c8",                            // bswap %eax
	"0f ff 00",                         // ud0 (%rax)
	"f3 0f 1e fa",                      // endbr64
	"65 48 8b 04 25 00 00 00 00",       // mov %gs:0,%rax
	"c5 f8 77",                         // vzeroupper
	"c5 fd 7f 00",                      // vmovdqa %ymm0,(%rax)
	"c5 f9 70 c1 0f",                   // vpshufd $0xf
	"c5 f1 c4 c0 01",                   // vpinsrw
	"c4 e2 7d 58 00",                   // vpbroadcastd (%rax),%ymm0
	"c4 e3 7d 39 c1 01",                // vextracti128 $1
	"c4 e2 70 f2 c1",                   // andn
	"c4 e3 7b f0 c0 05",                // rorx $5
	"62 f1 fd 48 6f 00",                // vmovdqa64 (%rax),%zmm0
	"62 f1 fd 48 6f 44 24 01",          // vmovdqa64 0x40(%rsp),%zmm0
	"62 f3 75 48 25 c2 96",             // vpternlogd $0x96
	"62 f1 75 48 72 e0 04",             // vpsrad $4
	"8f e8 78 c2 c1 04",                // vprotd $4 (XOP)
	"8f e9 78 01 c8",                   // blcfill (XOP)
	"8f ea 78 10 c1 78 56 34 12",       // bextr $0x12345678 (XOP)
}

func TestDecodeLength(t *testing.T) {
	for _, text := range instructions {
		code, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		in, ok := decode(append(bytes.Clone(code), 0xcc, 0xcc, 0xcc))
		if !ok || in.length != len(code) {
			t.Errorf("%s: length %d, ok %v, want %d", text, in.length, ok, len(code))
		}
		for n := range code {
			if in, ok := decode(code[:n]); ok {
				t.Errorf("%s: cut to %d bytes it is still taken for an instruction of %d", text, n, in.length)
			}
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, text := range []string{
		"", "06", "27", "60", "9a 00 00 00 00 00 00", "ea 00", "d4 0a", "d6", "ce", "82 00 00", // not in 64-bit mode
		"0f 04", "0f 24 c0", "0f 39", "0f 3b", "0f", "0f 38", "0f 3a", // nowhere
		"48", "66", "66 48", "c5 f8", "c4 e2 7d", "62 f1 fd 48", // prefixes alone
		"66 66 66 66 66 66 66 66 66 66 66 66 66 0f 1f 00", // longer than 15 bytes
	} {
		code, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if in, ok := decode(code); ok {
			t.Errorf("%s: taken for an instruction of %d bytes", text, in.length)
		}
	}
}

// A REX prefix counts only right before the opcode.
func TestDecodeREX(t *testing.T) {
	tests := []struct {
		code string
		rex  byte
	}{
		{"\x41\x0f\x22\xe1", 0x41},
		{"\x41\x66\x0f\x22\xe1", 0},
		{"\x66\x41\x0f\x22\xe1", 0x41},
		{"\x48\x41\x0f\x22\xe1", 0x41},
	}
	for _, tt := range tests {
		in, ok := decode([]byte(tt.code))
		if !ok || in.rex != tt.rex || in.table != map0F || in.opcode != 0x22 || in.opcodeAt != len(tt.code)-3 {
			t.Errorf("% x: %+v, want REX %#x", tt.code, in, tt.rex)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, text := range instructions {
		if code, err := hex.DecodeString(strings.ReplaceAll(text, " ", "")); err == nil {
			f.Add(code)
		}
	}
	f.Fuzz(func(t *testing.T, code []byte) {
		in, ok := decode(code)
		if !ok {
			return
		}
		if in.length < 1 || in.length > min(len(code), lengthMax) || in.opcodeAt >= in.length {
			t.Fatalf("% x: %+v", code, in)
		}
		if again, ok := decode(code[:in.length]); !ok || again != in {
			t.Fatalf("% x: %+v alone, %+v with what follows", code, again, in)
		}
	})
}
