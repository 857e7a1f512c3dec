# Halts for ever with interrupts on and no source of any: only the VMM can end it.
	.include "guest.inc"
main:
	lidt	idt_pointer(%rip)
	say	"sleeping\n"
	sti
1:	hlt
	jmp	1b
