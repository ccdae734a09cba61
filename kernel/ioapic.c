// I/O APICs: an index and a data register, two 32-bit words per pin (82093AA data sheet). All pins are masked at first use; routed
// ones go to the boot core, physically addressed.
#include "kernel/acpi.h"
#include "kernel/base/log.h"
#include "kernel/core.h"
#include "kernel/cpu.h"
#include "kernel/lapic.h"
#include "kernel/vmem.h"

enum { R_VERSION = 1, R_PIN = 0x10, PIN_LOW = 1 << 13, PIN_LEVEL = 1 << 15, PIN_MASKED = 1 << 16 };

struct ioapic { volatile u32 *page; u32 base, pins; };

static struct { bool ready; unsigned count; struct ioapic chip[ACPI_IOAPICS]; } ioapics;

static u32 ioapic_rd(const struct ioapic *a, u32 r)
{
    a->page[0] = r;
    return a->page[4];
}

static void ioapic_wr(const struct ioapic *a, u32 r, u32 v)
{
    a->page[0] = r;
    a->page[4] = v;
}

static void ioapic_init(void)
{
    const struct acpi_info *acpi = acpi_info();
    ioapics.ready = true;
    for (unsigned i = 0; i < acpi->ioapics; i++) {
        struct ioapic *a = &ioapics.chip[ioapics.count];
        a->page = vmem_map_phys(acpi->ioapic[i].phys, PAGE_SIZE, VMEM_WRITE | VMEM_UC);
        if (!a->page) continue;
        ioapics.count++;
        a->base = acpi->ioapic[i].gsi_base;
        a->pins = bits_get(ioapic_rd(a, R_VERSION), 16, 8) + 1;
        for (u32 p = 0; p < a->pins; p++) ioapic_wr(a, R_PIN + 2 * p, PIN_MASKED);
    }
}

bool ioapic_route(u32 gsi, u8 vector, bool level, bool low)
{
    if (!ioapics.ready) ioapic_init();
    for (unsigned i = 0; i < ioapics.count; i++) {
        const struct ioapic *a = &ioapics.chip[i];
        if (gsi < a->base || gsi - a->base >= a->pins) continue;
        u32 r = R_PIN + 2 * (gsi - a->base);
        ioapic_wr(a, r + 1, lapic_id() << 24);
        ioapic_wr(a, r, vector | (level ? PIN_LEVEL : 0) | (low ? PIN_LOW : 0));
        return true;
    }
    return false;
}

bool ioapic_route_isa(unsigned isa, u8 vector)
{
    const struct acpi_isa *r = &acpi_info()->isa[isa & 15];
    return ioapic_route(r->gsi, vector, r->level, r->low);
}
