#!/bin/sh
# Builds tiny.elf and packs it in every way the kernel's build does (scripts/Makefile.lib, scripts/xz_wrap.sh): the unpacked
# size is appended except to gzip, which records it by itself. Needs binutils, gzip, bzip2, xz-utils, lz4 and zstd.
set -eu
cd "$(dirname "$0")"
object=$(mktemp)
trap 'rm -f "$object"' EXIT
as --64 -o "$object" tiny.S
ld -m elf_x86_64 -static -nostdlib -z max-page-size=0x1000 --build-id=none -T tiny.lds -o tiny.elf "$object"
strip tiny.elf
chmod 644 tiny.elf
append_size() {
	size=$(wc -c <tiny.elf)
	printf "$(printf '\\%03o\\%03o\\%03o\\%03o' $((size & 255)) $((size >> 8 & 255)) $((size >> 16 & 255)) $((size >> 24 & 255)))"
}
gzip -n -9 <tiny.elf >tiny.gzip
{ bzip2 -9 <tiny.elf; append_size; } >tiny.bzip2
{ lzma -9 <tiny.elf; append_size; } >tiny.lzma
{ xz --check=crc32 --x86 --lzma2=dict=32MiB <tiny.elf; append_size; } >tiny.xz
{ lz4 -l -9 - - <tiny.elf; append_size; } >tiny.lz4
{ zstd -22 --ultra -q -c <tiny.elf; append_size; } >tiny.zstd
