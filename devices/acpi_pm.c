// ACPI fixed hardware (ACPI 6.4 chapter 4.8): PM1 event and control registers, the power management timer, and the reset register.
//
// There is no SMI handler to switch modes, so the machine is always in ACPI mode: SCI_EN reads as one. The SCI is a level: it is up
// while a status bit and its enable bit are both set. The timer is 3.579545 MHz of guest time, 32 bits wide; TMR_STS is set each
// time its top bit changes, for which a clock timer runs only while TMR_EN is set, because otherwise nobody can tell before they
// read the status.
#include "devices/acpi_pm.h"

#include "devices/clock.h"
#include "devices/devices.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { PM1_TMR = 1 << 0, PM1_GBL = 1 << 5, PM1_PWRBTN = 1 << 8, PM1_SLPBTN = 1 << 9, PM1_RTC = 1 << 10, PM1_WAK = 1 << 15 };
enum { STS_MASK = PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC | PM1_WAK, EN_MASK = STS_MASK & ~PM1_WAK };
enum { CNT_SCI_EN = 1, CNT_SLP_TYP_SHIFT = 10, CNT_SLP_EN = 1 << 13, CNT_MASK = 0x1c07 };
enum { RST_SYS = 2, RST_CPU = 4 };
#define PM_TMR_HZ 3579545ull

struct acpi_pm {
    struct vcpu *cpu;
    struct irq sci;
    struct timer overflow;
    u16 sts, en, cnt;
    u8 reset;
    u64 half_seen;              // number of half periods (2^31 ticks) accounted for in TMR_STS
};

static u64 ticks_now(void) { return muldiv64(clock_ns(CLOCK_VIRTUAL_), PM_TMR_HZ, NS_PER_SEC); }

// Sets TMR_STS if the top bit has changed since we last looked.
static void tmr_status_update(struct acpi_pm *s)
{
    u64 half = ticks_now() >> 31;
    if (half != s->half_seen) s->sts |= PM1_TMR;
    s->half_seen = half;
}

static void sci_update(struct acpi_pm *s)
{
    tmr_status_update(s);
    irq_set(&s->sci, s->sts & s->en);
    if ((s->en & PM1_TMR) && !(s->sts & PM1_TMR)) {
        u64 next = muldiv64((s->half_seen + 1) << 31, NS_PER_SEC, PM_TMR_HZ) + 1;   // + 1: not a tick early
        timer_mod_ns(&s->overflow, next);
    } else {
        timer_del(&s->overflow);
    }
}

static void overflow_fired(void *opaque) { sci_update(opaque); }

static void cnt_write(struct acpi_pm *s, u16 v)
{
    s->cnt = (v & CNT_MASK) | CNT_SCI_EN;
    if (!(v & CNT_SLP_EN)) return;
    unsigned type = bits_get(v, CNT_SLP_TYP_SHIFT, 3);
    if (type == ACPI_S5_TYPE) vcpu_request_shutdown(s->cpu, 0);
    else log_once(LOG_WARN, "ACPI: the guest asked for sleep type %u, which its tables do not offer; ignored", type);
}

static u16 word_read(struct acpi_pm *s, unsigned at)
{
    switch (at) {
    case ACPI_PM1_EVT: tmr_status_update(s); return s->sts;
    case ACPI_PM1_EVT + 2: return s->en;
    case ACPI_PM1_CNT: return s->cnt;
    case ACPI_PM_TMR: return ticks_now();
    case ACPI_PM_TMR + 2: return ticks_now() >> 16;
    default: return 0;
    }
}

static u64 pm_read(void *opaque, u64 addr, unsigned size)
{
    unsigned at = ACPI_PM1_EVT + addr;
    if (size == 4) return at == ACPI_PM_TMR ? (u32)ticks_now() : word_read(opaque, at) | (u32)word_read(opaque, at + 2) << 16;
    return bits_zext(word_read(opaque, at & ~1u) >> 8 * (at & 1), size);
}

// Byte lanes: `mask` has the bits that this access really writes.
static void word_write(struct acpi_pm *s, unsigned at, u16 v, u16 mask)
{
    if (at == ACPI_PM1_EVT) {
        tmr_status_update(s);
        s->sts &= ~(v & mask);                                   // write one to clear
    } else if (at == ACPI_PM1_EVT + 2) {
        s->en = ((s->en & ~mask) | (v & mask)) & EN_MASK;
    } else if (at == ACPI_PM1_CNT) {
        cnt_write(s, (s->cnt & ~mask) | (v & mask));
    }
    sci_update(s);
}

static void pm_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    unsigned at = ACPI_PM1_EVT + addr;
    if (size == 1) {
        unsigned sh = 8 * (at & 1);
        word_write(opaque, at & ~1u, val << sh, 0xff << sh);
        return;
    }
    word_write(opaque, at, val, 0xffff);
    if (size == 4) word_write(opaque, at + 2, val >> 16, 0xffff);
}

static u64 reset_read(void *opaque, u64 addr, unsigned size)
{
    struct acpi_pm *s = opaque;
    return s->reset;
}

// Intel ICH 0xcf9: RST_CPU going from 0 to 1 resets; SYS_RST chooses how hard, which is all one here.
static void reset_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct acpi_pm *s = opaque;
    if (val & RST_CPU) vcpu_request_reset(s->cpu);
    s->reset = val & RST_SYS;
}

void acpi_pm_power_button(struct acpi_pm *s)
{
    DEVICE_LOCKED();
    s->sts |= PM1_PWRBTN;
    sci_update(s);
}

void acpi_pm_reset(struct acpi_pm *s)
{
    DEVICE_LOCKED();
    s->sts = s->en = 0;
    s->cnt = CNT_SCI_EN;
    s->reset = 0;
    s->half_seen = ticks_now() >> 31;
    sci_update(s);
}

struct acpi_pm *acpi_pm_new(struct phys *p, struct vcpu *c, struct irq sci)
{
    static const struct io_ops pm = {.read = pm_read, .write = pm_write, .max_size = 4};
    static const struct io_ops rst = {.read = reset_read, .write = reset_write, .max_size = 1};
    struct acpi_pm *s = plat_pages_alloc(sizeof *s);
    if (!s) panic("no memory for the ACPI power management block");
    s->cpu = c;
    s->sci = sci;
    timer_init(&s->overflow, CLOCK_VIRTUAL_, overflow_fired, s);
    acpi_pm_reset(s);
    phys_add_ports(p, ACPI_PM1_EVT, ACPI_PM_LEN, &pm, s, "acpi-pm");
    phys_add_ports(p, ACPI_RESET_PORT, 1, &rst, s, "reset");
    return s;
}
