// The page tables of the hand-over. Two views of all RAM share their lower tables: at the physical address, for this program's last
// instructions after CR3 changed, and at DIRECT_MAP_BASE. The kernel's image is mapped by 4 KiB pages with the protection of each
// ELF segment, so that its W^X holds from the first instruction. The kernel builds its own final tables and drops these.
#include "boot/boot.h"

#include <elf.h>
#include <string.h>

#include "kernel/base/bits.h"

enum { PTE_P = 1, PTE_W = 2, PTE_PS = 0x80 };
#define PTE_NX BIT(63)

// The table below entry `i` of `table`, made if absent; 0 when memory is out.
static u64 *table_below(struct boot *b, u64 *table, unsigned i)
{
    if (!table[i]) {
        u64 t = boot_pages_alloc(b, PAGE_SIZE);
        if (!t) return NULL;
        table[i] = t | PTE_P | PTE_W;
    }
    return (u64 *)(table[i] & ~0xfffull);
}

// One PDPT per 512 GiB, 2 MiB pages throughout: 1 GiB pages are not everywhere.
static bool map_ram(struct boot *b, u64 *pml4, u64 top)
{
    for (u64 a = 0; a < top; a += 2 * MIB) {
        unsigned slot = (unsigned)bits_get(a, 39, 9);
        u64 *pdpt = table_below(b, pml4, slot);
        u64 *pd = pdpt ? table_below(b, pdpt, (unsigned)bits_get(a, 30, 9)) : NULL;
        if (!pd) return false;
        pd[bits_get(a, 21, 9)] = a | PTE_P | PTE_W | PTE_PS;
        pml4[256 + slot] = pml4[slot];
    }
    return true;
}

static bool map_page(struct boot *b, u64 *pml4, u64 virt, u64 pte)
{
    u64 *t = pml4;
    for (unsigned shift = 39; shift > 12; shift -= 9)
        if (!(t = table_below(b, t, (unsigned)bits_get(virt, shift, 9)))) return false;
    t[bits_get(virt, 12, 9)] = pte;
    return true;
}

static bool map_kernel(struct boot *b, u64 *pml4, const Elf64_Ehdr *eh, u64 phys)
{
    const Elf64_Phdr *ph = (const Elf64_Phdr *)((const u8 *)eh + eh->e_phoff);
    for (unsigned i = 0; i < eh->e_phnum; i++) {
        if (ph[i].p_type != PT_LOAD) continue;
        u64 pte = PTE_P | (ph[i].p_flags & PF_W ? PTE_W : 0) | (ph[i].p_flags & PF_X ? 0 : PTE_NX);
        for (u64 v = align_down(ph[i].p_vaddr, PAGE_SIZE); v < ph[i].p_vaddr + ph[i].p_memsz; v += PAGE_SIZE)
            if (!map_page(b, pml4, v, (v - KERNEL_VIRT + phys) | pte)) return false;
    }
    return true;
}

u64 boot_tables_build(struct boot *b, const void *elf, u64 kernel_phys, u64 ram_top)
{
    u64 pml4 = boot_pages_alloc(b, PAGE_SIZE);
    if (!pml4 || !map_ram(b, (u64 *)pml4, ram_top) || !map_kernel(b, (u64 *)pml4, elf, kernel_phys)) return 0;
    u64 cr4;
    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    if (!(cr4 & BIT(12))) return pml4;
    // CR4.LA57: firmware runs five-level tables, and the bit cannot change in long mode (SDM 3A 4.1.1). One more table on top,
    // whose two entries make the 48-bit canonical halves look as with four levels.
    u64 pml5 = boot_pages_alloc(b, PAGE_SIZE);
    if (!pml5) return 0;
    ((u64 *)pml5)[0] = ((u64 *)pml5)[511] = pml4 | PTE_P | PTE_W;
    return pml5;
}
