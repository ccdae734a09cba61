// The kernel's virtual memory. Its parts (PML4 slots; 256..271 are Cupel's, so that a guest's address space can once share the tables):
//
//   0xffff800000000000  direct map: all RAM, RW, NX; without the kernel's own image
//   0xffff840000000000  windows: devices, and memory that is contiguous only virtually
//   0xffff848000000000  the C heap, growing upwards
//   0xffffffff80000000  the kernel's image, W^X
//   0xffffffff90000000  code caches: each once RW and once RX
#pragma once

#include "kernel/boot_info.h"

#define VMEM_WINDOW_BASE 0xffff840000000000ull
#define VMEM_HEAP_BASE   0xffff848000000000ull
#define VMEM_HEAP_SIZE   (64 * GIB)
#define VMEM_CODE_BASE   0xffffffff90000000ull
#define VMEM_CODE_END    0xfffffffff0000000ull

enum vmem_prot {
    VMEM_READ = 0, VMEM_WRITE = 1, VMEM_EXEC = 2,
    VMEM_WC = 4,     // write-combining: framebuffers
    VMEM_UC = 8,     // uncached: device registers
    VMEM_SMALL = 16, // 4 KiB pages only, so that single ones can be unmapped
};

// Builds the final page tables and switches to them.
void vmem_init(const struct boot_info *info);
// Maps size bytes (whole pages), with 2 MiB pages where both addresses allow it. False: no memory for tables. Not from interrupt context.
bool vmem_map(u64 virt, u64 phys, u64 size, unsigned prot) MUST_CHECK;
// On return no core remembers the mapping. Any context in which the caller does not hold a lock of pmem or vmem.
void vmem_unmap(u64 virt, u64 size);
// Physical address behind a mapped address and, if wanted, the size of its page; 0 when not mapped. Any context.
u64 vmem_phys(u64 virt, u64 *page_size);
bool vmem_is_mapped(u64 virt);
// The 512 entries below which all kernel mappings are, through the direct map.
const u64 *vmem_pml4(void);
// A fresh stretch of window addresses.
u64 vmem_window(u64 size, u64 align);
// Physical memory at a virtual address: RAM through the direct map where it is in it, otherwise a new window. NULL: no memory.
void *vmem_map_phys(u64 phys, u64 size, unsigned prot);
// Zeroed memory of any size: one physical run if there is one, else put together in a window. NULL: none.
void *vmem_alloc(u64 size) MUST_CHECK;
void vmem_free(void *p, u64 size);
// Memory for [virt, virt + size), from whatever runs there are. False: none (nothing mapped).
bool vmem_populate(u64 virt, u64 size, unsigned prot) MUST_CHECK;
