// The real-time clock and CMOS memory: Motorola MC146818A data sheet, with the century byte at 0x32 and the bytes in which QEMU's machines
// tell SeaBIOS the memory size.
//
// The time is not counted either: it is wall time (CLOCK_HOST_, or the virtual clock: rtc_set_time) plus an offset, spread into the ten
// registers when somebody reads them. Setting the clock changes the offset. While SET (register B bit 7) or the divider reset (register A
// bits 6:4 = 11x) stops the update cycle, the registers are plain memory, and leaving that state makes the offset from them. The divider
// chain goes on under SET and starts at half a second when its reset ends, as in the chip: "the first update follows 500 ms later".
//
// The flags of register C appear whether their interrupt is enabled or not, so rtc_catch_up() derives them from the seconds (and
// periods) that went by since it ran last, before anything looks or changes. Timers are armed only for interrupts that are enabled and
// whose flag is clear: with the flag set the line is up, and nothing happens until register C is read.
//
// The periodic interrupt follows the virtual clock, so that a paused guest gets no burst; the calendar follows the wall.
#include "devices/clock.h"
#include "devices/devices.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { R_SEC, R_SEC_ALARM, R_MIN, R_MIN_ALARM, R_HOUR, R_HOUR_ALARM, R_WDAY, R_DAY, R_MONTH, R_YEAR, R_A, R_B, R_C, R_D, R_CENTURY = 0x32 };
enum { A_UIP = 0x80, B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_SQWE = 8, B_BINARY = 4, B_24H = 2 };
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10, D_VALID = 0x80 };

#define UIP_NS 244000            // UIP rises this long before the update
#define CRYSTAL_HZ 32768ull
#define HOLE_START (3 * GIB)     // where RAM below 4 GiB ends, unless rtc_set_memory says otherwise
static const s64 SEC = (s64)NS_PER_SEC;
static const s64 DAY = 86400;

struct rtc {                     // BQL
    struct irq irq;
    bool irq_enabled, line;
    u8 index;                    // port 0x70, bits 6:0
    bool nmi_masked;
    u8 ram[128];                 // registers and CMOS
    enum clock_type clock;       // CLOCK_HOST_ or CLOCK_VIRTUAL_
    s64 offset_sec;              // the guest's seconds less the clock's seconds ...
    s64 phase_ns;                // ... of its time plus phase. Apart, because a guest may set the year 9999
    u8 wday_shift;               // the weekday register counts on its own: its difference from the calendar's
    s64 last_sec;                // seconds and periods that C's flags know of
    u64 last_period;
    struct timer seconds;        // on `clock`: update or alarm
    struct timer periodic;       // CLOCK_VIRTUAL_
};

struct moment { s64 year; unsigned month, day, wday, hour, min, sec; };

// ---- calendar ----
static s64 floor_div(s64 a, s64 b) { return a / b - (a % b < 0); }

// Days since 1970-01-01 of a date in the Gregorian calendar; months and days out of range count on. Years start in March here, so that
// the leap day is the last one.
static s64 days_of(s64 year, s64 month, s64 day)
{
    s64 y = month <= 2 ? year - 1 : year, m = (month + 9) % 12;
    return 365 * y + floor_div(y, 4) - floor_div(y, 100) + floor_div(y, 400) + (153 * m + 2) / 5 + day - 1 - 719468;
}

static struct moment moment_of(s64 sec)
{
    s64 days = floor_div(sec, DAY), rest = sec - days * DAY;
    s64 year = 1970 + floor_div(days, 366), month = 12;
    while (days_of(year + 1, 1, 1) <= days) year++;
    while (days_of(year, month, 1) > days) month--;
    return (struct moment){.year = year, .month = (unsigned)month, .day = (unsigned)(days - days_of(year, month, 1) + 1),
                           .wday = (unsigned)(((days + 4) % 7 + 7) % 7), .hour = (unsigned)(rest / 3600),
                           .min = (unsigned)(rest / 60 % 60), .sec = (unsigned)(rest % 60)};
}

// ---- register formats ----
static u8 rtc_encode(const struct rtc *s, unsigned v) { return s->ram[R_B] & B_BINARY ? (u8)v : (u8)(v / 10 % 10 << 4 | v % 10); }
static unsigned rtc_decode(const struct rtc *s, u8 v) { return s->ram[R_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 15); }

static u8 rtc_encode_hour(const struct rtc *s, unsigned h)
{
    if (s->ram[R_B] & B_24H) return rtc_encode(s, h);
    return rtc_encode(s, h % 12 ? h % 12 : 12) | (h >= 12 ? 0x80 : 0);
}

static unsigned rtc_decode_hour(const struct rtc *s, u8 v)
{
    if (s->ram[R_B] & B_24H) return rtc_decode(s, v);
    return rtc_decode(s, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

// ---- time ----
static bool divider_reset(u8 a) { return (a & 0x60) == 0x60; }
static bool rtc_runs(const struct rtc *s) { return !(s->ram[R_B] & B_SET) && !divider_reset(s->ram[R_A]); }
static s64 rtc_chain_ns(const struct rtc *s) { return (s64)clock_ns(s->clock) + s->phase_ns; }
static s64 rtc_sec(const struct rtc *s) { return floor_div(rtc_chain_ns(s), SEC) + s->offset_sec; }
static s64 rtc_fraction_ns(const struct rtc *s)
{
    s64 ns = rtc_chain_ns(s);
    return ns - floor_div(ns, SEC) * SEC;
}

static void rtc_fill(struct rtc *s)
{
    struct moment m = moment_of(rtc_sec(s));
    s->ram[R_SEC] = rtc_encode(s, m.sec);
    s->ram[R_MIN] = rtc_encode(s, m.min);
    s->ram[R_HOUR] = rtc_encode_hour(s, m.hour);
    s->ram[R_WDAY] = rtc_encode(s, (m.wday + s->wday_shift) % 7 + 1);
    s->ram[R_DAY] = rtc_encode(s, m.day);
    s->ram[R_MONTH] = rtc_encode(s, m.month);
    s->ram[R_YEAR] = rtc_encode(s, (unsigned)(m.year % 100));
    s->ram[R_CENTURY] = rtc_encode(s, (unsigned)(m.year / 100));
}

// The other direction. The fraction of a second is the divider chain's and stays.
static void rtc_take(struct rtc *s)
{
    s64 year = rtc_decode(s, s->ram[R_CENTURY]) * 100 + rtc_decode(s, s->ram[R_YEAR]);
    s64 days = days_of(year, max_u64(rtc_decode(s, s->ram[R_MONTH]), 1), rtc_decode(s, s->ram[R_DAY]));
    s64 sec = days * DAY + rtc_decode_hour(s, s->ram[R_HOUR]) * 3600 + rtc_decode(s, s->ram[R_MIN]) * 60 + rtc_decode(s, s->ram[R_SEC]);
    s->offset_sec += sec - rtc_sec(s);
    s->wday_shift = (u8)((rtc_decode(s, s->ram[R_WDAY]) + 6 + 7 - moment_of(sec).wday) % 7);
    s->last_sec = sec;
}

// ---- flags ----
static bool alarm_field(const struct rtc *s, unsigned reg, u8 now) { return s->ram[reg] >= 0xc0 || s->ram[reg] == now; }

// The first second after `sec` at which the alarm matches; INT64_MAX if no time of day does.
static s64 rtc_next_alarm(const struct rtc *s, s64 sec)
{
    s64 t = sec + 1, end = sec + DAY;
    while (t <= end) {
        s64 day = t - floor_div(t, DAY) * DAY;
        if (!alarm_field(s, R_HOUR_ALARM, rtc_encode_hour(s, (unsigned)(day / 3600)))) t += 3600 - day % 3600;
        else if (!alarm_field(s, R_MIN_ALARM, rtc_encode(s, (unsigned)(day / 60 % 60)))) t += 60 - day % 60;
        else if (!alarm_field(s, R_SEC_ALARM, rtc_encode(s, (unsigned)(day % 60)))) t++;
        else return t;
    }
    return INT64_MAX;
}

// Crystal ticks of the periodic rate (data sheet table 5); 0: none.
static u64 rtc_period(const struct rtc *s)
{
    unsigned rate = s->ram[R_A] & 15;
    if (!rate || divider_reset(s->ram[R_A])) return 0;
    return rate < 3 ? 64u << rate : 1u << (rate - 1);
}
static u64 crystal_ticks(void) { return muldiv64(clock_ns(CLOCK_VIRTUAL_), CRYSTAL_HZ, NS_PER_SEC); }

static void rtc_catch_up(struct rtc *s)
{
    s64 sec = rtc_sec(s);
    if (rtc_runs(s) && sec > s->last_sec) {
        s->ram[R_C] |= C_UF;
        if (rtc_next_alarm(s, s->last_sec) <= sec) s->ram[R_C] |= C_AF;
    }
    s->last_sec = sec;
    u64 period = rtc_period(s);
    if (!period) return;
    u64 n = crystal_ticks() / period;
    if (n != s->last_period) s->ram[R_C] |= C_PF;
    s->last_period = n;
}

// Line and timers follow from flags and enables.
static void rtc_arm(struct rtc *s)
{
    u8 enabled = s->ram[R_B] & (B_PIE | B_AIE | B_UIE), open = enabled & (u8)~s->ram[R_C];
    u64 period = rtc_period(s);
    s64 at = INT64_MAX;
    if (open & B_UIE) at = s->last_sec + 1;
    else if (open & B_AIE) at = rtc_next_alarm(s, s->last_sec);
    if (at == INT64_MAX || !rtc_runs(s)) timer_del(&s->seconds);
    else timer_mod_ns(&s->seconds, (u64)((at - s->offset_sec) * SEC - s->phase_ns));
    if (!period || !(open & B_PIE)) timer_del(&s->periodic);
    else timer_mod_ns(&s->periodic, (u64)(((u128)(s->last_period + 1) * period * NS_PER_SEC + CRYSTAL_HZ - 1) / CRYSTAL_HZ));
}

static void rtc_update(struct rtc *s)
{
    bool irqf = s->ram[R_C] & s->ram[R_B] & (B_PIE | B_AIE | B_UIE), line = irqf && s->irq_enabled;
    s->ram[R_C] = (s->ram[R_C] & 0x70) | (irqf ? C_IRQF : 0);
    if (line != s->line) irq_set(&s->irq, line);
    s->line = line;
    rtc_arm(s);
}

static void rtc_expired(void *opaque)
{
    rtc_catch_up(opaque);
    rtc_update(opaque);
}

void rtc_set_irq8_enabled(struct rtc *s, bool on)
{
    DEVICE_LOCKED();
    s->irq_enabled = on;
    rtc_update(s);
}

// ---- registers ----
static bool is_time(unsigned r) { return (r <= R_YEAR && r != R_SEC_ALARM && r != R_MIN_ALARM && r != R_HOUR_ALARM) || r == R_CENTURY; }

static u8 rtc_read_reg(struct rtc *s, unsigned r)
{
    rtc_catch_up(s);
    if (is_time(r) && rtc_runs(s)) rtc_fill(s);
    u8 val = s->ram[r];
    if (r == R_A && rtc_runs(s) && rtc_fraction_ns(s) >= SEC - UIP_NS) val |= A_UIP;
    if (r == R_C) {
        rtc_update(s);          // IRQF
        val = s->ram[R_C];
        s->ram[R_C] = 0;
        rtc_update(s);
    }
    return val;
}

// A and B: stopping keeps the time in the registers, starting takes it from them.
static void rtc_write_control(struct rtc *s, unsigned r, u8 val)
{
    bool ran = rtc_runs(s), reset = divider_reset(s->ram[R_A]);
    if (ran) rtc_fill(s);
    u64 old_period = rtc_period(s);
    if (r == R_A) s->ram[R_A] = val & 0x7f;
    else s->ram[R_B] = val & B_SET ? val & (u8)~B_UIE : val;   // SET clears UIE
    if (reset && !divider_reset(s->ram[R_A])) s->phase_ns += SEC / 2 - rtc_fraction_ns(s);
    if (!ran && rtc_runs(s)) rtc_take(s);
    u64 period = rtc_period(s);
    if (period != old_period && period) s->last_period = crystal_ticks() / period;
}

static void rtc_write_reg(struct rtc *s, unsigned r, u8 val)
{
    rtc_catch_up(s);
    if (r == R_C || r == R_D) return;
    if (r == R_A || r == R_B) {
        rtc_write_control(s, r, val);
    } else if (is_time(r) && rtc_runs(s)) {
        rtc_fill(s);
        s->ram[r] = val;
        rtc_take(s);
    } else {
        s->ram[r] = val;
    }
    rtc_update(s);
}

static u64 rtc_read(void *opaque, u64 addr, unsigned size)
{
    struct rtc *s = opaque;
    return addr == 0 ? 0xff : rtc_read_reg(s, s->index);   // the index port is write-only
}

static void rtc_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct rtc *s = opaque;
    if (addr == 1) {
        rtc_write_reg(s, s->index, (u8)val);
        return;
    }
    s->index = val & 0x7f;
    s->nmi_masked = val & 0x80;
}

static const struct io_ops rtc_io = {.read = rtc_read, .write = rtc_write, .max_size = 1};

bool rtc_nmi_masked(const struct rtc *s) { return s->nmi_masked; }

// ---- CMOS ----
void rtc_set_cmos(struct rtc *s, u8 index, u8 val)
{
    ASSERT(index > R_D && index < 128, "CMOS byte %#x", index);
    s->ram[index] = val;
}

static void cmos_set16(struct rtc *s, u8 index, u64 val)
{
    rtc_set_cmos(s, index, (u8)val);
    rtc_set_cmos(s, index + 1, (u8)(val >> 8));
}

// 0x15: base memory in KiB; 0x17 and 0x30: above 1 MiB in KiB; 0x34: above 16 MiB in 64 KiB; 0x5b: above 4 GiB in 64 KiB (24 bits).
void rtc_set_memory(struct rtc *s, u64 below_4g, u64 above_4g)
{
    u64 ext = below_4g > MIB ? min_u64((below_4g - MIB) / KIB, 65535) : 0;
    cmos_set16(s, 0x15, 640);
    cmos_set16(s, 0x17, ext);
    cmos_set16(s, 0x30, ext);
    cmos_set16(s, 0x34, below_4g > 16 * MIB ? min_u64((below_4g - 16 * MIB) / (64 * KIB), 65535) : 0);
    cmos_set16(s, 0x5b, above_4g / (64 * KIB));
    rtc_set_cmos(s, 0x5d, (u8)(above_4g / (64 * KIB) >> 16));
}

// RESET# clears the interrupt enables and flags; time, alarm and CMOS have a battery.
void rtc_reset(struct rtc *s)
{
    DEVICE_LOCKED();
    rtc_catch_up(s);
    s->ram[R_B] &= (u8)~(B_PIE | B_AIE | B_UIE | B_SQWE);
    s->ram[R_C] = 0;
    s->index = 0;
    s->nmi_masked = false;
    s->irq_enabled = true;
    rtc_update(s);
}

void rtc_set_time(struct rtc *s, bool virtual_clock, s64 sec, u32 ns)
{
    ASSERT(bql_held() && ns < NS_PER_SEC, "RTC set without the BQL, or to %u ns", ns);
    timer_del(&s->seconds);
    s->clock = virtual_clock ? CLOCK_VIRTUAL_ : CLOCK_HOST_;
    timer_init(&s->seconds, s->clock, rtc_expired, s);
    s->phase_ns += ns - rtc_fraction_ns(s);
    s->offset_sec += sec - rtc_sec(s);
    s->last_sec = sec;
    rtc_update(s);
}

struct rtc *rtc_new(struct phys *p, struct irq irq8, u64 ram_size)
{
    struct rtc *s = plat_pages_alloc(sizeof *s);
    u64 low = min_u64(ram_size, HOLE_START);
    ASSERT(s, "no memory for the RTC");
    s->irq = irq8;
    s->irq_enabled = true;
    s->ram[R_A] = 0x26;          // 32768 Hz, 1024 Hz periodic: as firmware leaves it
    s->ram[R_B] = B_24H;
    s->ram[R_D] = D_VALID;
    s->ram[0x14] = 0x06;         // equipment: coprocessor, pointing device
    s->clock = CLOCK_HOST_;
    timer_init(&s->seconds, s->clock, rtc_expired, s);
    timer_init(&s->periodic, CLOCK_VIRTUAL_, rtc_expired, s);
    s->last_sec = rtc_sec(s);
    s->last_period = crystal_ticks() / rtc_period(s);
    rtc_set_memory(s, low, ram_size - low);
    phys_add_ports(p, 0x70, 2, &rtc_io, s, "rtc");
    return s;
}
