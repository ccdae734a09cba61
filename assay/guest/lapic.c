// The local APIC (SDM 3A 11): its registers as memory or as MSRs, as IA32_APIC_BASE says; the one-shot timer; interrupts to processors.
//
// Where there is no TSC-deadline mode the timer counts by a clock of its own. It is measured against the TSC once per processor, both
// read close together at both ends of some milliseconds: an error of a fraction of a microsecond over them, which over a wait of 0.1 ms
// is a few nanoseconds.
#include "assay/guest/guest.h"

enum {
    MSR_APIC_BASE = 0x1b, BASE_X2APIC = 1 << 10, BASE_ENABLED = 1 << 11, MSR_X2APIC = 0x800, MSR_X2APIC_ICR = 0x830,
    MSR_TSC_DEADLINE = 0x6e0,
    REG_ID = 0x20, REG_EOI = 0xb0, REG_ICR = 0x300, REG_ICR_HIGH = 0x310,
    ICR_PENDING = 1 << 12, LVT_MASKED = 1 << 16, LVT_DEADLINE = 1 << 18, DIVIDE_BY_1 = 0xb, SVR_ENABLED = 0x100,
    CALIBRATION = 10 << 20,     // TSC ticks: 2 to 5 ms
    RATIO_SHIFT = 20,
};

static bool x2apic_wanted;

void lapic_want_x2apic(void) { x2apic_wanted = true; }

u32 lapic_read(const struct cpu *c, u32 reg)
{
    return c->x2apic ? (u32)rdmsr(MSR_X2APIC + (reg >> 4)) : *(volatile u32 *)(u64)(LAPIC_VIRT + reg);
}

void lapic_write(const struct cpu *c, u32 reg, u32 v)
{
    if (c->x2apic) wrmsr(MSR_X2APIC + (reg >> 4), v);
    else *(volatile u32 *)(u64)(LAPIC_VIRT + reg) = v;
}

void lapic_eoi(const struct cpu *c)
{
    if (c->has_apic) lapic_write(c, REG_EOI, 0);
}

void lapic_init(struct cpu *c)
{
    u32 r[4];
    cpuid(1, 0, r);
    u64 base = r[3] >> 9 & 1 ? rdmsr(MSR_APIC_BASE) : 0;
    if (x2apic_wanted) {
        if (!(r[2] >> 21 & 1)) pass_fail("x2APIC mode is wanted, and the processor has none");
        wrmsr(MSR_APIC_BASE, base |= BASE_ENABLED | BASE_X2APIC);
    }
    c->x2apic = (base & BASE_X2APIC) != 0;
    c->has_apic = (base & BASE_ENABLED) && (c->x2apic || pass()->mmio_lapic);
    __asm__ volatile("mov %0, %%cr8" : : "r"((u64)0xe) : "memory");
    if (!c->has_apic) return;
    c->apic_id = c->x2apic ? lapic_read(c, REG_ID) : lapic_read(c, REG_ID) >> 24;
    c->timer_deadline = r[2] >> 24 & 1;
    c->timer_ratio = 0;
    lapic_write(c, LAPIC_SVR, SVR_ENABLED | VEC_SPURIOUS);
    lapic_timer_off(c);
}

// Masked and disarmed, in both modes of the timer.
void lapic_timer_off(const struct cpu *c)
{
    if (!c->has_apic) return;
    if (c->timer_deadline) wrmsr(MSR_TSC_DEADLINE, 0);
    lapic_write(c, LAPIC_LVT_TIMER, LVT_MASKED | VEC_TIMER);
    lapic_write(c, LAPIC_TMICT, 0);
}

// The timer's count and the TSC at the same time: of some readings the one with the least time around it.
static u32 count_and_tsc(const struct cpu *c, u64 *tsc)
{
    u64 best = ~0ull;
    u32 count = 0;
    for (unsigned i = 0; i < 8; i++) {
        u64 a = rdtsc();
        u32 v = lapic_read(c, LAPIC_TMCCT);
        u64 b = rdtsc();
        if (b - a >= best) continue;
        best = b - a;
        count = v;
        *tsc = a + best / 2;
    }
    return count;
}

void lapic_timer_prepare(struct cpu *c)
{
    if (c->timer_deadline) {
        lapic_write(c, LAPIC_LVT_TIMER, LVT_DEADLINE | VEC_TIMER);
        __asm__ volatile("mfence" : : : "memory");   // the mode is there before the first deadline (SDM 3A 11.5.4.1)
        return;
    }
    if (!c->timer_ratio) {
        u64 t0, t1;
        lapic_write(c, LAPIC_LVT_TIMER, LVT_MASKED | VEC_TIMER);
        lapic_write(c, LAPIC_TDCR, DIVIDE_BY_1);
        lapic_write(c, LAPIC_TMICT, ~0u);
        u32 c0 = count_and_tsc(c, &t0);
        while (rdtsc() - t0 < CALIBRATION) relax();
        u32 c1 = count_and_tsc(c, &t1);
        if (c0 <= c1) pass_fail("the local APIC's timer does not count");
        c->timer_ratio = ((t1 - t0) << RATIO_SHIFT) / (c0 - c1);
    }
    lapic_write(c, LAPIC_TMICT, 0);
    lapic_write(c, LAPIC_LVT_TIMER, VEC_TIMER);
}

u64 lapic_timer_arm(struct cpu *c, u64 ticks)
{
    if (c->timer_deadline) {
        u64 due = rdtsc() + ticks;
        wrmsr(MSR_TSC_DEADLINE, due);
        return due;
    }
    u64 count = (ticks << RATIO_SHIFT) / c->timer_ratio + 1;
    u64 now = rdtsc();
    lapic_write(c, LAPIC_TMICT, (u32)count);
    return now + (count * c->timer_ratio >> RATIO_SHIFT);
}

void lapic_send(const struct cpu *c, u32 apic_id, u32 command)
{
    if (c->x2apic) {
        __asm__ volatile("mfence; lfence" : : : "memory");    // WRMSR to the ICR does not wait for earlier stores (SDM 3A 11.12.3)
        wrmsr(MSR_X2APIC_ICR, (u64)apic_id << 32 | command);
        return;
    }
    while (lapic_read(c, REG_ICR) & ICR_PENDING) relax();
    lapic_write(c, REG_ICR_HIGH, apic_id << 24);
    lapic_write(c, REG_ICR, command);
}
