// Translations that another processor takes away: pages are exchanged, write-protected and unmapped under the hands of threads that use
// them. What the kernel's call has returned from must hold for everybody.
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "smp.h"

enum { THREADS = 4, PAGES = 512, UNMAPPED = 0x5a5a5a5a };

static struct {
    uint8_t *at;
    int fd;
    uint64_t end;
    uint32_t stop, now, there;                // now: what the page holds at least; there: 0 while it is unmapped
    unsigned long n, uses[THREADS], faults;
    void (*writer)(void), (*user)(unsigned i);
} s;

static bool over(void) { return __atomic_load_n(&s.stop, __ATOMIC_RELAXED); }
static void put_u32(void *p, uint32_t v) { *(volatile uint32_t *)p = v; }
static uint32_t get_u32(const void *p) { return *(const volatile uint32_t *)p; }

// Page n of the file holds n. A reader must not see a page older than the one announced.
static void exchange_writer(void)
{
    for (uint32_t v = 1; !s.n || now_ms() < s.end; v++, s.n++) {
        if (v % PAGES == 0) continue;         // (page 0 would look older: numbers begin anew with the next part)
        uint8_t *w = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, v % PAGES * PAGE);
        put_u32(w, v);
        munmap(w, PAGE);
        if (mmap(s.at, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, s.fd, v % PAGES * PAGE) == MAP_FAILED) fail("shootdown: mmap");
        __atomic_store_n(&s.now, v, __ATOMIC_RELEASE);
    }
}

static void exchange_user(unsigned i)
{
    for (; !s.uses[i] || !over(); s.uses[i]++) {
        uint32_t least = __atomic_load_n(&s.now, __ATOMIC_ACQUIRE), v = get_u32(s.at);
        if (v < least) fail("shootdown: exchange: %u after %u was mapped", v, least);
    }
}

// While the page is read-only nobody may change it; stores fault and are tried again.
static void protect_writer(void)
{
    for (; !s.n || now_ms() < s.end; s.n++) {
        mprotect(s.at, PAGE, PROT_READ);
        uint32_t v[THREADS];
        for (unsigned t = 0; t < THREADS; t++) v[t] = get_u32(s.at + 64 * t);
        for (unsigned k = 0; k < 2000; k++)
            for (unsigned t = 1; t < THREADS; t++)
                if (get_u32(s.at + 64 * t) != v[t]) {
                    fail("shootdown: a read-only page was written");
                    v[t] = get_u32(s.at + 64 * t);
                }
        mprotect(s.at, PAGE, PROT_READ | PROT_WRITE);
        for (unsigned k = 0; k < 100; k++) __builtin_ia32_pause();
    }
}

static void protect_user(unsigned i)
{
    for (; !s.uses[i] || !over(); s.uses[i]++) put_u32(s.at + 64 * i, (uint32_t)s.uses[i]);
}

// After munmap has returned a load must fault: the handler makes it UNMAPPED.
static void unmap_writer(void)
{
    for (uint32_t v = 1; !s.n || now_ms() < s.end; v++, s.n++) {
        mmap(s.at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        put_u32(s.at, v);
        __atomic_store_n(&s.there, v, __ATOMIC_SEQ_CST);
        for (unsigned k = 0; k < 300; k++) __builtin_ia32_pause();
        __atomic_store_n(&s.there, 0, __ATOMIC_SEQ_CST);
        munmap(s.at, PAGE);
        __atomic_store_n(&s.now, v, __ATOMIC_SEQ_CST);   // v is gone for good
    }
}

static uint32_t load_or_fault(const void *p)
{
    uint32_t v;
    __asm__ volatile("movl (%%rdx), %%eax" : "=a"(v) : "d"(p) : "memory");
    return v;
}

static void unmap_user(unsigned i)
{
    for (; !s.uses[i] || !over(); s.uses[i]++) {
        uint32_t gone = __atomic_load_n(&s.now, __ATOMIC_SEQ_CST), v = load_or_fault(s.at);
        if (v != UNMAPPED && v && v <= gone) fail("shootdown: unmap: %u is read after munmap of %u", v, gone);
    }
}

static void on_fault(int sig, siginfo_t *si, void *ucv)
{
    ucontext_t *uc = ucv;
    (void)sig;
    if ((uint8_t *)si->si_addr < s.at || (uint8_t *)si->si_addr >= s.at + PAGE) {
        static const char text[] = "FAIL shootdown: a fault elsewhere\n";
        if (write(1, text, sizeof text - 1)) _exit(1);
        _exit(1);
    }
    __atomic_fetch_add(&s.faults, 1, __ATOMIC_RELAXED);
    const uint8_t *code = (const uint8_t *)uc->uc_mcontext.gregs[REG_RIP];
    if (s.user != unmap_user || code[0] != 0x8b || code[1] != 0x02) return;      // tried again
    uc->uc_mcontext.gregs[REG_RAX] = UNMAPPED;
    uc->uc_mcontext.gregs[REG_RIP] += 2;
}

static void thread(void *arg, unsigned i)
{
    (void)arg;
    if (i) {
        s.user(i);
        return;
    }
    s.writer();
    __atomic_store_n(&s.stop, 1, __ATOMIC_SEQ_CST);
}

static void part(const char *name, void (*writer)(void), void (*user)(unsigned), unsigned long ms)
{
    s.writer = writer;
    s.user = user;
    s.end = now_ms() + ms;
    s.stop = s.now = s.there = 0;
    s.n = s.faults = 0;
    memset(s.uses, 0, sizeof s.uses);
    mmap(s.at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    threads_run(THREADS, true, thread, NULL);
    printf("shootdown %s: %lu rounds, %lu uses, %lu faults\n", name, s.n, s.uses[1] + s.uses[2] + s.uses[3], s.faults);
}

void shootdown(unsigned long ms)
{
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &sa, NULL);
    s.fd = memfd_create("pages", 0);
    s.at = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s.fd < 0 || s.at == MAP_FAILED || ftruncate(s.fd, (long)PAGES * PAGE)) {
        fail("shootdown: no memory");
        return;
    }
    part("exchange", exchange_writer, exchange_user, ms);
    part("protect", protect_writer, protect_user, ms);
    part("unmap", unmap_writer, unmap_user, ms);
}
