// The parts' common ground, and the choice among them: smp PART NUMBER.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "smp.h"

static unsigned n_failures;

void fail(const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (__atomic_fetch_add(&n_failures, 1, __ATOMIC_RELAXED) < 20) printf("FAIL %s\n", text);
}

unsigned failures(void) { return n_failures; }
unsigned processors(void) { return (unsigned)sysconf(_SC_NPROCESSORS_ONLN); }

uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void relax(unsigned turn)
{
    __builtin_ia32_pause();
    if (turn % 256 == 255) sched_yield();
}

void serialise(void)
{
    unsigned a = 0, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

void barrier_wait(struct barrier *b)
{
    unsigned round = __atomic_load_n(&b->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&b->here, 1, __ATOMIC_ACQ_REL) == b->n) {
        __atomic_store_n(&b->here, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&b->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (unsigned n = 0; __atomic_load_n(&b->round, __ATOMIC_ACQUIRE) == round; n++) relax(n);
}

struct start { void (*fn)(void *arg, unsigned i); void *arg; unsigned i; bool pin; };

static void *thread(void *opaque)
{
    struct start *s = opaque;
    if (s->pin) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(s->i % processors(), &set);
        sched_setaffinity(0, sizeof set, &set);          // not allowed where the test is confined: it goes on unpinned
    }
    s->fn(s->arg, s->i);
    return NULL;
}

void threads_run(unsigned n, bool pin, void (*fn)(void *arg, unsigned i), void *arg)
{
    struct start s[MAX_THREADS];
    pthread_t t[MAX_THREADS];
    for (unsigned i = 0; i < n; i++) {
        s[i] = (struct start){fn, arg, i, pin};
        if (pthread_create(&t[i], NULL, thread, &s[i])) {
            fail("pthread_create %u", i);
            _exit(1);
        }
    }
    for (unsigned i = 0; i < n; i++) pthread_join(t[i], NULL);
}

int main(int argc, char **argv)
{
    static const struct { const char *name; void (*fn)(unsigned long); } parts[] = {
        {"litmus", litmus}, {"atomics", atomics}, {"code", code}, {"shootdown", shootdown}, {"stress", stress}};
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 3 && !strcmp(argv[1], "child")) return stress_child(argv[2]);
    for (unsigned i = 0; argc == 3 && i < sizeof parts / sizeof *parts; i++) {
        if (strcmp(argv[1], parts[i].name)) continue;
        uint64_t start = now_ms();
        parts[i].fn(strtoul(argv[2], NULL, 0));
        printf("%s: %u failures, %llu ms\n", argv[1], failures(), (unsigned long long)(now_ms() - start));
        return failures() ? 1 : 0;
    }
    printf("usage: smp litmus MS | atomics ROUNDS | code MS | shootdown MS | stress MS\n");
    return 2;
}
