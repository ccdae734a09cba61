// Page tables. The kernel's: the window by 2 MiB pages, for ring 3 too, and the two MMIO pages, uncached; nothing else, in a guest as on
// the bare processor. A test's address space has the same PML4 entry 0 and, behind entry 1, four-kilobyte pages of its own.
#include "assay/guest/guest.h"

enum { P = 1, W = 2, U = 4, PWT = 8, PCD = 16, PS = 0x80 };

static u64 pml4[512] __attribute__((aligned(4096)));
static u64 pdpt[512] __attribute__((aligned(4096)));
static u64 window[512] __attribute__((aligned(4096)));
static u64 mmio[512] __attribute__((aligned(4096)));

_Static_assert((LAPIC_VIRT >> 30) == 1 && (LAPIC_VIRT >> 21 & 511) == 511 && IOAPIC_VIRT == LAPIC_VIRT + 0x1000,
               "mmio is the window's last entry");

void paging_build(void)
{
    pml4[0] = phys_of(pdpt) | P | W | U;
    pdpt[1] = phys_of(window) | P | W | U;
    for (u64 i = 0; i < ASSAY_WINDOW >> 21; i++) window[i] = (pass()->phys + (i << 21)) | P | W | U | PS;
    window[511] = phys_of(mmio) | P | W;
    mmio[0] = pass()->mmio_lapic ? pass()->mmio_lapic | P | W | PWT | PCD : 0;
    mmio[1] = pass()->mmio_ioapic ? (pass()->mmio_ioapic & PAGE_MASK) | P | W | PWT | PCD : 0;
}

u64 paging_cr3(void) { return phys_of(pml4); }

u64 space_build(u8 *tables, const u8 *data, unsigned pages, bool mapped)
{
    u64 *t = (u64 *)(void *)tables, *pt = space_pt(tables);
    for (unsigned i = 0; i < SPACE_TABLES / 8; i++) t[i] = 0;
    t[0] = pml4[0];
    t[FAULT_REGION >> 39 & 511] = phys_of(t + 512) | P | W | U;
    t[512] = phys_of(t + 1024) | P | W | U;
    t[1024] = phys_of(pt) | P | W | U;
    for (unsigned i = 0; mapped && i < pages; i++) pt[i] = phys_of(data + i * PAGE_SIZE) | P | W | U;
    return phys_of(t);
}
