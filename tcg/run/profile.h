// Where a vCPU's time goes: shares by class, sampled about a thousand times a second, with a cost that is measured and kept below 2 %.
// tcg/run/profile.c says how. For the loop, which tells what it does, and for kernel/machine_profile.c, which has the timer.
//
// Whoever runs on the vCPU's core says what he does with a store to its `activity` (profile_enter, profile_leave), always, profiling or
// not. The brackets reach past the point where interrupts come on again: a sample that becomes due while they are off is taken there.
#pragma once

#include "kernel/base/spin.h"
#include "kernel/base/types.h"

struct vcpu;

enum profile_class {
    PROF_LOOP,            // the execution loop: finding and chaining TBs, mailboxes, choosing what to do
    PROF_CODE,            // translated code
    PROF_BRIDGE,          // entry, exit, and the bridges to C and back
    PROF_TRANSLATE,       // making TBs
    PROF_SOFTMMU,         // TLB misses and page walks, for translated code, helpers and the translator alike
    PROF_HELPER,          // C on behalf of translated code, besides the other classes
    PROF_EXCEPTION,       // delivering exceptions and interrupts to the guest
    PROF_DEVICE,          // accesses to devices
    PROF_WAIT,            // for other vCPUs, the big lock, a core; the machine is stopped
    PROF_IDLE,            // HLT and the like
    PROF_INTERRUPT,       // the host's interrupts: timers, input, kicks
    PROF_SELF,            // the profiler's own cost
    PROF_N,
    PROF_RUNS = PROF_N,   // (profile_state) what it does is sampled
};
extern const char *const profile_names[PROF_N];   // 8 characters at most

// TSC ticks and samples by class. Idle, interrupts, the profiler and most waiting are measured and have no samples. total: from start to
// now (or stop); the ticks of all classes make it up.
struct profile { u64 ticks[PROF_N], samples[PROF_N], total; };

// Counts since the vCPU was made; differences are for the reader to take.
struct vcpu_counters {
    u64 exits, exit_kind[5];               // turns of translated code; by enum exit_kind (tcg/run/tcg.h)
    u64 tbs, tb_bytes, tb_insns, tb_ticks; // translated: blocks, their guest bytes and instructions, TSC ticks
    u64 tlb_misses, tlb_flushes, tlb_page_flushes;   // accesses that the inline lookup passed on; flushes
    u64 helpers, device_accesses, code_writes;       // calls of helpers from translated code; accesses to memory-mapped devices; SMC
};

struct profiler {
    u8 activity;          // enum profile_class. Owner: the vCPU's core, outside interrupts
    u8 state;             // a class that is measured, or PROF_RUNS. Written under the lock by the owner, read by all
    bool on, due;         // due: a sample is wanted. Atomic
    struct spinlock lock; // guards the rest
    bool in_interrupt;    // between profile_interrupt_begin and _end
    u64 start, stamp;     // TSC: when it began; up to when everything is accounted for
    u64 pending;          // ticks that the next sample says the class of
    u64 bql_waited;       // lockstat.waited of its core at `stamp`
    u64 own, overhead;    // of this interrupt: the timer's callback; getting here and back
    u64 handler;          // ticks in the last interrupt's handler
    u32 n_interrupts;     // written by the owner's interrupts, read by profile_calibrate under them
    struct profile p;
};

// ---- own core, not in interrupt context ----
// What the vCPU does from now on. Returns what it did; profile_leave goes back to that. Leaving to the loop by vcpu_leave needs none.
static inline u8 profile_enter(struct profiler *p, enum profile_class k)
{
    u8 was = p->activity;
    p->activity = (u8)k;
    __asm__ volatile("" ::: "memory");
    return was;
}
static inline void profile_leave(struct profiler *p, u8 was)
{
    __asm__ volatile("" ::: "memory");
    p->activity = was;
}
// From now on all time is class k's, without samples, until PROF_RUNS. Idle, and not running at all.
void profile_state(struct vcpu *c, enum profile_class k);

// ---- interrupt context, BQL not held ----
// plat_events.entered: notes when this core's interrupt began.
void profile_interrupt_begin(void);
// The end of c's core's interrupt; k: what c does as its host address and its activity say.
void profile_interrupt_end(struct vcpu *c, enum profile_class k);

// ---- for the timer's callback: interrupt context, BQL held ----
// Asks for a sample of c, if it runs: at the end of this interrupt if it is this core's, else by a kick. False: no sample is wanted of it.
bool profile_ask(struct vcpu *c);
// The callback took so many TSC ticks.
void profile_own(u64 ticks);

// ---- any context ----
void profile_start(struct vcpu *c);                      // from zero
void profile_stop(struct vcpu *c);                       // what was counted stays
// What was counted up to now. The time since the last sample goes to what c is doing.
void profile_read(struct vcpu *c, struct profile *p);
void profile_counters(const struct vcpu *c, struct vcpu_counters *n);

// TSC ticks; 0: not known yet. Of an interrupt, besides its handler's time; of a handler, besides the timer's callback. Any context.
u64 profile_interrupt_cost(const struct vcpu *c);
u64 profile_timer_cost(const struct vcpu *c);
// Measures both, for all vCPUs, if it can: spins until some of the timer's interrupts have come, 20 million ticks at most. For
// cpu_run_async on the core that has the timer; profile_start was called. asked: u32 *, 0 when it is done.
void profile_calibrate(struct vcpu *c, void *asked);
