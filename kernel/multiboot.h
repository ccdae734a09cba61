// What the two halves of the Multiboot entry share: collecting memory (multiboot_mem.c) and reading what the loader left (multiboot.c).
// All of it runs once, on one core, before kernel_entry; physical addresses below 4 GiB are mapped at themselves.
#pragma once

#include "kernel/boot_info.h"

#define KERNEL_LOAD 0x200000ull     // linker.ld, multiboot.S

// Called by multiboot.S with the physical address of the loader's information.
NORETURN void multiboot_main(u64 mbi);

// Adds a range of the machine's memory. Where ranges overlap, BOOT_MEM_LOADER wins, then what is less usable. False: too many.
bool mbmem_add(u64 base, u64 size, enum boot_mem_type type) MUST_CHECK;
// Zeroed room for struct boot_info, the memory map and the page tables, from free memory below 4 GiB. NULL: none.
struct boot_info *mbmem_reserve(void) MUST_CHECK;
// Writes the map behind `info` and builds the page tables that boot_info.h promises; returns CR3. After mbmem_reserve only.
u64 mbmem_finish(struct boot_info *info);
