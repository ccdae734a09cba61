// A sequence lock: a few words that one writer at a time changes (under the BQL) and that anybody reads in any context without
// a lock. The reader repeats when it met a writer. A writer must not be interrupted by a reader on its own core, which the BQL
// (interrupts off) guarantees. Fields guarded by it are read and written with SEQ_GET and SEQ_SET, so that no access tears.
//
// What is guarded here are clocks, so both sides also read the time inside their sections, and the two must fit: the time that a reader
// took lies before the one that a later writer takes, or a clock that is stopped would go back. RDTSC is ordered with nothing by itself.
// So a writer makes "odd" visible before it goes on (a full fence), and a reader has the time before it looks at the sequence again
// (LFENCE, SDM 2B RDTSC).
#pragma once

#include "kernel/base/types.h"

struct seqlock { u32 seq; };   // odd: a write is going on

#define SEQ_GET(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define SEQ_SET(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)

static inline u32 seqlock_read_begin(const struct seqlock *s)
{
    u32 v;
    while ((v = __atomic_load_n(&s->seq, __ATOMIC_ACQUIRE)) & 1) __builtin_ia32_pause();
    return v;
}

// True when what was read since seqlock_read_begin() must be read again.
static inline bool seqlock_read_retry(const struct seqlock *s, u32 begun)
{
    __asm__ volatile("lfence" : : : "memory");
    return SEQ_GET(s->seq) != begun;
}

static inline void seqlock_write_begin(struct seqlock *s)
{
    SEQ_SET(s->seq, s->seq + 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline void seqlock_write_end(struct seqlock *s) { __atomic_store_n(&s->seq, s->seq + 1, __ATOMIC_RELEASE); }
