# MMIO reads and writes of every width to a device of plain storage, a page at 0xfed00000, which the test provides (a
# PC has its HPET there; this machine has none). Then
# an instruction that reads and writes, and a read across the end of the page, which comes as two.
	.include "guest.inc"
	.set	DEVICE, 0xfed00000
main:
	mov	$DEVICE, %ebx
	mov	$0x1122334455667788, %rax
	mov	%rax, (%rbx)
	mov	%eax, 8(%rbx)
	mov	%ax, 12(%rbx)
	mov	%al, 14(%rbx)
	mov	(%rbx), %rcx
	expect	%rcx, %rax, "quadword"
	mov	8(%rbx), %ecx
	expect	%ecx, $0x55667788, "dword"
	movzwl	12(%rbx), %ecx
	expect	%ecx, $0x7788, "word"
	movzbl	14(%rbx), %ecx
	expect	%ecx, $0x88, "byte"
	movsbq	14(%rbx), %rcx
	expect	%rcx, $-0x78, "byte with its sign"
	addl	$1, 8(%rbx)
	mov	8(%rbx), %ecx
	expect	%ecx, $0x55667789, "sum in the device"
	movl	$0x01020304, 0xffc(%rbx)
	mov	0xffc(%rbx), %rcx
	mov	$0xffffffff01020304, %rax
	expect	%rcx, %rax, "read across the device's end"
	say	"ok\n"
	jmp	finish
