// Local APIC in both of its forms. In x2APIC mode register r (offset r << 4 in the xAPIC's page) is MSR 0x800 + r, SDM 3A 11.12.1;
// the interrupt command register is one 64-bit write there, two 32-bit writes here. Without interrupt remapping I/O APICs reach
// APIC ids below 255 only, which is enough: devices are routed to the boot core.
#include "kernel/lapic.h"

#include "kernel/acpi.h"
#include "kernel/base/log.h"
#include "kernel/cpu.h"
#include "kernel/traps.h"
#include "kernel/vmem.h"

enum {   // register numbers (offset >> 4)
    R_ID = 0x02, R_TPR = 0x08, R_EOI = 0x0b, R_SVR = 0x0f, R_ESR = 0x28, R_ICR = 0x30, R_ICR_HIGH = 0x31, R_LVT_TIMER = 0x32,
    R_LVT_PMC = 0x34, R_LVT_LINT0 = 0x35, R_LVT_LINT1 = 0x36, R_LVT_ERROR = 0x37,
    R_TIMER_INIT = 0x38, R_TIMER_NOW = 0x39, R_TIMER_DIV = 0x3e,
};
enum {
    LVT_MASKED = 1 << 16, LVT_TSC_DEADLINE = 2 << 17, LVT_NMI = 4 << 8, SVR_ENABLE = 1 << 8, ICR_BUSY = 1 << 12, ICR_ASSERT = 1 << 14, DIV_1 = 11,
};
#define APIC_BASE_X2 BIT(10)
#define APIC_BASE_EN BIT(11)

static struct { volatile u32 *page; bool x2; } lapic;

static u32 lapic_rd(unsigned r) { return lapic.x2 ? (u32)cpu_rdmsr(MSR_X2APIC + r) : lapic.page[r * 4]; }

static void lapic_wr(unsigned r, u32 v)
{
    if (lapic.x2) cpu_wrmsr(MSR_X2APIC + r, v);
    else lapic.page[r * 4] = v;
}

bool lapic_is_x2apic(void) { return lapic.x2; }
u32 lapic_id(void) { return lapic.x2 ? lapic_rd(R_ID) : lapic_rd(R_ID) >> 24; }
void lapic_eoi(void) { lapic_wr(R_EOI, 0); }

// Both 8259s remapped away from the exceptions, then wholly masked: a spurious IRQ 7 or 15 can still come.
static void lapic_silence_pic(void)
{
    static const struct { u16 port; u8 v; } seq[] = {
        {0x20, 0x11}, {0xa0, 0x11}, {0x21, 0x20}, {0xa1, 0x28}, {0x21, 4}, {0xa1, 2}, {0x21, 1}, {0xa1, 1}, {0x21, 0xff}, {0xa1, 0xff},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(seq); i++) cpu_out8(seq[i].port, seq[i].v);
}

void lapic_init(void)
{
    lapic_silence_pic();
    u64 base = cpu_rdmsr(MSR_APIC_BASE) | APIC_BASE_EN;
    lapic.x2 = cpu_cpuid(1, 0).c & BIT(21);
    if (!lapic.x2) {
        lapic.page = vmem_map_phys(base & 0x000ffffffffff000ull, PAGE_SIZE, VMEM_WRITE | VMEM_UC);
        ASSERT(lapic.page, "no memory to map the local APIC");
    }
    cpu_wrmsr(MSR_APIC_BASE, base);
    if (lapic.x2) cpu_wrmsr(MSR_APIC_BASE, base | APIC_BASE_X2);   // off -> x2APIC directly is not allowed, SDM 3A 11.12.5
    lapic_wr(R_SVR, SVR_ENABLE | VEC_SPURIOUS);
    lapic_wr(R_TPR, 0);
    lapic_wr(R_LVT_TIMER, LVT_MASKED | VEC_TIMER);
    lapic_wr(R_LVT_LINT0, LVT_MASKED);
    lapic_wr(R_LVT_LINT1, LVT_NMI);
    lapic_wr(R_LVT_ERROR, LVT_MASKED);
    lapic_wr(R_TIMER_DIV, DIV_1);
    lapic_eoi();
    log_info("local APIC: id %u, %s%s", lapic_id(), lapic.x2 ? "x2APIC" : "xAPIC", lapic_has_tsc_deadline() ? ", TSC deadline" : "");
}

void lapic_send(u32 dest, u8 vector)
{
    if (lapic.x2) {
        cpu_wrmsr(MSR_X2APIC + R_ICR, (u64)dest << 32 | ICR_ASSERT | vector);
        return;
    }
    u64 flags = cpu_irq_save();   // the two halves belong together
    while (lapic_rd(R_ICR) & ICR_BUSY) cpu_pause();
    lapic_wr(R_ICR_HIGH, dest << 24);
    lapic_wr(R_ICR, ICR_ASSERT | vector);
    cpu_irq_restore(flags);
}

u32 lapic_timer_count(void) { return lapic_rd(R_TIMER_NOW); }

void lapic_timer_start(u32 count, bool masked)
{
    lapic_wr(R_LVT_TIMER, VEC_TIMER | (masked ? LVT_MASKED : 0));
    lapic_wr(R_TIMER_INIT, count);
}

bool lapic_has_tsc_deadline(void) { return cpu_cpuid(1, 0).c & BIT(24); }

// The mode change must be visible before the first deadline: the LVT write is uncached memory, the deadline an MSR (SDM 3A 11.5.4.1).
void lapic_timer_deadline_mode(void)
{
    lapic_wr(R_LVT_TIMER, VEC_TIMER | LVT_TSC_DEADLINE);
    __asm__ volatile("mfence" : : : "memory");
}

void lapic_timer_deadline(u64 tsc) { cpu_wrmsr(MSR_TSC_DEADLINE, tsc); }
