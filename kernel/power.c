// Power-off is ACPI S5 by the PM1 control registers (ACPI 6.5, 4.8.3.2 and 16.1.5), without running AML; reset tries what machines
// offer, most modern first, and ends with a triple fault, which no PC survives.
#include "kernel/power.h"

#include "kernel/acpi.h"
#include "kernel/base/log.h"
#include "kernel/console.h"
#include "kernel/cpu.h"
#include "kernel/vmem.h"

enum { PM1_SCI_EN = 1, PM1_SLP_EN = 1 << 13, PM1_SLP_SHIFT = 10 };

static volatile u8 *power_reset_reg;   // mapped beforehand: the end takes no locks; NULL: there is none

static void power_wait(u64 tsc_ticks)
{
    for (u64 t = cpu_rdtsc(); cpu_rdtsc() - t < tsc_ticks;) cpu_pause();
}

static u16 pm1_read(const struct acpi_gas *g) { return g->space == 1 ? cpu_in16((u16)g->address) : 0; }

static void pm1_sleep(const struct acpi_gas *g, u8 typ)
{
    if (!g->address || g->space != 1) return;
    u16 v = (u16)((pm1_read(g) & ~(7 << PM1_SLP_SHIFT | PM1_SLP_EN)) | typ << PM1_SLP_SHIFT);
    cpu_out16((u16)g->address, v);
    cpu_out16((u16)g->address, (u16)(v | PM1_SLP_EN));
}

void power_init(void)
{
    const struct acpi_info *a = acpi_info();
    if (a->has_reset && a->reset.space == 0) power_reset_reg = vmem_map_phys(a->reset.address, 1, VMEM_WRITE | VMEM_UC);
}

void power_off(void)
{
    const struct acpi_info *a = acpi_info();
    if (!a->has_s5 || !a->pm1a_cnt.address) {
        log_warn("the firmware does not say how to switch this machine off; do it by hand");
        return;
    }
    if (a->smi_cmd && a->acpi_enable && !(pm1_read(&a->pm1a_cnt) & PM1_SCI_EN)) {
        cpu_out8(a->smi_cmd, a->acpi_enable);
        for (unsigned i = 0; i < 1000 && !(pm1_read(&a->pm1a_cnt) & PM1_SCI_EN); i++) power_wait(1000000);
    }
    pm1_sleep(&a->pm1a_cnt, a->s5_typa);
    pm1_sleep(&a->pm1b_cnt, a->s5_typb);
    power_wait(2000000000);
    log_warn("this machine ignores the power-off request; switch it off by hand");
}

static void power_reset_acpi(const struct acpi_info *a)
{
    if (!a->has_reset) return;
    if (a->reset.space == 1) {
        cpu_out8((u16)a->reset.address, a->reset_value);
    } else if (a->reset.space == 0) {
        if (power_reset_reg) *power_reset_reg = a->reset_value;
    }
    power_wait(100000000);
}

void power_reset(void)
{
    console_panic_mode();
    power_reset_acpi(acpi_info());
    cpu_out8(0xcf9, 2);
    cpu_out8(0xcf9, 6);
    power_wait(100000000);
    cpu_out8(0x64, 0xfe);
    power_wait(100000000);
    struct { u16 limit; u64 base; } __attribute__((packed)) none = {0, 0};
    __asm__ volatile("lidt %0; int3" : : "m"(none));
    cpu_halt_forever();
}
