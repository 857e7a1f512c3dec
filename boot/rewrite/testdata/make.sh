#!/bin/sh
# Builds sites.elf, with a table of known instruction starts sites-orc.elf, and run.elf. Needs binutils and gcc (to preprocess).
set -eu
cd "$(dirname "$0")"
object=$(mktemp)
trap 'rm -f "$object"' EXIT
build() {
	gcc -c $3 -o "$object" "$2"
	ld -m elf_x86_64 -static -nostdlib -z max-page-size=0x1000 --build-id=none -T sites.lds -o "$1" "$object"
	strip "$1"
	chmod 644 "$1"
}
build sites.elf sites.S ""
build sites-orc.elf sites.S -DORC
build run.elf run.S ""
