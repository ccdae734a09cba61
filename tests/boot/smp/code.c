// Code that another thread writes. A writer changes functions and says so with a flag; a caller sees the flag, executes a serialising
// instruction and must then run what was written, however the engine caches it.
//
//   beside   functions on one page, rewritten in place
//   alias    the same through another mapping of a memory file
//   fresh    a new page each time, at an address that was another function's a moment ago
//   remapped the page is exchanged by mmap over it
//   behind   what is rewritten follows the serialising instruction in one straight piece of code with the look at the flag
//   racing   the caller does not wait: while an aligned operand is being rewritten it must see the values in order, and the last one
//            after the flag
//   data     words beside a function on its page are stored to all the time: the function must get on
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "smp.h"

enum { THREADS = 4, SLOTS = 32, SLOT = 128, RACES = 200, DATA_AT = 2048 };

static struct {
    uint8_t *rx, *rw;                         // where it runs, where it is written
    int fd;
    uint64_t end;
    unsigned long n;                          // rounds done
    // ---- the flag: the writer's round, and the value that the functions now have; 0 in stop: go on ----
    uint32_t round, value, stop;
    uint8_t *entry;
    uint32_t seen[THREADS];                   // rounds that each caller has finished
    unsigned long calls[THREADS];
    void (*step)(uint32_t round);
} s;

// mov eax, imm32; ret. The operand is at an aligned address; of several lengths, so that old and new functions overlap in many ways.
static void function_write(uint8_t *at, uint32_t value, unsigned nops)
{
    uint8_t c[SLOT];
    unsigned n = 0;
    for (; n < 3 + nops; n++) c[n] = 0x90;
    c[n++] = 0xb8;
    memcpy(c + n, &value, 4);
    n += 4;
    c[n++] = 0xc3;
    memcpy(at, c, n);
}

static uint32_t call(const uint8_t *at)
{
    uint32_t r;
    __asm__ volatile("call *%1" : "=a"(r) : "r"(at) : "memory", "cc");
    return r;
}

static void publish(uint32_t round, uint32_t value, uint8_t *entry)
{
    s.value = value;
    s.entry = entry;
    __atomic_store_n(&s.round, round, __ATOMIC_RELEASE);
    for (unsigned t = 1; t < THREADS; t++)
        for (unsigned n = 0; __atomic_load_n(&s.seen[t], __ATOMIC_ACQUIRE) != round; n++) relax(n);
}

static void step_beside(uint32_t round)
{
    unsigned off = round % SLOTS * SLOT;
    function_write(s.rw + off, round, round / SLOTS % 4 * 4);
    publish(round, round, s.rx + off);
}

static void step_fresh(uint32_t round)
{
    uint8_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        fail("code: mmap");
        page = s.rw;
    }
    function_write(page, round, 0);
    publish(round, round, page);
    munmap(page, PAGE);
}

// Page 1 + round % 2 of the file holds the function; both are rewritten through the second mapping now and then.
static void step_remapped(uint32_t round)
{
    unsigned k = 1 + round % 2;
    static uint32_t value[3];
    if (round <= 2 || round % 8 < 2) {
        value[k] = round;
        function_write(s.rw + k * PAGE, round, 0);
    }
    if (mmap(s.rx, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, s.fd, k * PAGE) == MAP_FAILED) fail("code: remap");
    publish(round, value[k], s.rx);
}

static void caller_waits(unsigned i)
{
    for (uint32_t want = 1;; want++) {
        for (unsigned n = 0; __atomic_load_n(&s.round, __ATOMIC_ACQUIRE) != want; n++) {
            if (__atomic_load_n(&s.stop, __ATOMIC_RELAXED)) return;
            relax(n);
        }
        serialise();
        for (unsigned k = 0; k < 3; k++) {
            uint32_t got = call(s.entry);
            if (got != s.value) fail("code: round %u: %u, not %u (call %u of thread %u)", want, got, s.value, k, i);
        }
        __atomic_store_n(&s.seen[i], want, __ATOMIC_RELEASE);
    }
}

static void waits_thread(void *arg, unsigned i)
{
    (void)arg;
    if (i) {
        caller_waits(i);
        return;
    }
    for (uint32_t round = 1; !s.n || now_ms() < s.end; round++, s.n++) s.step(round);
    __atomic_store_n(&s.stop, 1, __ATOMIC_RELEASE);
}

// ---- behind ----------------------------------------------------------------------------------------------------------------

enum { BEHIND_VALUE = 39, BEHIND_TURNS = 200 };
// again: dec edx; jz out; 12 times pause; mov eax, [rdi]; cmp eax, esi; jne again; xor eax, eax; cpuid; mov eax, imm32; ret; out: or eax,
// -1; ret The pauses are there for the writer to come in between.
#define PAUSES_4 0xf3, 0x90, 0xf3, 0x90, 0xf3, 0x90, 0xf3, 0x90
static const uint8_t behind[] = {0xff, 0xca, 0x74, 0x28, PAUSES_4, PAUSES_4, PAUSES_4, 0x8b, 0x07, 0x39, 0xf0, 0x75, 0xde, 0x31, 0xc0, 0x0f, 0xa2,
                                 0xb8, 0, 0, 0, 0, 0xc3, 0x83, 0xc8, 0xff, 0xc3};

static void behind_thread(void *arg, unsigned i)
{
    (void)arg;
    if (!i) {
        for (uint32_t round = 1; !s.n || now_ms() < s.end; round++, s.n++) {
            memcpy(s.rw + BEHIND_VALUE, &round, 4);
            publish(round, round, s.rx);
        }
        __atomic_store_n(&s.stop, 1, __ATOMIC_RELEASE);
        return;
    }
    for (uint32_t want = 1; !__atomic_load_n(&s.stop, __ATOMIC_RELAXED);) {
        uint32_t got, turns = BEHIND_TURNS;
        __asm__ volatile("call *%2" : "=a"(got), "+d"(turns) : "r"(s.rx), "D"(&s.round), "S"(want) : "rbx", "rcx", "memory", "cc");
        if (got == ~0u) {
            relax(255);
            continue;
        }
        if (got != want) fail("code: behind: %u, not %u", got, want);
        __atomic_store_n(&s.seen[i], want++, __ATOMIC_RELEASE);
    }
}

// ---- racing ----------------------------------------------------------------------------------------------------------------

static void racing_writer(void)
{
    uint32_t v = 0;
    for (uint32_t round = 1; !s.n || now_ms() < s.end; round++, s.n++) {
        for (unsigned n = 0; n < RACES; n++) *(volatile uint32_t *)(s.rw + 4) = ++v;
        publish(round, v, s.rx);
    }
    __atomic_store_n(&s.stop, 1, __ATOMIC_RELEASE);
}

static void racing_caller(unsigned i)
{
    uint32_t last = 0;
    for (uint32_t want = 1; !__atomic_load_n(&s.stop, __ATOMIC_RELAXED); s.calls[i]++) {
        uint32_t got = call(s.rx);
        if (got < last) fail("code: racing: %u after %u", got, last);
        last = got;
        if (s.calls[i] % 1024 == 0) relax(255);             // the writer may be waiting for this processor
        if (__atomic_load_n(&s.round, __ATOMIC_ACQUIRE) != want) continue;
        serialise();
        got = call(s.rx);
        if (got != s.value) fail("code: racing: %u, not %u", got, s.value);
        last = got;
        __atomic_store_n(&s.seen[i], want++, __ATOMIC_RELEASE);
    }
}

static void racing_thread(void *arg, unsigned i)
{
    (void)arg;
    if (i) racing_caller(i);
    else racing_writer();
}

// ---- data beside code ------------------------------------------------------------------------------------------------------

static void data_thread(void *arg, unsigned i)
{
    uint64_t *word = (uint64_t *)(s.rw + DATA_AT) + i;
    uint64_t n = 0;
    (void)arg;
    for (; !s.calls[i] || now_ms() < s.end; s.calls[i]++)
        for (unsigned k = 0; k < 100; k++) {
            if (i & 1) *(volatile uint64_t *)word = ++n;
            else if (call(s.rx) != 77) fail("code: data: wrong value");
        }
    if (i & 1 && *word != n) fail("code: data: word %u is %llu, not %llu", i, (unsigned long long)*word, (unsigned long long)n);
}

// ---- all -----------------------------------------------------------------------------------------------------------------------

static void prepare(bool alias, unsigned long ms)
{
    int fd = s.fd;
    memset(&s, 0, sizeof s);
    s.fd = fd;
    s.rx = mmap(NULL, PAGE, PROT_READ | PROT_EXEC | (alias ? 0 : PROT_WRITE), MAP_SHARED, fd, 0);
    s.rw = alias ? mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : s.rx;
    if (s.rx == MAP_FAILED || s.rw == MAP_FAILED) fail("code: mmap");
    s.end = now_ms() + ms;
}

static void waits(const char *name, bool alias, void (*step)(uint32_t), unsigned long ms)
{
    prepare(alias, ms);
    s.step = step;
    threads_run(THREADS, false, waits_thread, NULL);
    printf("code %s: %lu rounds\n", name, s.n);
}

void code(unsigned long ms)
{
    s.fd = memfd_create("code", 0);
    if (s.fd < 0 || ftruncate(s.fd, 3 * PAGE)) {
        fail("code: no memory file");
        return;
    }
    waits("beside", false, step_beside, ms);
    waits("alias", true, step_beside, ms);
    waits("fresh", false, step_fresh, ms);
    waits("remapped", true, step_remapped, ms);
    for (unsigned alias = 0; alias < 2; alias++) {
        prepare(alias, ms);
        memcpy(s.rw, behind, sizeof behind);
        threads_run(THREADS, false, behind_thread, NULL);
        printf("code behind%s: %lu rounds\n", alias ? " alias" : "", s.n);
        prepare(alias, ms);
        function_write(s.rw, 0, 0);
        threads_run(THREADS, false, racing_thread, NULL);
        printf("code racing%s: %lu rounds, calls %lu %lu %lu\n", alias ? " alias" : "", s.n, s.calls[1], s.calls[2], s.calls[3]);
    }
    prepare(false, ms);
    function_write(s.rw, 77, 0);
    threads_run(THREADS, false, data_thread, NULL);
    printf("code data: hundreds of calls %lu %lu, of stores %lu %lu\n", s.calls[0], s.calls[2], s.calls[1], s.calls[3]);
}
