// A sequence lock: a few words that one writer at a time changes (under the BQL) and that anybody reads in any context without
// a lock. The reader repeats when it met a writer. A writer must not be interrupted by a reader on its own core, which the BQL
// (interrupts off) guarantees. Fields guarded by it are read and written with SEQ_GET and SEQ_SET, so that no access tears.
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
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return SEQ_GET(s->seq) != begun;
}

static inline void seqlock_write_begin(struct seqlock *s)
{
    SEQ_SET(s->seq, s->seq + 1);
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

static inline void seqlock_write_end(struct seqlock *s) { __atomic_store_n(&s->seq, s->seq + 1, __ATOMIC_RELEASE); }
