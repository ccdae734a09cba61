// Calibration of the TSC and of the APIC timer against every clock the machine has.
//
// CPUID says the exact rate on newer processors (leaf 0x15: crystal and ratio; 0x16: base frequency, rounded to MHz; SDM 3A
// 19.7.3). The ACPI PM timer (3.579545 MHz) and the HPET (its period is in its first register) are measured, best of three: a
// System Management Interrupt during a run only ever makes the interval look longer on one side, so the runs are compared and the
// median is taken. What CPUID says is believed if it agrees with a measurement within 0.5 %, or if there is none; disagreement
// between measurements is told.
#include "kernel/calibrate.h"

#include "kernel/acpi.h"
#include "kernel/base/log.h"
#include "kernel/cpu.h"
#include "kernel/lapic.h"
#include "kernel/vmem.h"

enum { PM_HZ = 3579545, RUNS = 3, RUN_MS = 10 };

// A reference clock: a counter of `bits` bits at `hz`.
struct reference {
    const char *name;
    u64 (*read)(const struct reference *r);
    u64 hz, mask;
    u16 port;
    volatile u8 *regs;
};

static u64 reference_read_pm_port(const struct reference *r) { return cpu_in32(r->port); }
static u64 reference_read_mmio(const struct reference *r) { return *(volatile u32 *)r->regs; }

static bool reference_pm(struct reference *r)
{
    const struct acpi_info *a = acpi_info();
    if (!a->pm_timer.address || a->pm_timer.space > 1) return false;
    *r = (struct reference){.name = "PM timer", .read = reference_read_pm_port, .hz = PM_HZ, .mask = a->pm_timer_32 ? 0xffffffff : 0xffffff,
                            .port = (u16)a->pm_timer.address};
    if (a->pm_timer.space == 0) {
        r->read = reference_read_mmio;
        r->regs = vmem_map_phys(a->pm_timer.address, 4, VMEM_UC);
        if (!r->regs) return false;
    }
    return true;
}

static bool reference_hpet(struct reference *r)
{
    u64 phys = acpi_info()->hpet_phys;
    volatile u8 *regs = phys ? vmem_map_phys(phys, 0x400, VMEM_WRITE | VMEM_UC) : NULL;
    if (!regs) return false;
    u32 period_fs = *(volatile u32 *)(regs + 4);
    if (period_fs == 0 || period_fs > 100000000) return false;   // 10 MHz at least, HPET 1.0a 2.3.4
    *(volatile u32 *)(regs + 0x10) |= 1;                         // counting on
    *r = (struct reference){.name = "HPET", .read = reference_read_mmio, .hz = 1000000000000000ull / period_fs,
                            .mask = 0xffffffff, .regs = regs + 0xf0};
    return true;
}

// One run: TSC and APIC ticks while the reference counts RUN_MS. False: the reference stands still.
static bool calibrate_run(const struct reference *r, struct calibration *out)
{
    u64 want = r->hz * RUN_MS / 1000, ticks, spins = 0;
    lapic_timer_start(UINT32_MAX, true);
    u64 r0 = r->read(r), t0 = cpu_rdtsc();
    u32 l0 = lapic_timer_count();
    while ((ticks = (r->read(r) - r0) & r->mask) < want)
        if (ticks == 0 && ++spins > 1000000) return false;
    u64 t1 = cpu_rdtsc();
    u32 l1 = lapic_timer_count();
    lapic_timer_start(0, true);
    out->tsc_hz = muldiv64(t1 - t0, r->hz, ticks);
    out->lapic_hz = muldiv64(l0 - l1, r->hz, ticks);
    return true;
}

static u64 median3(u64 a, u64 b, u64 c) { return max_u64(min_u64(a, b), min_u64(max_u64(a, b), c)); }

static bool calibrate_against(const struct reference *r, struct calibration *out)
{
    struct calibration run[RUNS];
    for (unsigned i = 0; i < RUNS; i++) {
        if (calibrate_run(r, &run[i])) continue;
        log_warn("the %s does not count; it is not used", r->name);
        return false;
    }
    out->tsc_hz = median3(run[0].tsc_hz, run[1].tsc_hz, run[2].tsc_hz);
    out->lapic_hz = median3(run[0].lapic_hz, run[1].lapic_hz, run[2].lapic_hz);
    log_info("TSC %llu kHz, APIC timer %llu kHz by the %s",
             (unsigned long long)out->tsc_hz / 1000, (unsigned long long)out->lapic_hz / 1000, r->name);
    return true;
}

static bool agree(u64 a, u64 b) { return (a > b ? a - b : b - a) <= max_u64(a, b) / 200; }

// What CPUID says: the crystal times the ratio, or the base frequency. 0: nothing.
static u64 calibrate_cpuid(void)
{
    struct cpuid c15 = cpu_cpuid_if(0x15, 0), c16 = cpu_cpuid_if(0x16, 0);
    if (c15.a && c15.b && c15.c) return muldiv64(c15.c, c15.b, c15.a);
    return (c16.a & 0xffff) * 1000000ull;
}

bool calibrate(struct calibration *out)
{
    struct reference r;
    struct calibration pm = {0, 0}, hpet = {0, 0};
    bool has_hpet = reference_hpet(&r) && calibrate_against(&r, &hpet);
    bool has_pm = reference_pm(&r) && calibrate_against(&r, &pm);
    u64 cpuid = calibrate_cpuid();
    *out = has_hpet ? hpet : pm;
    if (has_hpet && has_pm && !agree(hpet.tsc_hz, pm.tsc_hz)) {
        log_warn("HPET and PM timer disagree about the TSC by more than 0.5 %%");
        if (cpuid && agree(cpuid, pm.tsc_hz)) *out = pm;
    }
    if (cpuid && (!(has_hpet || has_pm) || agree(cpuid, out->tsc_hz))) out->tsc_hz = cpuid;
    else if (cpuid) log_warn("CPUID says TSC %llu kHz, which no clock confirms; the measurement is used", (unsigned long long)cpuid / 1000);
    if (!(has_hpet || has_pm) && cpuid) {
        // The APIC timer is then measured against the TSC itself.
        lapic_timer_start(UINT32_MAX, true);
        u64 t0 = cpu_rdtsc(), t1;
        u32 l0 = lapic_timer_count();
        while ((t1 = cpu_rdtsc()) - t0 < cpuid / 100) cpu_pause();
        out->lapic_hz = muldiv64(l0 - lapic_timer_count(), cpuid, t1 - t0);
        lapic_timer_start(0, true);
    }
    return out->tsc_hz != 0;
}
