#!/bin/sh
# Builds every guest: NAME.S to NAME.elf, beside it or in the folder given. Needs binutils. A test compares what this makes
# with the files that are committed.
set -eu
cd "$(dirname "$0")"
out=${1:-.}
object=$(mktemp)
trap 'rm -f "$object"' EXIT
for source in *.S; do
	name=${source%.S}
	as --64 -o "$object" "$source"
	ld -m elf_x86_64 -n -static -nostdlib --build-id=none -T guest.lds -o "$out/$name.elf" "$object"
	strip "$out/$name.elf"
	chmod 644 "$out/$name.elf"
done
