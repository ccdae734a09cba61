// Locked instructions: many threads change the same words, on one line, over two lines and over two pages, and the sums must be exact.
// Plain accesses of aligned words must be whole (SDM 3A 8.1.1).
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "smp.h"

enum { THREADS = 4, PAGE_DIVISOR = 50 };      // what crosses pages is slow: fewer rounds
struct place { const char *name; unsigned off; bool page; };

static uint8_t *memory;                       // two pages
static unsigned long rounds_of;

struct op {
    const char *name;
    unsigned size;
    void (*fn)(void *at, unsigned thread);
    uint64_t each;                            // added by each call, modulo the size
};

static void add1(void *p, unsigned t) { (void)t; __asm__ volatile("lock; addb $1, %0" : "+m"(*(uint8_t *)p) : : "cc"); }
static void add2(void *p, unsigned t) { (void)t; __asm__ volatile("lock; addw $3, %0" : "+m"(*(uint16_t *)p) : : "cc"); }
static void add4(void *p, unsigned t) { (void)t; __asm__ volatile("lock; addl $0x10001, %0" : "+m"(*(uint32_t *)p) : : "cc"); }
static void add8(void *p, unsigned t) { (void)t; __asm__ volatile("lock; addq %1, %0" : "+m"(*(uint64_t *)p) : "r"(0x100000001ull) : "cc"); }
static void inc4(void *p, unsigned t) { (void)t; __asm__ volatile("lock; incl %0" : "+m"(*(uint32_t *)p) : : "cc"); }
static void dec8(void *p, unsigned t) { (void)t; __asm__ volatile("lock; decq %0" : "+m"(*(uint64_t *)p) : : "cc"); }
static void sub8(void *p, unsigned t) { (void)t; __asm__ volatile("lock; subq $-5, %0" : "+m"(*(uint64_t *)p) : : "cc"); }

static void xadd8(void *p, unsigned t)
{
    uint64_t v = 7;
    (void)t;
    __asm__ volatile("lock; xaddq %0, %1" : "+r"(v), "+m"(*(uint64_t *)p) : : "cc");
    if (v % 7) fail("xadd returned %llu", (unsigned long long)v);
}

static void cmpxchg4(void *p, unsigned t)
{
    uint32_t old, was;
    (void)t;
    do {
        was = old = *(volatile uint32_t *)p;
        __asm__ volatile("lock; cmpxchgl %2, %1" : "+a"(old), "+m"(*(uint32_t *)p) : "r"(was + 9) : "cc");
    } while (old != was);
}

static void cmpxchg8b(void *p, unsigned t)
{
    uint32_t lo = 0, hi = 0, was_lo, was_hi;
    (void)t;
    do {
        was_lo = lo;
        was_hi = hi;
        uint64_t next = ((uint64_t)hi << 32 | lo) + 0x300000001ull;
        __asm__ volatile("lock; cmpxchg8b %2" : "+a"(lo), "+d"(hi), "+m"(*(uint64_t *)p) : "b"((uint32_t)next), "c"((uint32_t)(next >> 32)) : "cc");
    } while (lo != was_lo || hi != was_hi);
}

// Both halves count; they must stay equal.
static void cmpxchg16b(void *p, unsigned t)
{
    uint64_t lo = 0, hi = 0, was_lo, was_hi;
    (void)t;
    do {
        was_lo = lo;
        was_hi = hi;
        __asm__ volatile("lock; cmpxchg16b %2" : "+a"(lo), "+d"(hi), "+m"(*(unsigned __int128 *)p) : "b"(lo + 1), "c"(hi + 1) : "cc");
        if (lo != hi) fail("cmpxchg16b saw %llu and %llu", (unsigned long long)lo, (unsigned long long)hi);
    } while (lo != was_lo || hi != was_hi);
}

// Each thread flips its own bit on and off again, and nobody else may.
static void bits4(void *p, unsigned t)
{
    uint8_t was;
    __asm__ volatile("lock; btsl %2, %0\n\tsetc %1" : "+m"(*(uint32_t *)p), "=q"(was) : "r"(t) : "cc");
    if (was) fail("bts: bit %u was set", t);
    __asm__ volatile("lock; btrl %2, %0\n\tsetc %1" : "+m"(*(uint32_t *)p), "=q"(was) : "r"(t) : "cc");
    if (!was) fail("btr: bit %u was clear", t);
}

static const struct op ops[] = {
    {"add8", 1, add1, 1}, {"add16", 2, add2, 3}, {"add32", 4, add4, 0x10001}, {"add64", 8, add8, 0x100000001ull}, {"inc32", 4, inc4, 1},
    {"dec64", 8, dec8, ~0ull}, {"sub64", 8, sub8, 5}, {"xadd64", 8, xadd8, 7}, {"cmpxchg32", 4, cmpxchg4, 9}, {"cmpxchg8b", 8, cmpxchg8b, 0x300000001ull},
    {"cmpxchg16b", 16, cmpxchg16b, 1}, {"bits32", 4, bits4, 0},
};

static struct job { const struct op *op; uint8_t *at; unsigned long rounds; struct barrier barrier; } job;

static void op_thread(void *arg, unsigned i)
{
    (void)arg;
    barrier_wait(&job.barrier);
    for (unsigned long n = 0; n < job.rounds; n++) job.op->fn(job.at, i);
}

static void op_run(const struct op *op, const struct place *place)
{
    if (place->off % 64 && op->size == 16) return;              // must be aligned
    job.op = op;
    job.at = memory + place->off;
    if (place->off % 64) job.at += 4 - (op->size + 1) / 2;      // half of it on either side
    job.rounds = place->page ? rounds_of / PAGE_DIVISOR : rounds_of;
    job.barrier = (struct barrier){.n = THREADS};
    memset(memory, 0, 2 * PAGE);
    threads_run(THREADS, true, op_thread, NULL);
    uint64_t got = 0, want = op->each * job.rounds * THREADS;
    memcpy(&got, job.at, op->size < 8 ? op->size : 8);
    if (op->size < 8) want &= (1ull << op->size * 8) - 1;
    if (got != want) fail("atomics: %s %s: %#llx, not %#llx", op->name, place->name, (unsigned long long)got, (unsigned long long)want);
    for (unsigned n = 0; n < 2 * PAGE; n++)
        if (memory[n] && (memory + n < job.at || memory + n >= job.at + op->size)) fail("atomics: %s %s: byte %u was written", op->name, place->name, n);
}

// ---- a lock made of xchg -----------------------------------------------------------------------------------------------

static struct { uint32_t *lock; uint64_t plain; } locked;

static void lock_thread(void *arg, unsigned i)
{
    unsigned long rounds = *(unsigned long *)arg;
    (void)i;
    for (unsigned long n = 0; n < rounds; n++) {
        uint32_t v = 1;
        for (unsigned k = 0;; k++) {
            __asm__ volatile("xchgl %0, %1" : "+r"(v), "+m"(*locked.lock) : : "memory");
            if (!v) break;
            relax(k);
        }
        locked.plain++;
        *(volatile uint32_t *)locked.lock = 0;
    }
}

static void lock_run(const char *name, unsigned off, unsigned long rounds)
{
    memset(memory, 0, 2 * PAGE);
    locked.lock = (uint32_t *)(memory + off);
    locked.plain = 0;
    threads_run(THREADS, true, lock_thread, &rounds);
    if (locked.plain != rounds * THREADS) fail("atomics: lock %s: %llu, not %lu", name, (unsigned long long)locked.plain, rounds * THREADS);
}

// ---- whole words ---------------------------------------------------------------------------------------------------------

enum { WORDS = 64 };
static struct { unsigned long rounds; uint64_t *words; unsigned running; } whole;
#define PATTERN(n) (((n) & 0xffff) * 0x0001000100010001ull)

static void word_store(uint64_t *at, uint64_t v, unsigned how)
{
    switch (how % 4) {
    case 0: __asm__ volatile("movq %1, %0" : "=m"(*at) : "r"(v)); break;
    case 1: __asm__ volatile("movq %1, %%xmm0\n\tmovq %%xmm0, %0" : "=m"(*at) : "r"(v) : "xmm0"); break;
    case 2: __asm__ volatile("movq %1, %%xmm1\n\tmovlps %%xmm1, %0" : "=m"(*at) : "r"(v) : "xmm1"); break;
    case 3: __asm__ volatile("pushq %1\n\tpopq %0" : "=m"(*at) : "r"(v)); break;
    }
}

static uint64_t word_load(const uint64_t *at, unsigned how)
{
    uint64_t v;
    switch (how % 3) {
    case 0: __asm__ volatile("movq %1, %0" : "=r"(v) : "m"(*at)); return v;
    case 1: __asm__ volatile("movq %1, %%xmm0\n\tmovq %%xmm0, %0" : "=r"(v) : "m"(*at) : "xmm0"); return v;
    default: {
        uint64_t whole_word;
        __asm__ volatile("fildll %1\n\tfistpll %0" : "=m"(whole_word) : "m"(*at));
        return whole_word;
    }
    }
}

static void word_thread(void *arg, unsigned i)
{
    (void)arg;
    for (unsigned long n = 0; i < 2 ? n < whole.rounds : __atomic_load_n(&whole.running, __ATOMIC_RELAXED) != 0; n++) {
        uint64_t *at = whole.words + (n % WORDS) * 8;
        if (i < 2) {
            word_store(at, PATTERN(n + i), (unsigned)(n >> 6) + i);
            continue;
        }
        uint64_t v = word_load(at, (unsigned)(n >> 6));
        if (v != PATTERN(v)) fail("atomics: torn word %#llx", (unsigned long long)v);
    }
    if (i < 2) __atomic_fetch_sub(&whole.running, 1, __ATOMIC_RELAXED);
}

void atomics(unsigned long rounds)
{
    static const struct place places[] = {{"on a line", 128, false}, {"over two lines", 128 - 4, false}, {"over two pages", PAGE - 4, true}};
    rounds_of = rounds;
    memory = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        fail("no memory");
        return;
    }
    for (unsigned p = 0; p < sizeof places / sizeof *places; p++) {
        for (unsigned n = 0; n < sizeof ops / sizeof *ops; n++) op_run(&ops[n], &places[p]);
        printf("atomics %s: done\n", places[p].name);
    }
    lock_run("on a line", 64, rounds / 4);
    lock_run("over two pages", PAGE - 2, rounds / 4 / PAGE_DIVISOR);
    whole.rounds = rounds * 4;
    whole.words = (uint64_t *)memory;
    whole.running = 2;
    threads_run(THREADS, true, word_thread, NULL);
}
