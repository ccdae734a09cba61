// Local APIC in both of its forms. In x2APIC mode register r (offset r << 4 in the xAPIC's page) is MSR 0x800 + r, SDM 3A 11.12.1;
// the interrupt command register is one 64-bit write there, two 32-bit writes here. Without interrupt remapping I/O APICs reach
// APIC ids below 255 only, which is enough: devices are routed to the boot core.
//
// All cores' APICs are in the boot core's mode, and it takes x2APIC mode wherever the processor has it, so that one that the firmware
// left in that mode (there is no way back but a reset of the core) fits in. LINT0, the 8259's line, is masked everywhere; LINT1, the NMI
// button's, reaches the boot core only: one NMI is enough to say so.
#include "kernel/lapic.h"

#include "kernel/acpi.h"
#include "kernel/base/log.h"
#include "kernel/core.h"
#include "kernel/cpu.h"
#include "kernel/traps.h"
#include "kernel/vmem.h"

enum {   // register numbers (offset >> 4)
    R_ID = 0x02, R_TPR = 0x08, R_EOI = 0x0b, R_SVR = 0x0f, R_ESR = 0x28, R_ICR = 0x30, R_ICR_HIGH = 0x31, R_LVT_TIMER = 0x32,
    R_LVT_PMC = 0x34, R_LVT_LINT0 = 0x35, R_LVT_LINT1 = 0x36, R_LVT_ERROR = 0x37,
    R_TIMER_INIT = 0x38, R_TIMER_NOW = 0x39, R_TIMER_DIV = 0x3e,
};
enum {
    LVT_MASKED = 1 << 16, LVT_TSC_DEADLINE = 2 << 17, LVT_NMI = 4 << 8, SVR_ENABLE = 1 << 8, DIV_1 = 11,
    ICR_NMI = 4 << 8, ICR_INIT = 5 << 8, ICR_STARTUP = 6 << 8, ICR_BUSY = 1 << 12, ICR_ASSERT = 1 << 14,
};
#define APIC_BASE_BSP BIT(8)
#define APIC_BASE_X2 BIT(10)
#define APIC_BASE_EN BIT(11)

static struct { volatile u32 *page; u64 base; bool x2; } lapic;   // the page shows each core its own

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

// This core's APIC on, in the common mode.
static void lapic_setup(u32 lint1)
{
    u64 now = cpu_rdmsr(MSR_APIC_BASE);
    if (!(now & APIC_BASE_X2)) {   // neither x2APIC -> xAPIC nor off -> x2APIC is allowed, SDM 3A 11.12.5
        u64 base = lapic.base | (now & APIC_BASE_BSP) | APIC_BASE_EN;
        cpu_wrmsr(MSR_APIC_BASE, base);
        if (lapic.x2) cpu_wrmsr(MSR_APIC_BASE, base | APIC_BASE_X2);
    }
    lapic_wr(R_SVR, SVR_ENABLE | VEC_SPURIOUS);
    lapic_wr(R_TPR, 0);
    lapic_wr(R_LVT_TIMER, LVT_MASKED | VEC_TIMER);
    lapic_wr(R_LVT_LINT0, LVT_MASKED);
    lapic_wr(R_LVT_LINT1, lint1);
    lapic_wr(R_LVT_ERROR, LVT_MASKED);
    lapic_wr(R_TIMER_DIV, DIV_1);
    lapic_eoi();
}

void lapic_init(void)
{
    lapic_silence_pic();
    lapic.base = cpu_rdmsr(MSR_APIC_BASE) & 0x000ffffffffff000ull;
    lapic.x2 = cpu_cpuid(1, 0).c & BIT(21);
    if (!lapic.x2) {
        lapic.page = vmem_map_phys(lapic.base, PAGE_SIZE, VMEM_WRITE | VMEM_UC);
        ASSERT(lapic.page, "no memory to map the local APIC");
    }
    lapic_setup(LVT_NMI);
    core_self()->apic_id = lapic_id();   // CPUID gave 8 bits of it
    log_info("local APIC: id %u, %s%s", lapic_id(), lapic.x2 ? "x2APIC" : "xAPIC", lapic_has_tsc_deadline() ? ", TSC deadline" : "");
}

void lapic_init_other(void) { lapic_setup(LVT_MASKED); }

// What was stored before must be seen by whom the interrupt reaches: a store to the xAPIC's uncached page waits for earlier ones, WRMSR to
// an x2APIC does not (SDM 3A 11.12.3).
static void lapic_command(u32 dest, u32 what)
{
    if (lapic.x2) {
        __asm__ volatile("mfence; lfence" : : : "memory");
        cpu_wrmsr(MSR_X2APIC + R_ICR, (u64)dest << 32 | what);
        return;
    }
    u64 flags = cpu_irq_save();   // the two halves belong together
    while (lapic_rd(R_ICR) & ICR_BUSY) cpu_pause();
    lapic_wr(R_ICR_HIGH, dest << 24);
    lapic_wr(R_ICR, what);
    cpu_irq_restore(flags);
}

void lapic_send(u32 dest, u8 vector) { lapic_command(dest, ICR_ASSERT | vector); }
void lapic_send_nmi(u32 dest) { lapic_command(dest, ICR_ASSERT | ICR_NMI); }
void lapic_send_init(u32 dest) { lapic_command(dest, ICR_ASSERT | ICR_INIT); }
void lapic_send_startup(u32 dest, u8 page) { lapic_command(dest, ICR_ASSERT | ICR_STARTUP | page); }

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

// ---- lending the core ----

u64 lapic_phys(void) { return lapic.x2 ? 0 : lapic.base; }

void lapic_lend(struct lapic_lent *s)
{
    s->lvt_timer = lapic_rd(R_LVT_TIMER);
    s->divide = lapic_rd(R_TIMER_DIV);
    s->count = lapic_rd(R_TIMER_NOW);
    s->svr = lapic_rd(R_SVR);
    s->tpr = lapic_rd(R_TPR);
    s->deadline = s->lvt_timer & LVT_TSC_DEADLINE ? cpu_rdmsr(MSR_TSC_DEADLINE) : 0;
}

void lapic_take_back(const struct lapic_lent *s)
{
    lapic_wr(R_SVR, s->svr);
    lapic_wr(R_TIMER_INIT, 0);                  // no count of the other's may end in our vector
    lapic_wr(R_TIMER_DIV, s->divide);
    lapic_wr(R_LVT_TIMER, s->lvt_timer);
    __asm__ volatile("mfence" : : : "memory");  // as in lapic_timer_deadline_mode
    if (s->lvt_timer & LVT_TSC_DEADLINE) cpu_wrmsr(MSR_TSC_DEADLINE, s->deadline);
    else if (s->count) lapic_wr(R_TIMER_INIT, s->count);
    lapic_wr(R_TPR, s->tpr);
}
