#!/bin/sh
# Builds sites.elf and, with a table of known instruction starts, sites-orc.elf. Needs binutils and gcc (to preprocess).
set -eu
cd "$(dirname "$0")"
object=$(mktemp)
trap 'rm -f "$object"' EXIT
build() {
	gcc -c $2 -o "$object" sites.S
	ld -m elf_x86_64 -static -nostdlib -z max-page-size=0x1000 --build-id=none -T sites.lds -o "$1" "$object"
	strip "$1"
	chmod 644 "$1"
}
build sites.elf ""
build sites-orc.elf -DORC
