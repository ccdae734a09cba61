// The local APIC's timer (SDM 3A 11.5.4): one-shot, periodic, TSC-deadline.
//
// The input of the divider is 1 GHz (LAPIC_TIMER_HZ), so a tick is `divider` nanoseconds of the virtual clock and nothing needs
// rounding. The current count is never stored: it is computed from the clock and the moment the count was loaded, so reading it costs
// no lock. What expires is a struct timer. Its callback runs in interrupt context on any core, where the registers are taboo: it
// works from `shot` alone, posts the vector and re-arms.
//
// The timer stays armed while the LVT entry is masked, because counting goes on and a later unmasking must find the next expiry.
//
// Several missed periods become one interrupt (the IRR holds no more than one anyway), and a period shorter than MIN_PERIOD_NS is
// stretched when it re-arms: a guest must not drown its host in interrupts.
#include "devices/lapic_state.h"

#define MIN_PERIOD_NS 10000ull
#define FAR_NS (1ull << 62)   // later than any machine lives; keeps sums from wrapping

static enum lapic_timer_mode timer_mode(const struct lapic *l) { return l->lvt[LVT_TIMER] >> 17 & 3; }

// Divide configuration, bits 3, 1, 0: 000 is 2, 001 is 4, ... 110 is 128, 111 is 1 (SDM 3A figure 11-10).
static unsigned timer_shift(const struct lapic *l) { return ((l->divide & 3) + (l->divide >> 1 & 4) + 1) & 7; }
static u64 timer_span_ns(const struct lapic *l) { return (u64)l->initial << timer_shift(l); }

// Nanoseconds until the guest's TSC reaches `tsc`, rounded up; 0 when it has.
static u64 tsc_distance_ns(const struct lapic *l, u64 tsc)
{
    u64 now = l->read_guest_tsc(l->vcpu);
    if (tsc <= now) return 0;
    u128 ns = ((u128)(tsc - now) * NS_PER_SEC + l->tsc_hz - 1) / l->tsc_hz;
    return ns > FAR_NS ? FAR_NS : (u64)ns;
}

static void shot_arm_tsc(struct lapic *l)
{
    timer_mod_ns(&l->timer, clock_ns(CLOCK_VIRTUAL_) + tsc_distance_ns(l, l->shot.tsc_deadline));
}

// Interrupt context, BQL held.
static void timer_expired(void *opaque)
{
    struct lapic *l = opaque;
    struct lapic_shot *s = &l->shot;
    if (s->mode == TIMER_TSC) {
        if (!s->tsc_deadline) return;
        if (tsc_distance_ns(l, s->tsc_deadline)) {   // rounding, or the guest turned its TSC back
            shot_arm_tsc(l);
            return;
        }
        s->tsc_deadline = 0;
    }
    if (!s->masked && s->vector >= 16) vcpu_post_interrupt(l->vcpu, s->vector, false);
    if (s->mode != TIMER_PERIODIC || !s->period_ns) return;
    u64 now = clock_ns(CLOCK_VIRTUAL_);
    s->due_ns += s->period_ns;
    if (s->due_ns <= now) s->due_ns += ((now - s->due_ns) / s->period_ns + 1) * s->period_ns;
    timer_mod_ns(&l->timer, max_u64(s->due_ns, now + MIN_PERIOD_NS));
}

void vlapic_timer_init(struct lapic *l) { timer_init(&l->timer, CLOCK_VIRTUAL_, timer_expired, l); }

// Copies what the callback needs. BQL held.
static void shot_set_lvt(struct lapic *l)
{
    u32 e = l->lvt[LVT_TIMER];
    l->shot.mode = timer_mode(l);
    l->shot.masked = e & LVT_MASKED;
    l->shot.vector = (u8)e;
    l->shot.period_ns = l->shot.mode == TIMER_PERIODIC && l->counting ? timer_span_ns(l) : 0;
}

// Orders the next expiry of a count that was (re)loaded, or none.
static void timer_start(struct lapic *l)
{
    bql_lock();
    shot_set_lvt(l);
    if (l->counting) {
        l->shot.due_ns = l->count_start + timer_span_ns(l);
        timer_mod_ns(&l->timer, l->shot.due_ns);
    } else {
        timer_del(&l->timer);
    }
    bql_unlock();
}

// Brings count_start into the current period and notices the end of a one-shot count. Returns the ticks since count_start.
static u64 timer_settle(struct lapic *l)
{
    if (!l->counting) return 0;
    u64 ns = clock_ns(CLOCK_VIRTUAL_) - l->count_start, span = timer_span_ns(l);
    if (ns >= span) {
        if (timer_mode(l) != TIMER_PERIODIC) {
            l->counting = false;
            return 0;
        }
        l->count_start += ns - ns % span;
        ns %= span;
    }
    return ns >> timer_shift(l);
}

u32 vlapic_timer_current(struct lapic *l)
{
    u64 ticks = timer_settle(l);
    return l->counting ? l->initial - (u32)ticks : 0;
}

void vlapic_timer_set_initial(struct lapic *l, u32 count)
{
    if (timer_mode(l) == TIMER_TSC) return;   // SDM 3A 11.5.4.1: ignored
    l->initial = count;
    l->counting = count != 0 && timer_mode(l) != TIMER_RESERVED;
    l->count_start = clock_ns(CLOCK_VIRTUAL_);
    timer_start(l);
}

void vlapic_timer_set_divide(struct lapic *l, u32 val)
{
    u64 ticks = timer_settle(l);   // the count goes on from where it is, at the new pace
    l->divide = val & 0xb;
    if (!l->counting) return;
    l->count_start = clock_ns(CLOCK_VIRTUAL_) - (ticks << timer_shift(l));
    timer_start(l);
}

void vlapic_timer_set_lvt(struct lapic *l, u32 entry)
{
    enum lapic_timer_mode old = timer_mode(l), mode;
    timer_settle(l);
    l->lvt[LVT_TIMER] = entry;
    mode = timer_mode(l);
    bql_lock();
    // To or from TSC-deadline disarms (SDM 3A 11.5.4.1). One-shot and periodic share the count: its next expiry is the same.
    if (mode != old && (mode >= TIMER_TSC || old >= TIMER_TSC)) {
        l->counting = false;
        l->initial = 0;
        l->shot.tsc_deadline = 0;
        timer_del(&l->timer);
    }
    shot_set_lvt(l);
    bql_unlock();
}

u64 vlapic_timer_deadline(struct lapic *l)
{
    bql_lock();
    u64 v = l->shot.mode == TIMER_TSC ? l->shot.tsc_deadline : 0;
    bql_unlock();
    return v;
}

void vlapic_timer_set_deadline(struct lapic *l, u64 tsc)
{
    if (timer_mode(l) != TIMER_TSC) return;   // ignored in the other modes
    bql_lock();
    l->shot.tsc_deadline = tsc;
    if (tsc) shot_arm_tsc(l);
    else timer_del(&l->timer);
    bql_unlock();
}

void vlapic_timer_reset(struct lapic *l)
{
    l->initial = l->divide = 0;
    l->counting = false;
    l->lvt[LVT_TIMER] = LVT_MASKED;
    if (!timer_armed(&l->timer) && !l->shot.tsc_deadline && l->shot.masked) return;   // nothing to disarm: construction needs no lock
    bool held = bql_held();   // a machine reset holds it, an INIT does not
    if (!held) bql_lock();
    timer_del(&l->timer);
    l->shot = (struct lapic_shot){.masked = true};
    if (!held) bql_unlock();
}
