// Page tables and the memory that is named by virtual address. Tables come from the physical allocator and are reached through the
// direct map. All cores share one address space. One of them at a time changes it, under a lock that is released before the others are
// told of an unmapping (cores.c says how); readers take no lock, because entries are single words and tables are never freed.
//
// SDM 3A 4.5 for the formats. Nothing is ever both writable and executable, the direct map does not contain the kernel's image, and the
// guard pages of the stacks are left out.
#include "kernel/vmem.h"

#include <string.h>

#include "kernel/base/log.h"
#include "kernel/core.h"
#include "kernel/cores.h"
#include "kernel/cpu.h"
#include "kernel/pmem.h"

enum { PTE_P = 1, PTE_W = 2, PTE_PWT = 8, PTE_PCD = 16, PTE_PS = 0x80 };
#define PTE_NX   BIT(63)
#define PTE_ADDR 0x000ffffffffff000ull
#define LARGE    (2 * MIB)

extern const u8 kernel_start[], kernel_rodata[], kernel_data[], kernel_symbols[], kernel_end[];

static struct { u64 *pml4; u64 window; struct ticket_lock lock; } vmem = {.window = VMEM_WINDOW_BASE};

static u64 vmem_pte(unsigned prot)
{
    u64 e = PTE_P;
    if (prot & VMEM_WRITE) e |= PTE_W;
    if (!(prot & VMEM_EXEC)) e |= PTE_NX;
    if (prot & VMEM_WC) e |= PTE_PWT;                // PAT entry 1, core.c
    if (prot & VMEM_UC) e |= PTE_PCD | PTE_PWT;      // PAT entry 3
    return e;
}

static u64 *vmem_new_table(void)
{
    u64 phys = pmem_alloc(PAGE_SIZE, PAGE_SIZE);
    if (!phys) return NULL;
    return memset(pmem_virt(phys), 0, PAGE_SIZE);
}

// The entry that maps `virt` at level `shift` (12 or 21), with tables on the way made if `make`. NULL: absent, or no memory.
static u64 *vmem_entry(u64 virt, unsigned shift, bool make)
{
    u64 *t = vmem.pml4;
    for (unsigned s = 39; s > shift; s -= 9) {
        u64 *e = &t[bits_get(virt, s, 9)];
        if (!(*e & PTE_P)) {
            u64 *below = make ? vmem_new_table() : NULL;
            if (!below) return NULL;
            *e = ((u64)below - DIRECT_MAP_BASE) | PTE_P | PTE_W;
        } else if (*e & PTE_PS) {
            return make ? NULL : e;   // a large page covers it
        }
        t = pmem_virt(*e & PTE_ADDR);
    }
    return &t[bits_get(virt, shift, 9)];
}

static bool vmem_map_locked(u64 virt, u64 phys, u64 size, unsigned prot)
{
    ASSERT((prot & (VMEM_WRITE | VMEM_EXEC)) != (VMEM_WRITE | VMEM_EXEC), "W^X at %llx", (unsigned long long)virt);
    u64 bits = vmem_pte(prot);
    while (size) {
        bool large = !((virt | phys) & (LARGE - 1)) && size >= LARGE && !(prot & VMEM_SMALL);
        u64 *e = vmem_entry(virt, large ? 21 : 12, true), step = large ? LARGE : PAGE_SIZE;
        if (!e) return false;
        ASSERT(!(*e & PTE_P), "%llx is mapped already", (unsigned long long)virt);
        *e = phys | bits | (large ? PTE_PS : 0);
        virt += step;
        phys += step;
        size -= step;
    }
    return true;
}

bool vmem_map(u64 virt, u64 phys, u64 size, unsigned prot)
{
    u64 flags = ticket_lock_irq(&vmem.lock);
    bool ok = vmem_map_locked(virt, phys, size, prot);
    ticket_unlock_irq(&vmem.lock, flags);
    return ok;
}

u64 vmem_phys(u64 virt, u64 *page_size)
{
    if (!vmem.pml4) return 0;
    const u64 *e = vmem_entry(virt, 12, false);
    if (!e || !(*e & PTE_P)) return 0;
    // vmem_entry stops early only at a large page; of those, only 2 MiB ones are made here. PS in a 4 KiB entry would be PAT, never set.
    u64 size = *e & PTE_PS ? LARGE : PAGE_SIZE;
    if (page_size) *page_size = size;
    return (*e & PTE_ADDR & ~(size - 1)) | (virt & (size - 1));
}

bool vmem_is_mapped(u64 virt)
{
    bool canonical = virt >> 47 == 0 || virt >> 47 == 0x1ffff;
    if (!canonical) return false;
    if (!vmem.pml4) return virt >= KERNEL_VIRT;   // the loader's tables
    const u64 *e = vmem_entry(virt, 12, false);
    return e && (*e & PTE_P);
}

void vmem_unmap(u64 virt, u64 size)
{
    u64 flags = ticket_lock_irq(&vmem.lock);
    bool any = false;
    for (u64 at = virt, step; at < virt + size; at += step) {
        step = PAGE_SIZE;
        u64 *e = vmem_entry(at, 12, false);
        if (!e || !(*e & PTE_P)) continue;
        if (*e & PTE_PS) step = LARGE;
        *e = 0;
        any = true;
    }
    ticket_unlock_irq(&vmem.lock, flags);
    if (any) cores_flush(virt, size);
}

u64 vmem_window(u64 size, u64 align)
{
    u64 flags = ticket_lock_irq(&vmem.lock);
    u64 at = align_up(vmem.window, align);
    vmem.window = at + align_up(size, PAGE_SIZE) + PAGE_SIZE;   // a hole after each, so that overruns fault
    ticket_unlock_irq(&vmem.lock, flags);
    ASSERT(at + size < VMEM_HEAP_BASE, "out of window addresses");
    return at;
}

void *vmem_map_phys(u64 phys, u64 size, unsigned prot)
{
    u64 first = align_down(phys, PAGE_SIZE), len = align_up(phys + size, PAGE_SIZE) - first;
    if (!(prot & (VMEM_WC | VMEM_UC)) && phys + size <= DIRECT_MAP_SIZE) {
        bool all = true;
        for (u64 a = first; a < first + len && all; a += PAGE_SIZE) all = vmem_is_mapped(DIRECT_MAP_BASE + a);
        if (all) return pmem_virt(phys);
    }
    // The same offset within 2 MiB, so that large pages fit.
    u64 v = len < LARGE ? vmem_window(len, PAGE_SIZE) : vmem_window(len + LARGE, LARGE) + (first & (LARGE - 1));
    return vmem_map(v, first, len, prot) ? (void *)(v + (phys - first)) : NULL;
}

// Unmaps [virt, virt + size) and gives back what backs it, some pages at a time: each unmapping may cost a round through all cores.
static void vmem_depopulate(u64 virt, u64 size)
{
    struct { u64 phys, size; } piece[64];
    for (u64 v = virt, from, page; v < virt + size;) {
        unsigned n = 0;
        for (from = v; v < virt + size && n < ARRAY_SIZE(piece); v += page) {
            page = PAGE_SIZE;
            u64 phys = vmem_phys(v, &page);
            if (!phys) continue;
            piece[n].phys = phys;
            piece[n++].size = page;
        }
        vmem_unmap(from, v - from);
        while (n--) pmem_free(piece[n].phys, piece[n].size);
    }
}

bool vmem_populate(u64 virt, u64 size, unsigned prot)
{
    for (u64 done = 0, piece; done < size; done += piece) {
        u64 left = size - done, phys = 0;
        bool large = left >= LARGE && !((virt + done) & (LARGE - 1));
        piece = large ? align_down(left, LARGE) : PAGE_SIZE;
        while (large && !(phys = pmem_alloc(piece, LARGE)) && piece > LARGE) piece = align_up(piece / 2, LARGE);
        if (!phys) phys = pmem_alloc(piece = PAGE_SIZE, PAGE_SIZE);
        if (!phys || !vmem_map(virt + done, phys, piece, prot)) {
            if (phys) {   // whatever part of the piece got mapped is unmapped without being freed twice
                vmem_unmap(virt + done, piece);
                pmem_free(phys, piece);
            }
            vmem_depopulate(virt, done);
            return false;
        }
        memset(pmem_virt(phys), 0, piece);
    }
    return true;
}

void *vmem_alloc(u64 size)
{
    size = align_up(size, PAGE_SIZE);
    if (!size || size > pmem_free_bytes()) return NULL;
    u64 phys = pmem_alloc(size, size >= LARGE ? LARGE : PAGE_SIZE);
    if (phys) return memset(pmem_virt(phys), 0, size);
    u64 virt = vmem_window(size, LARGE);
    return vmem_populate(virt, size, VMEM_WRITE) ? (void *)virt : NULL;
}

void vmem_free(void *p, u64 size)
{
    u64 a = (u64)p;
    size = align_up(size, PAGE_SIZE);
    if (!p) return;
    if (a >= DIRECT_MAP_BASE && a < DIRECT_MAP_BASE + DIRECT_MAP_SIZE) pmem_free(a - DIRECT_MAP_BASE, size);
    else vmem_depopulate(a, size);
}

// ---- building the tables ----

static void vmem_must(bool ok) { ASSERT(ok, "no memory for page tables"); }

// [from, to) of RAM into the direct map, without the kernel's image.
static void vmem_map_ram(const struct boot_info *info, u64 from, u64 to)
{
    u64 k0 = info->kernel_phys, k1 = k0 + info->kernel_size;
    if (from < k0 && k0 < to) vmem_map_ram(info, from, k0);
    if (from < k1 && k1 < to) vmem_map_ram(info, k1, to);
    if ((from < k1 && k0 < to) || from >= to) return;
    vmem_must(vmem_map(DIRECT_MAP_BASE + from, from, to - from, VMEM_WRITE));
}

static bool vmem_is_ram(const struct boot_mem *m) { return m->type <= BOOT_MEM_ACPI; }

static void vmem_map_direct(const struct boot_info *info)
{
    const struct boot_mem *m = pmem_virt(info->mem_map_phys);
    u64 n = info->mem_map_count;
    u64 from = 0, to = 0;   // neighbours of all RAM types together, so that large pages can span them
    for (u64 i = 0; i < n; i++) {
        if (!vmem_is_ram(&m[i])) continue;
        if (m[i].base != to) {
            vmem_map_ram(info, from, min_u64(to, DIRECT_MAP_SIZE));
            from = m[i].base;
        }
        to = m[i].base + m[i].size;
    }
    vmem_map_ram(info, from, min_u64(to, DIRECT_MAP_SIZE));
}

static void vmem_map_image(const struct boot_info *info, const u8 *from, const u8 *to, unsigned prot)
{
    vmem_must(vmem_map((u64)from, info->kernel_phys + (u64)(from - kernel_start), (u64)(to - from), prot | VMEM_SMALL));
}

static void vmem_drop_guard(u64 page) { vmem_unmap(page, PAGE_SIZE); }

// The top table. With LA57 a fifth level whose last entry is the four-level table: kernel addresses read the same (SDM 3A 4.5.1).
static u64 vmem_top(void)
{
    u64 pml4 = (u64)vmem.pml4 - DIRECT_MAP_BASE;
    if (!(cpu_cr4() & CR4_LA57)) return pml4;
    u64 *pml5 = vmem_new_table();
    vmem_must(pml5 != NULL);
    pml5[511] = pml4 | PTE_P | PTE_W;
    return (u64)pml5 - DIRECT_MAP_BASE;
}

const u64 *vmem_pml4(void) { return vmem.pml4; }

void vmem_init(const struct boot_info *info)
{
    u64 *top = vmem_new_table();
    vmem_must(top != NULL);
    vmem.pml4 = top;
    vmem_map_image(info, kernel_start, kernel_rodata, VMEM_READ | VMEM_EXEC);
    vmem_map_image(info, kernel_rodata, kernel_data, VMEM_READ);
    vmem_map_image(info, kernel_data, kernel_symbols, VMEM_WRITE);
    if ((u64)kernel_symbols != (u64)kernel_end) vmem_map_image(info, kernel_symbols, kernel_end, VMEM_READ);
    core_guards_walk(vmem_drop_guard);
    vmem_map_direct(info);
    cpu_set_cr3(vmem_top());
}
