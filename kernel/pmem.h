// Physical memory, by runs of pages. All RAM is in the direct map, so a physical page has an address at once. Locked inside; not from
// interrupt context, where a run that is being split must not be met again.
#pragma once

#include "kernel/boot_info.h"

// Takes every BOOT_MEM_FREE range above 1 MiB (below lies what starting other cores needs).
void pmem_init(const struct boot_mem *map, u64 count);
// A contiguous run of `size` bytes (whole pages), aligned to `align` (a power of two, at least a page). 0: none. Contents are undefined.
u64 pmem_alloc(u64 size, u64 align) MUST_CHECK;
void pmem_free(u64 phys, u64 size);
u64 pmem_free_bytes(void);
u64 pmem_largest_run(void);

static inline void *pmem_virt(u64 phys) { return (void *)(DIRECT_MAP_BASE + phys); }
