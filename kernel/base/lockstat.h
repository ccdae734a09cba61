// What a lock costs: how often it was taken, how often somebody had to wait for it, and the time waited and held in TSC ticks. One
// struct per core, written by that core only, so that counting needs no atomics: a reader on another core may see figures that are a
// moment old. Two RDTSC per critical section are the whole price (`make bench-exit` prints it).
#pragma once

#include "kernel/base/types.h"

struct lockstat {
    u64 taken, contended;           // times taken; of these, times that another core had it
    u64 waited, held, held_max;     // TSC ticks
    u64 since;                      // TSC when it was taken last
};

// The lock was taken. asked: the TSC when waiting began, 0 if it was free.
static inline void lockstat_taken(struct lockstat *s, u64 asked)
{
    u64 now = __builtin_ia32_rdtsc();
    s->since = now;
    s->taken++;
    if (!asked) return;
    s->contended++;
    s->waited += now - asked;
}

// It is about to be released.
static inline void lockstat_released(struct lockstat *s)
{
    u64 ticks = __builtin_ia32_rdtsc() - s->since;
    s->held += ticks;
    if (ticks > s->held_max) s->held_max = ticks;
}

// "info sync-profile": the big lock's figures per core, as text in pieces. Any context.
void bql_info(void (*out)(void *o, const char *s), void *o);
