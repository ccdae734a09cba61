// Page tables at work: faults, mappings, processes; and what a second processor makes of it: shootdowns.
#include <linux/membarrier.h>
#include <linux/mman.h>

#include "assay/linux/work.h"

enum { SPAN = 256 };      // pages that are touched at once: below 2 MiB, so that no huge page can serve them

static void touch(volatile u8 *p)
{
    for (u64 i = 0; i < SPAN; i++) p[i * PAGE_SIZE] = 1;
}

u64 work_fault_anon(u64 n)
{
    u64 ticks = 0;
    for (u64 done = 0; done < n; done += SPAN) {
        u8 *p = pages_get(SPAN * PAGE_SIZE);
        u64 start = ticks_now();
        touch(p);
        ticks += ticks_now() - start;
        pages_put(p, SPAN * PAGE_SIZE);
    }
    return ticks;
}

// Writes, since for reads the kernel maps the neighbours too. Shared: the page itself is mapped; private: a copy of it.
static u64 fault_mapped(u64 n, u64 flags)
{
    static u8 page[PAGE_SIZE];
    u64 ticks = 0;
    long fd = must(SYS(open, "mapped", O_RDWR | O_CREAT | O_TRUNC, 0600), "open");
    for (u64 i = 0; i < SPAN; i++) must_all(SYS(write, fd, page, PAGE_SIZE), PAGE_SIZE, "write");
    for (u64 done = 0; done < n; done += SPAN) {
        u8 *p = (u8 *)must(SYS(mmap, 0, SPAN * PAGE_SIZE, PROT_READ | PROT_WRITE, flags, fd, 0), "mmap of a file");
        u64 start = ticks_now();
        touch(p);
        ticks += ticks_now() - start;
        pages_put(p, SPAN * PAGE_SIZE);
    }
    SYS(close, fd);
    must(SYS(unlink, "mapped"), "unlink");
    return ticks;
}

u64 work_fault_file(u64 n) { return fault_mapped(n, MAP_SHARED); }
u64 work_fault_copy(u64 n) { return fault_mapped(n, MAP_PRIVATE); }

u64 work_mmap(u64 n)
{
    u64 start = ticks_now();
    while (n--) {
        long p = must(SYS(mmap, 0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
        must(SYS(munmap, p, 65536), "munmap");
    }
    return ticks_now() - start;
}

u64 work_fork(u64 n)
{
    u64 start = ticks_now();
    while (n--) {
        int pid = (int)must(SYS(fork), "fork");
        if (!pid) process_exit(0);
        process_wait(pid);
    }
    return ticks_now() - start;
}

u64 work_exec(u64 n)
{
    const char *const argv[] = {"ops", "--exit", NULL}, *const envp[] = {NULL};
    u64 start = ticks_now();
    while (n--) {
        int pid = (int)must(SYS(fork), "fork");
        if (!pid) {
            SYS(execve, work_env->self, argv, envp);
            process_exit(127);
        }
        process_wait(pid);
    }
    return ticks_now() - start;
}

// A thread that reads *page on the second processor until it is told to stop.
struct reader { volatile u8 *page; u32 started, stop; };

static void read_there(void *arg)
{
    struct reader *r = arg;
    pin(1);
    __atomic_store_n(&r->started, 1, __ATOMIC_RELEASE);
    futex_wake(&r->started, 1);
    while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) (void)*r->page;
}

static void reader_start(struct thread *t, struct reader *r)
{
    r->page = pages_get(PAGE_SIZE);
    *r->page = 1;
    thread_start(t, read_there, r);
    while (!__atomic_load_n(&r->started, __ATOMIC_ACQUIRE)) futex_wait(&r->started, 0);
}

static void reader_end(struct thread *t, struct reader *r)
{
    __atomic_store_n(&r->stop, 1, __ATOMIC_RELAXED);
    thread_wait(t);
    pages_put((void *)r->page, PAGE_SIZE);
}

u64 work_shootdown(u64 n)
{
    struct thread t;
    struct reader r = {0};
    reader_start(&t, &r);
    u64 start = ticks_now();
    for (u64 i = 0; i < n; i++) {
        must(SYS(mprotect, r.page, PAGE_SIZE, PROT_READ), "mprotect");                   // the other's TLB has to forget
        must(SYS(mprotect, r.page, PAGE_SIZE, PROT_READ | PROT_WRITE), "mprotect");
        *r.page = 1;
    }
    u64 ticks = ticks_now() - start;
    reader_end(&t, &r);
    return ticks;
}

u64 work_membarrier(u64 n)
{
    struct thread t;
    struct reader r = {0};
    must(SYS(membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0), "membarrier");
    reader_start(&t, &r);
    u64 start = ticks_now();
    for (u64 i = 0; i < n; i++) must(SYS(membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0), "membarrier");
    u64 ticks = ticks_now() - start;
    reader_end(&t, &r);
    return ticks;
}
