// The 8254 programmable interval timer and port 0x61: Intel 8254 data sheet (231164); port 0x61 as in ICH ("NMI status and control").
//
// Nothing is counted. The oscillator is a function of the virtual clock, T(ns) = floor(ns * 1193182 / 10^9), and a channel knows the
// oscillator tick at which its count was loaded; counter, OUT and next edge follow from the ticks elapsed since. So a read is exact to
// the tick and nothing drifts. A count written at tick T is loaded at T + 1, as in the chip.
//
// OUT of channel 0 is IRQ0. What matters of it is the rising edge: the timer fires once per edge, and lets the line fall and rise then.
// If the core was late by several periods, one edge is delivered: the interrupt controllers could not hold more.
//
// Channels 0 and 1 have their gates tied high; channel 2's is bit 0 of port 0x61, and its OUT bit 5 there.
#include "devices/clock.h"
#include "devices/devices.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

#define PIT_HZ 1193182ull
#define NEVER INT64_MAX
#define MIN_PERIOD_NS 10000ull // a guest must not drown its host in interrupts: shorter periods of channel 0 lose edges
#define REFRESH_NS 15085ull    // port 0x61 bit 4 toggles with the memory refresh requests

struct pit_channel {
    u8 mode, rw;               // 0..5; 1 LSB, 2 MSB, 3 both
    bool bcd, gate;
    bool loaded;               // counting element has a count (modes 1, 5: and was triggered)
    bool counting;             // false: gate or a half-written count holds it
    s64 start;                 // oscillator tick at which it held `count`
    s64 held;                  // ticks elapsed when counting stopped
    u32 count;                 // 1..65536 (BCD: 1..10000)
    u32 next;                  // written, loaded at the end of the period or at the trigger; 0 none
    u8 write_lsb;
    bool write_msb, read_msb;  // the second byte is next
    bool count_latched, status_latched;
    u16 latch;
    u8 status;
};

struct pit {                   // BQL
    struct pit_channel ch[3];
    struct irq irq;
    bool irq_enabled;
    u8 port61;                 // bits 3:0
    struct timer timer;        // armed for channel 0's next rising edge
};

static s64 tick_now(void) { return (s64)muldiv64(clock_ns(CLOCK_VIRTUAL_), PIT_HZ, NS_PER_SEC); }
// The first nanosecond of a tick.
static u64 tick_ns(s64 tick) { return (u64)(((u128)(u64)tick * NS_PER_SEC + PIT_HZ - 1) / PIT_HZ); }

static bool periodic(const struct pit_channel *c) { return c->mode == 2 || c->mode == 3; }
static bool triggered(const struct pit_channel *c) { return c->mode == 1 || c->mode == 5; }

// Ticks since the count was in the counting element; negative while it waits for the next tick.
static s64 elapsed(const struct pit_channel *c, s64 now) { return c->counting ? now - c->start : c->held; }

static void channel_load(struct pit_channel *c, u32 count, s64 at)
{
    c->count = count;
    c->next = 0;
    c->start = at;
    c->loaded = c->counting = true;
}

// A count written during a period of modes 2, 3 comes into force at the period's end.
static void channel_settle(struct pit_channel *c, s64 now)
{
    s64 e = elapsed(c, now);
    if (!c->next || !periodic(c) || !c->loaded || !c->counting || e < (s64)c->count) return;
    channel_load(c, c->next, c->start + c->count);
}

// ---- what can be observed at tick `now` ----
static bool channel_out(const struct pit_channel *c, s64 now)
{
    s64 e = elapsed(c, now), n = c->count, p = e > 0 && n ? e % n : 0;
    if (!c->loaded) return c->mode != 0;
    switch (c->mode) {
    case 0: return e >= n;
    case 1: return e < 0 || e >= n;
    case 2: return !c->counting || p != n - 1;
    case 3: return !c->counting || p < (n + 1) / 2;
    default: return e != n;
    }
}

static u16 channel_value(const struct pit_channel *c, s64 now)
{
    s64 e = elapsed(c, now), n = c->count, wrap = c->bcd ? 10000 : 65536, v;
    if (e < 0) e = 0;
    if (c->mode == 2) {
        v = n - (n ? e % n : 0);
    } else if (c->mode == 3) {   // two down per tick, the two halves of the period alike; an odd count is loaded less one
        s64 p = n ? e % n : 0, high = (n + 1) / 2;
        v = (n & ~1ll) - 2 * (p < high ? p : p - high);
    } else {
        v = ((n - e) % wrap + wrap) % wrap;
    }
    v %= wrap;
    if (!c->bcd) return (u16)v;
    return (u16)(v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

// The first tick after `now` with a rising edge of OUT.
static s64 channel_next_rise(const struct pit_channel *c, s64 now)
{
    s64 e = elapsed(c, now), n = c->count;
    if (!c->loaded || !c->counting) return NEVER;
    if (periodic(c)) return c->start + (e < 0 ? n : (e / n + 1) * n);
    if (c->mode >= 4) n++;   // the strobe is low for one tick
    return e < n ? c->start + n : NEVER;
}

// ---- the line ----
static void pit_arm(struct pit *s, u64 not_before_ns)
{
    struct pit_channel *c = &s->ch[0];
    s64 rise = s->irq_enabled ? channel_next_rise(c, tick_now()) : NEVER;
    if (rise == NEVER) timer_del(&s->timer);
    else timer_mod_ns(&s->timer, max_u64(tick_ns(rise), not_before_ns));
}

static void pit_expired(void *opaque)
{
    struct pit *s = opaque;
    channel_settle(&s->ch[0], tick_now());
    irq_set(&s->irq, false);
    irq_set(&s->irq, true);
    pit_arm(s, clock_ns(CLOCK_VIRTUAL_) + MIN_PERIOD_NS);
}

// An edge that is due comes before what is about to change.
static void pit_catch_up(struct pit *s)
{
    s64 now = tick_now();
    if (timer_armed(&s->timer) && s->timer.expire_ns <= clock_ns(CLOCK_VIRTUAL_)) pit_expired(s);
    for (int i = 0; i < 3; i++) channel_settle(&s->ch[i], now);
}

static void pit_changed(struct pit *s, unsigned n)
{
    if (n != 0) return;
    if (s->irq_enabled) irq_set(&s->irq, channel_out(&s->ch[0], tick_now()));
    pit_arm(s, 0);
}

void pit_set_irq0_enabled(struct pit *s, bool on)
{
    DEVICE_LOCKED();
    if (s->irq_enabled == on) return;
    if (!on) irq_set(&s->irq, false);
    s->irq_enabled = on;
    pit_changed(s, 0);
}

// ---- counts ----
static u32 count_from_register(const struct pit_channel *c, u16 v)
{
    if (!c->bcd) return v ? v : 65536;
    u32 d = (v >> 12 & 15) * 1000u + (v >> 8 & 15) * 100u + (v >> 4 & 15) * 10u + (v & 15u);
    return d ? d : 10000;
}

static void channel_set_count(struct pit_channel *c, u16 v)
{
    s64 at = tick_now() + 1;
    u32 count = count_from_register(c, v);
    if (triggered(c) || (periodic(c) && c->loaded)) {
        c->next = count;
        return;
    }
    channel_load(c, count, at);
    if (c->gate) return;
    c->counting = false;
    c->held = 0;
}

static void pit_write_count(struct pit *s, unsigned n, u8 v)
{
    struct pit_channel *c = &s->ch[n];
    if (c->rw == 3 && !c->write_msb) {
        c->write_lsb = v;
        c->write_msb = true;
        if (c->mode == 0 && c->loaded) c->loaded = false;   // the first byte stops the count, OUT goes low
    } else {
        c->write_msb = false;
        channel_set_count(c, c->rw == 3 ? (u16)(v << 8 | c->write_lsb) : c->rw == 2 ? (u16)(v << 8) : v);
    }
    pit_changed(s, n);
}

static void channel_latch_count(struct pit_channel *c, s64 now)
{
    if (c->count_latched) return;
    c->latch = channel_value(c, now);
    c->count_latched = true;
}

static void channel_latch_status(struct pit_channel *c, s64 now)
{
    if (c->status_latched) return;
    bool null_count = c->next || !c->loaded || elapsed(c, now) < 0;
    c->status = (u8)(channel_out(c, now) << 7 | null_count << 6 | c->rw << 4 | c->mode << 1 | c->bcd);
    c->status_latched = true;
}

static u8 pit_read_count(struct pit_channel *c, s64 now)
{
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    u16 v = c->count_latched ? c->latch : channel_value(c, now);
    bool msb = c->rw == 2 || (c->rw == 3 && c->read_msb);
    if (c->rw == 3) c->read_msb = !c->read_msb;
    if (c->rw != 3 || msb) c->count_latched = false;
    return (u8)(msb ? v >> 8 : v);
}

// ---- control word: counter 7:6, RW 5:4, mode 3:1, BCD 0 ----
static void pit_set_mode(struct pit *s, unsigned n, u8 v)
{
    struct pit_channel *c = &s->ch[n];
    bool gate = c->gate;
    u8 mode = v >> 1 & 7;
    *c = (struct pit_channel){.mode = mode > 5 ? mode - 4 : mode, .rw = v >> 4 & 3, .bcd = v & 1, .gate = gate};
    pit_changed(s, n);
}

static void pit_control(struct pit *s, u8 v)
{
    s64 now = tick_now();
    if (v >> 6 != 3) {
        if (v & 0x30) pit_set_mode(s, v >> 6, v);
        else channel_latch_count(&s->ch[v >> 6], now);
        return;
    }
    for (unsigned i = 0; i < 3; i++) {   // read-back: bit 5 and 4 low active
        if (!(v & 2 << i)) continue;
        if (!(v & 0x20)) channel_latch_count(&s->ch[i], now);
        if (!(v & 0x10)) channel_latch_status(&s->ch[i], now);
    }
}

static u64 pit_read(void *opaque, u64 addr, unsigned size)
{
    struct pit *s = opaque;
    pit_catch_up(s);
    return addr < 3 ? pit_read_count(&s->ch[addr], tick_now()) : 0;
}

static void pit_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct pit *s = opaque;
    pit_catch_up(s);
    if (addr == 3) pit_control(s, (u8)val);
    else pit_write_count(s, (unsigned)addr, (u8)val);
}

// ---- gate of channel 2 (data sheet figure 22, "gate pin operations") ----
static void channel_set_gate(struct pit_channel *c, bool on)
{
    s64 now = tick_now(), ticks = elapsed(c, now) < 0 ? 0 : elapsed(c, now);
    if (on == c->gate) return;
    c->gate = on;
    if (triggered(c) || periodic(c)) {
        u32 count = c->next ? c->next : c->count;
        if (on && count) channel_load(c, count, now + 1);        // (re)trigger
        else if (!on && periodic(c) && c->loaded) {
            c->held = ticks;
            c->counting = false;
        }
        return;
    }
    if (!c->loaded) return;
    if (on) c->start = now - c->held;
    else c->held = ticks;
    c->counting = on;
}

static u64 port61_read(void *opaque, u64 addr, unsigned size)
{
    struct pit *s = opaque;
    pit_catch_up(s);
    bool refresh = clock_ns(CLOCK_VIRTUAL_) / REFRESH_NS & 1;
    return s->port61 | (u64)refresh << 4 | (u64)channel_out(&s->ch[2], tick_now()) << 5;
}

static void port61_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct pit *s = opaque;
    pit_catch_up(s);
    s->port61 = val & 0xf;   // bit 1, the speaker, is kept and makes no sound
    channel_set_gate(&s->ch[2], val & 1);
}

static const struct io_ops pit_io = {.read = pit_read, .write = pit_write, .max_size = 1};
static const struct io_ops port61_io = {.read = port61_read, .write = port61_write, .max_size = 1};

void pit_reset(struct pit *s)
{
    DEVICE_LOCKED();
    if (timer_armed(&s->timer)) timer_del(&s->timer);
    for (int i = 0; i < 3; i++) s->ch[i] = (struct pit_channel){.mode = 3, .rw = 3, .gate = i != 2};
    s->port61 = 0;
    s->irq_enabled = true;
}

struct pit *pit_new(struct phys *p, struct irq irq0)
{
    struct pit *s = plat_pages_alloc(sizeof *s);
    ASSERT(s, "no memory for the 8254");
    s->irq = irq0;
    timer_init(&s->timer, CLOCK_VIRTUAL_, pit_expired, s);
    pit_reset(s);
    phys_add_ports(p, 0x40, 4, &pit_io, s, "pit");
    phys_add_ports(p, 0x61, 1, &port61_io, s, "port61");
    return s;
}
