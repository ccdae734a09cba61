// The high precision event timers: IA-PC HPET specification 1.0a. Three comparators, 64-bit main counter at 100 MHz.
//
// The counter is a function of the virtual clock: ns / 10 + offset while enabled, a constant while not. Guests read it all the time as
// their clock, so the region is dispatched without the BQL: counter reads are a seqlock, everything else takes the BQL here.
//
// A comparator matches when the counter equals it, modulo 2^32 or 2^64: a value that has just passed matches after a whole wrap, as in the
// chip. A periodic comparator then grows by the value that was written last. Matches that came late are delivered before any write
// changes what they meant (hpet_catch_up).
//
// Interrupt status bits exist for level-triggered timers only; edges are pulses. FSB delivery is not offered. Routes offered: 10 and 11,
// which no other chip of this machine uses, or, in legacy replacement mode, IRQ0 and IRQ8 for timers 0 and 1; PIT and RTC are silent then.
#include "devices/clock.h"
#include "devices/devices.h"
#include "devices/seqlock.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { TIMERS = 3, TICK_NS = 10 };
#define HPET_BASE 0xfed00000ull
#define ROUTES 0xc00u
#define MIN_PERIOD_NS 10000ull      // a guest must not drown its host in interrupts
#define FAR_NS (1ull << 62)

// Capabilities: period in fs 63:32, vendor 31:16, legacy route 15, 64-bit 13, last timer 12:8, revision 7:0. ACPI's HPET table repeats the
// low half.
#define CAPABILITIES ((u64)TICK_NS * 1000000 << 32 | 0x8086a001 | (TIMERS - 1) << 8)

enum { CFG_ENABLE = 1, CFG_LEGACY = 2 };
enum { TN_LEVEL = 1 << 1, TN_ENABLE = 1 << 2, TN_PERIODIC = 1 << 3, TN_PERIODIC_CAP = 1 << 4, TN_64_CAP = 1 << 5, TN_SET_VALUE = 1 << 6,
       TN_32 = 1 << 8, TN_ROUTE = 0x1f << 9 };
enum { TN_WRITABLE = TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_SET_VALUE | TN_32 | TN_ROUTE };

struct hpet_timer {
    struct hpet *hpet;
    unsigned n;
    u64 config, comparator;
    u64 period;                     // last value written
    bool set_high;                  // VAL_SET was used up by a write of the low half; the high half belongs to it
    const struct irq *asserted;     // the line that this timer holds, level-triggered
    struct timer timer;
};

struct hpet {
    struct seqlock seq;             // the counter; written under the BQL
    bool counting;
    u64 offset;                     // counting: counter = ticks of the clock + offset; else the counter itself
    // ---- BQL ----
    u64 config;
    u32 status, routes;
    struct hpet_timer tn[TIMERS];
    const struct irq *gsi;          // the caller's array
    struct irq legacy[2];
    struct pit *pit;
    struct rtc *rtc;
};

static u64 hpet_counter(struct hpet *h)
{
    u64 v;
    u32 s;
    do {
        s = seqlock_read_begin(&h->seq);
        v = SEQ_GET(h->offset) + (SEQ_GET(h->counting) ? clock_ns(CLOCK_VIRTUAL_) / TICK_NS : 0);
    } while (seqlock_read_retry(&h->seq, s));
    return v;
}

// BQL held.
static void hpet_set_counter(struct hpet *h, bool counting, u64 value)
{
    seqlock_write_begin(&h->seq);
    SEQ_SET(h->counting, counting);
    SEQ_SET(h->offset, value - (counting ? clock_ns(CLOCK_VIRTUAL_) / TICK_NS : 0));
    seqlock_write_end(&h->seq);
}

// The counter stops where it is, or goes on from there. BQL held.
static void hpet_count(struct hpet *h, bool on)
{
    seqlock_write_begin(&h->seq);
    u64 ticks = clock_ns(CLOCK_VIRTUAL_) / TICK_NS;
    if (on != h->counting) SEQ_SET(h->offset, on ? h->offset - ticks : h->offset + ticks);
    SEQ_SET(h->counting, on);
    seqlock_write_end(&h->seq);
}

static bool hpet_legacy(const struct hpet *h) { return (h->config & 3) == (CFG_ENABLE | CFG_LEGACY); }
static u64 tn_mask(const struct hpet_timer *t) { return t->config & TN_32 ? UINT32_MAX : UINT64_MAX; }
static bool tn_is_periodic(const struct hpet_timer *t) { return t->config & TN_PERIODIC && t->period & tn_mask(t); }

// Where the timer's interrupt goes; NULL nowhere.
static const struct irq *tn_line(const struct hpet_timer *t)
{
    const struct hpet *h = t->hpet;
    unsigned route = t->config >> 9 & 31;
    if (hpet_legacy(h) && t->n < 2) return &h->legacy[t->n];
    return h->routes & 1u << route ? &h->gsi[route] : NULL;
}

// Brings the level-triggered line in step with status and configuration.
static void tn_update_line(struct hpet_timer *t)
{
    const struct hpet *h = t->hpet;
    bool want = h->config & CFG_ENABLE && t->config & TN_LEVEL && t->config & TN_ENABLE && h->status & 1u << t->n;
    const struct irq *line = want ? tn_line(t) : NULL;
    if (line == t->asserted) return;
    if (t->asserted) irq_set(t->asserted, false);
    t->asserted = line;
    if (line) irq_set(line, true);
}

// Arms for the next match. `after`: the current counter value does not count as a match.
static void tn_arm(struct hpet_timer *t, bool after, u64 not_before_ns)
{
    struct hpet *h = t->hpet;
    u64 now = hpet_counter(h), delta = (t->comparator - now) & tn_mask(t);
    if (!h->counting || (!(t->config & TN_PERIODIC) && !(t->config & (TN_ENABLE | TN_LEVEL)))) {
        timer_del(&t->timer);
        return;
    }
    u128 ticks = delta || !after ? delta : (u128)tn_mask(t) + 1;
    u128 due = ((u128)(now - h->offset) + ticks) * TICK_NS;   // now - offset: the clock in ticks
    if (due > FAR_NS) timer_del(&t->timer);   // in a century: never
    else timer_mod_ns(&t->timer, max_u64((u64)due, not_before_ns));
}

static void tn_expired(void *opaque)
{
    struct hpet_timer *t = opaque;
    struct hpet *h = t->hpet;
    u64 mask = tn_mask(t), late = (hpet_counter(h) - t->comparator) & mask, period = t->period & mask;
    if (tn_is_periodic(t)) t->comparator = (t->comparator + (late / period + 1) * period) & mask;
    if (t->config & TN_LEVEL) {
        h->status |= 1u << t->n;
        tn_update_line(t);
    } else if (t->config & TN_ENABLE && tn_line(t)) {
        irq_pulse(tn_line(t));
    }
    tn_arm(t, true, clock_ns(CLOCK_VIRTUAL_) + MIN_PERIOD_NS);
}

static void hpet_catch_up(struct hpet *h)
{
    u64 now = clock_ns(CLOCK_VIRTUAL_);
    for (int i = 0; i < TIMERS; i++) {
        struct hpet_timer *t = &h->tn[i];
        if (!timer_armed(&t->timer) || t->timer.expire_ns > now) continue;
        timer_del(&t->timer);
        tn_expired(t);
    }
}

// ---- registers ----
static void hpet_write_config(struct hpet *h, u64 val)
{
    bool was_legacy = hpet_legacy(h), on = val & CFG_ENABLE;
    // Lines are let go before the route changes; tn_update_line takes the right ones again.
    u32 status = h->status;
    h->status = 0;
    for (int i = 0; i < TIMERS; i++) tn_update_line(&h->tn[i]);
    h->status = status;
    h->config = val & (CFG_ENABLE | CFG_LEGACY);
    hpet_count(h, on);
    if (hpet_legacy(h) != was_legacy) {
        if (h->pit) pit_set_irq0_enabled(h->pit, was_legacy);
        if (h->rtc) rtc_set_irq8_enabled(h->rtc, was_legacy);
    }
    for (int i = 0; i < TIMERS; i++) {
        tn_update_line(&h->tn[i]);
        tn_arm(&h->tn[i], false, 0);
    }
}

static void hpet_write_counter(struct hpet *h, u64 val)
{
    hpet_set_counter(h, h->counting, val);   // the specification wants it halted; a running one goes on from here
    for (int i = 0; i < TIMERS; i++) tn_arm(&h->tn[i], false, 0);
}

static void tn_write_config(struct hpet_timer *t, u64 val)
{
    u64 old = t->config;
    t->config = (old & ~(u64)TN_WRITABLE) | (val & TN_WRITABLE);
    // A route that is not offered: reads back as before.
    if (!(t->hpet->routes >> (t->config >> 9 & 31) & 1)) t->config = (t->config & ~(u64)TN_ROUTE) | (old & TN_ROUTE);
    if (!(val & TN_PERIODIC)) t->config &= ~(u64)TN_SET_VALUE;
    if (!(val & TN_LEVEL)) t->hpet->status &= ~(1u << t->n);
    if (val & TN_32) t->comparator = (u32)t->comparator;
    if ((old ^ t->config) & (TN_PERIODIC | TN_SET_VALUE)) t->set_high = false;
    tn_update_line(t);
    tn_arm(t, false, 0);
}

// `half`: 0 both, 1 low, 2 high. Every write is the new period; a periodic comparator itself takes it only with VAL_SET.
static void tn_write_comparator(struct hpet_timer *t, u64 val, unsigned half)
{
    bool set = !(t->config & TN_PERIODIC) || t->config & TN_SET_VALUE;
    u64 keep = half == 1 ? ~(u64)UINT32_MAX : half == 2 ? UINT32_MAX : 0;
    if (half == 2 && t->set_high) set = true;
    t->set_high = half == 1 && t->config & TN_SET_VALUE;
    t->config &= ~(u64)TN_SET_VALUE;
    t->period = ((t->period & keep) | (val & ~keep)) & tn_mask(t);
    if (set) t->comparator = ((t->comparator & keep) | (val & ~keep)) & tn_mask(t);
    tn_arm(t, false, 0);
}

static u64 hpet_reg_read(struct hpet *h, u64 reg)
{
    if (reg == 0x00) return CAPABILITIES;
    if (reg == 0x10) return h->config;
    if (reg == 0x20) return h->status;
    if (reg == 0xf0) return hpet_counter(h);
    if (reg < 0x100 || reg >= 0x100 + 0x20 * TIMERS) return 0;
    struct hpet_timer *t = &h->tn[(reg - 0x100) / 0x20];
    if ((reg & 0x18) == 0) return t->config;
    return (reg & 0x18) == 8 ? t->comparator : 0;
}

static void hpet_reg_write(struct hpet *h, u64 reg, u64 val, unsigned half)
{
    if (half) {   // all but comparators: the other half stays as it is
        u64 low = UINT32_MAX, old = reg == 0x20 ? 0 : hpet_reg_read(h, reg);
        val = half == 1 ? (val & low) : val << 32;
        if (reg < 0x100 || (reg & 0x18) != 8) val |= old & (half == 1 ? ~low : low);
    }
    if (reg == 0x10) hpet_write_config(h, val);
    if (reg == 0xf0) hpet_write_counter(h, val);
    if (reg == 0x20) {
        h->status &= ~(u32)val;
        for (int i = 0; i < TIMERS; i++) tn_update_line(&h->tn[i]);
    }
    if (reg < 0x100 || reg >= 0x100 + 0x20 * TIMERS) return;
    struct hpet_timer *t = &h->tn[(reg - 0x100) / 0x20];
    if ((reg & 0x18) == 0) tn_write_config(t, val);
    if ((reg & 0x18) == 8) tn_write_comparator(t, val, half);
}

// ---- dispatch: the BQL is held already when a device reads or writes here by DMA ----
static u64 hpet_read(void *opaque, u64 addr, unsigned size)
{
    struct hpet *h = opaque;
    u64 reg = addr & 0x3f8, val;
    if (reg == 0xf0) {
        val = hpet_counter(h);
    } else {
        bool held = bql_held();
        if (!held) bql_lock();
        hpet_catch_up(h);
        val = hpet_reg_read(h, reg);
        if (!held) bql_unlock();
    }
    return bits_zext(val >> (addr & 7) * 8, size);
}

static void hpet_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct hpet *h = opaque;
    if (size < 4) {
        log_once(LOG_WARN, "guest writes %u bytes of an HPET register: ignored (1.0a 2.3: 32 or 64 bits)", size);
        return;
    }
    bool held = bql_held();
    if (!held) bql_lock();
    hpet_catch_up(h);
    hpet_reg_write(h, addr & 0x3f8, val, size == 8 ? 0 : addr & 4 ? 2 : 1);
    if (!held) bql_unlock();
}

static const struct io_ops hpet_io = {.read = hpet_read, .write = hpet_write, .max_size = 8, .unlocked = true};

void hpet_reset(struct hpet *h)
{
    DEVICE_LOCKED();
    if (h->config || h->counting) hpet_write_config(h, 0);
    hpet_set_counter(h, false, 0);
    h->status = 0;
    for (unsigned i = 0; i < TIMERS; i++) {
        struct hpet_timer *t = &h->tn[i];
        if (timer_armed(&t->timer)) timer_del(&t->timer);
        t->config = (u64)h->routes << 32 | TN_PERIODIC_CAP | TN_64_CAP;
        if (h->routes) t->config |= (u64)__builtin_ctz(h->routes) << 9;
        t->comparator = UINT64_MAX;
        t->period = 0;
        t->set_high = false;
    }
}

struct hpet *hpet_new(struct phys *p, const struct irq *gsi, unsigned ngsi)
{
    struct hpet *h = plat_pages_alloc(sizeof *h);
    ASSERT(h, "no memory for the HPET");
    h->gsi = gsi;
    h->routes = ngsi >= 32 ? ROUTES : ROUTES & ((1u << ngsi) - 1);
    if (ngsi > 8) {
        h->legacy[0] = gsi[2];
        h->legacy[1] = gsi[8];
    }
    for (unsigned i = 0; i < TIMERS; i++) {
        struct hpet_timer *t = &h->tn[i];
        t->hpet = h;
        t->n = i;
        timer_init(&t->timer, CLOCK_VIRTUAL_, tn_expired, t);
    }
    hpet_reset(h);
    phys_add_mmio(p, gpa(HPET_BASE), PAGE_SIZE, &hpet_io, h, "hpet");
    return h;
}

void hpet_set_legacy(struct hpet *s, struct pit *pit, struct rtc *rtc, struct irq irq0, struct irq irq8)
{
    s->pit = pit;
    s->rtc = rtc;
    s->legacy[0] = irq0;
    s->legacy[1] = irq8;
}
