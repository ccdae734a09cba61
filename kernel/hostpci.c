// Configuration space is reached by the ports 0xcf8/0xcfc, which every PC has; what only the memory-mapped way reaches (registers from 256
// on) nobody here needs. Buses are scanned whole, because bridges may have been numbered with gaps.
#include "kernel/hostpci.h"

#include "kernel/cpu.h"
#include "kernel/hwtimer.h"
#include "kernel/vmem.h"

enum { HEADER_TYPE = 0x0e, CAP_PTR = 0x34, FUNCTIONS = 0x10000, CMD_ON = 0x406, PMCSR = 4, PMCSR_STATE = 3 };
enum { WAKE_NS = 10000000 };

static struct ticket_lock hostpci_lock;   // the two ports belong together

u32 hostpci_read(u32 bdf, unsigned reg)
{
    u64 flags = ticket_lock_irq(&hostpci_lock);
    cpu_out32(0xcf8, 1u << 31 | bdf << 8 | (reg & 0xfc));
    u32 v = cpu_in32(0xcfc);
    ticket_unlock_irq(&hostpci_lock, flags);
    return v;
}

void hostpci_write(u32 bdf, unsigned reg, u32 v)
{
    u64 flags = ticket_lock_irq(&hostpci_lock);
    cpu_out32(0xcf8, 1u << 31 | bdf << 8 | (reg & 0xfc));
    cpu_out32(0xcfc, v);
    ticket_unlock_irq(&hostpci_lock, flags);
}

u8 hostpci_read8(u32 bdf, unsigned reg) { return hostpci_read(bdf, reg) >> 8 * (reg & 3); }

u32 hostpci_next(u32 bdf)
{
    for (bdf++; bdf < FUNCTIONS; bdf++) {
        bool there = (hostpci_read(bdf, HOSTPCI_ID) & 0xffff) != 0xffff;
        if (!there && !(bdf & 7)) bdf |= 7;                                            // no function 0: no device
        if (!there) continue;
        if (!(bdf & 7) || hostpci_read8(bdf & ~7u, HEADER_TYPE) & 0x80) return bdf;       // one function only: others may be its echoes
    }
    return HOSTPCI_NONE;
}

void hostpci_enable(u32 bdf)
{
    unsigned power = hostpci_cap(bdf, HOSTPCI_CAP_POWER, 0);
    if (power && hostpci_read(bdf, power + PMCSR) & PMCSR_STATE) {
        hostpci_write(bdf, power + PMCSR, hostpci_read(bdf, power + PMCSR) & ~PMCSR_STATE & 0xffff);
        hwtimer_wait_ns(WAKE_NS);  // PCI Power Management 1.2, table 5-6
    }
    hostpci_write(bdf, HOSTPCI_COMMAND, (hostpci_read(bdf, HOSTPCI_COMMAND) & 0xffff) | CMD_ON);
}

u64 hostpci_bar(u32 bdf, unsigned n)
{
    if (n > 5) return 0;
    u32 lo = hostpci_read(bdf, HOSTPCI_BAR0 + 4 * n);
    if (lo & 1) return 0;
    return (lo & ~15u) | ((lo & 6) == 4 && n < 5 ? (u64)hostpci_read(bdf, HOSTPCI_BAR0 + 4 * n + 4) << 32 : 0);
}

volatile u8 *hostpci_bar_map(u32 bdf, unsigned n, u64 offset, u64 length)
{
    u64 a = hostpci_bar(bdf, n);
    return a && length ? vmem_map_phys(a + offset, length, VMEM_WRITE | VMEM_UC) : NULL;
}

// A list that runs in circles ends.
unsigned hostpci_cap(u32 bdf, u8 id, unsigned after)
{
    unsigned at = hostpci_read8(bdf, after ? after + 1 : CAP_PTR) & 0xfc;
    for (unsigned steps = 0; at && steps < 64; at = hostpci_read8(bdf, at + 1) & 0xfc, steps++)
        if (hostpci_read8(bdf, at) == id) return at;
    return 0;
}
