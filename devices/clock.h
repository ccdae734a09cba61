// The guest's clocks and timers: what QEMU's timer lists are, over one physical timer.
//
// Four clocks. Each has a timer list; the platform's one timer is armed for the earliest deadline over all lists. Callbacks run
// in interrupt context with the BQL held; they may modify or delete any timer, themselves included. Timers change under the BQL
// only (asserted); clocks are read in any context without a lock (seqlock).
#pragma once

#include "kernel/base/list.h"
#include "kernel/base/types.h"

enum clock_type {
    CLOCK_REALTIME_,   // monotonic, runs always
    CLOCK_VIRTUAL_,    // guest time: stands while the vCPUs are paused; made of the instruction count under icount
    CLOCK_HOST_,       // wall clock, may jump
    CLOCK_VIRTUAL_RT_, // as VIRTUAL without icount: keeps pace with real time
    CLOCK_COUNT_,
};

struct timer {
    struct list link;
    enum clock_type clock;
    u64 expire_ns;             // UINT64_MAX: not armed
    void (*fn)(void *opaque);
    void *opaque;
    const char *name;          // of fn, for clocks_info
};

void clocks_init(void);                    // before any other call; vCPUs count as paused until clock_resume_vm
u64 clock_ns(enum clock_type c);           // any context
void clock_pause_vm(void);                 // VIRTUAL and VIRTUAL_RT stand still; BQL held
void clock_resume_vm(void);                // and go on from where they stood; BQL held
void clock_enable(enum clock_type c, bool on);   // off: returns once no callback of this clock runs on any core; BQL held
u64 clock_deadline_ns(void);               // ns from now to the earliest deadline over enabled clocks; UINT64_MAX none. BQL held

void timer_init_named(struct timer *t, enum clock_type c, void (*fn)(void *opaque), void *opaque, const char *name);
#define timer_init(t, c, fn, opaque) timer_init_named(t, c, fn, opaque, #fn)   // before it is armed; any context
void timer_mod_ns(struct timer *t, u64 expire_ns);   // (re)arms at this clock's time. BQL held
void timer_del(struct timer *t);                     // BQL held; harmless when not armed
static inline bool timer_armed(const struct timer *t) { return t->expire_ns != UINT64_MAX; }

// icount (devices/icount.c): the virtual clock is what the source says. The physical timer is not armed for it then; the source's owner
// runs its timers.
struct clock_source {
    u64 (*ns)(void);                       // any context; never goes back
    void (*moved)(void);                   // the earliest virtual deadline has changed; BQL held, any context
};
void clock_set_source(const struct clock_source *s);   // after clocks_init, before the first timer
u64 clock_virtual_deadline(void);          // virtual time of the earliest virtual timer; UINT64_MAX none. BQL held
void clock_run_virtual(void);              // runs the virtual timers that have expired. BQL held

// plat_events.timer: runs what has expired and arms the physical timer again. Interrupt context, BQL held.
void clocks_run_expired(void);
// "info timers": the clocks, their armed timers in order, and how often each clock's timers fired. BQL held.
void clocks_info(void (*out)(void *o, const char *s), void *o);
