// Memory order, by the usual litmus tests (SDM 3A 8.2.3): two to four threads make a few accesses to two words, x and y, and some outcomes
// may never be seen. x86 forbids all reorderings but one, a store that is overtaken by a later load of another word: SB and R show it
// unless a fence or a locked instruction stands between.
//
// In the manner of litmus7 a batch has many pairs of words; all threads go through them in the same order, meet only once a batch, and
// count afterwards. The pairs lie on lines of their own, and in every second batch on pages of their own, so that translations miss in the
// middle.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "smp.h"

enum { BATCH = 512, STRIDE_LINES = 128, STRIDE_PAGES = PAGE + 128, Y_AT = 64, MAX_BODIES = 4, OUTCOMES = 256 };

struct pair { volatile uint32_t *x, *y; };
#define ST(p, v) __asm__ volatile("movl %1, %0" : "=m"(*(p)) : "i"(v) : "memory")
#define LD(p) ({ uint32_t v_; __asm__ volatile("movl %1, %0" : "=r"(v_) : "m"(*(p)) : "memory"); v_; })
#define XCHG(p, v) ({ uint32_t v_ = (v); __asm__ volatile("xchgl %0, %1" : "+r"(v_), "+m"(*(p)) : : "memory"); })
#define MFENCE() __asm__ volatile("mfence" ::: "memory")
#define LOCKED() __asm__ volatile("lock; addl $0, -64(%%rsp)" ::: "memory", "cc")
#define BODY(name, ...) static uint32_t name(struct pair p) { uint32_t r = 0; __VA_ARGS__; return r; }

// Results: up to two loads of a thread, two bits each.
BODY(sb_0, ST(p.x, 1); r = LD(p.y))
BODY(sb_1, ST(p.y, 1); r = LD(p.x))
BODY(sbf_0, ST(p.x, 1); MFENCE(); r = LD(p.y))
BODY(sbf_1, ST(p.y, 1); MFENCE(); r = LD(p.x))
BODY(sbl_0, ST(p.x, 1); LOCKED(); r = LD(p.y))
BODY(sbl_1, ST(p.y, 1); LOCKED(); r = LD(p.x))
BODY(sbx_0, XCHG(p.x, 1); r = LD(p.y))
BODY(sbx_1, XCHG(p.y, 1); r = LD(p.x))
BODY(mp_0, ST(p.x, 1); ST(p.y, 1))
BODY(mp_1, r = LD(p.y); r |= LD(p.x) << 2)
BODY(lb_0, r = LD(p.x); ST(p.y, 1))
BODY(lb_1, r = LD(p.y); ST(p.x, 1))
BODY(w_x, ST(p.x, 1))
BODY(w_y, ST(p.y, 1))
BODY(r_xy, r = LD(p.x); r |= LD(p.y) << 2)
BODY(r_yx, r = LD(p.y); r |= LD(p.x) << 2)
BODY(rf_xy, r = LD(p.x); MFENCE(); r |= LD(p.y) << 2)
BODY(rf_yx, r = LD(p.y); MFENCE(); r |= LD(p.x) << 2)
BODY(ww_0, ST(p.x, 1); ST(p.y, 2))
BODY(ww_1, ST(p.y, 1); ST(p.x, 2))
BODY(s_0, ST(p.x, 2); ST(p.y, 1))
BODY(s_1, r = LD(p.y); ST(p.x, 1))
BODY(r_0, ST(p.x, 1); ST(p.y, 1))
BODY(r_1, ST(p.y, 2); r = LD(p.x))
BODY(rf_0, ST(p.x, 1); MFENCE(); ST(p.y, 1))
BODY(rf_1, ST(p.y, 2); MFENCE(); r = LD(p.x))

// The outcome in question: results of the threads, and the words' values at the end where `final`.
static const struct test {
    const char *name;
    uint32_t (*body[MAX_BODIES])(struct pair p);
    uint32_t r[MAX_BODIES];
    bool final, allowed;
    uint32_t x, y;
} tests[] = {
    {.name = "SB", .body = {sb_0, sb_1}, .r = {0, 0}, .allowed = true},
    {.name = "SB+mfence", .body = {sbf_0, sbf_1}, .r = {0, 0}},
    {.name = "SB+locked", .body = {sbl_0, sbl_1}, .r = {0, 0}},
    {.name = "SB+xchg", .body = {sbx_0, sbx_1}, .r = {0, 0}},
    {.name = "MP", .body = {mp_0, mp_1}, .r = {0, 1}},
    {.name = "LB", .body = {lb_0, lb_1}, .r = {1, 1}},
    {.name = "IRIW", .body = {w_x, w_y, r_xy, r_yx}, .r = {0, 0, 1, 1}},
    {.name = "IRIW+mfence", .body = {w_x, w_y, rf_xy, rf_yx}, .r = {0, 0, 1, 1}},
    {.name = "2+2W", .body = {ww_0, ww_1}, .final = true, .x = 1, .y = 1},
    {.name = "S", .body = {s_0, s_1}, .r = {0, 1}, .final = true, .x = 2, .y = 1},
    {.name = "R", .body = {r_0, r_1}, .r = {0, 0}, .final = true, .x = 1, .y = 2, .allowed = true},
    {.name = "R+mfence", .body = {rf_0, rf_1}, .r = {0, 0}, .final = true, .x = 1, .y = 2},
};

static struct run {
    const struct test *t;
    unsigned threads;
    unsigned long batches, seen, other[OUTCOMES];
    uint64_t end;
    bool over;                                // set between the meetings
    uint8_t *memory;
    struct barrier barrier;
    uint32_t r[MAX_BODIES][BATCH];
} run;

static struct pair pair_of(unsigned long batch, unsigned i)
{
    uint8_t *at = run.memory + (uint64_t)i * (batch & 1 ? STRIDE_PAGES : STRIDE_LINES);
    return (struct pair){(volatile uint32_t *)at, (volatile uint32_t *)(at + Y_AT)};
}

static void count(unsigned long batch)
{
    const struct test *t = run.t;
    for (unsigned i = 0; i < BATCH; i++) {
        struct pair p = pair_of(batch, i);
        uint32_t outcome = 0;
        bool is = !t->final || (*p.x == t->x && *p.y == t->y);
        for (unsigned k = 0; k < run.threads; k++) {
            is &= run.r[k][i] == t->r[k];
            outcome |= run.r[k][i] << (run.threads > 2 ? (k - 2) * 4 : k * 4);
        }
        run.seen += is;
        run.other[outcome % OUTCOMES]++;
        *p.x = *p.y = 0;
    }
    run.batches++;
    run.over = run.batches >= 2 && now_ms() >= run.end;
}

static void thread(void *arg, unsigned i)
{
    uint32_t (*body)(struct pair p) = run.t->body[i];
    (void)arg;
    for (unsigned long n = 0;; n++) {
        barrier_wait(&run.barrier);
        if (run.over) return;
        for (unsigned k = 0; k < BATCH; k++) run.r[i][k] = body(pair_of(n, k));
        barrier_wait(&run.barrier);
        if (i == 0) count(n);
    }
}

void litmus(unsigned long ms)
{
    enum { TESTS = sizeof tests / sizeof *tests };
    run.memory = mmap(NULL, (uint64_t)BATCH * STRIDE_PAGES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (run.memory == MAP_FAILED) {
        fail("no memory");
        return;
    }
    for (unsigned n = 0; n < TESTS; n++) {
        run.t = &tests[n];
        run.threads = run.t->body[2] ? 4 : 2;
        run.batches = run.seen = 0;
        run.over = false;
        run.end = now_ms() + ms / TESTS;
        memset(run.other, 0, sizeof run.other);
        run.barrier = (struct barrier){.n = run.threads};
        threads_run(run.threads, true, thread, NULL);
        unsigned outcomes = 0;
        for (unsigned k = 0; k < OUTCOMES; k++) outcomes += run.other[k] != 0;
        printf("%-12s %lu of %lu times%s, %u outcomes of loads\n", run.t->name, run.seen, run.batches * BATCH,
               run.t->allowed ? " (allowed)" : " (forbidden)", outcomes);
        if (!run.t->allowed && run.seen) fail("litmus %s: forbidden outcome %lu times", run.t->name, run.seen);
    }
}
