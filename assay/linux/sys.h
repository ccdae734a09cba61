// Linux as the ops program sees it: system calls without a C library, so that what is measured is the call and nothing beside it, and so
// that the program is small enough to be the whole RAM disk. Everything here is for the process that calls it; a call returns -errno as
// the kernel gives it.
#pragma once

#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>

#include "kernel/base/types.h"

static inline long sys6(long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
    register u64 r10 __asm__("r10") = d;
    register u64 r8 __asm__("r8") = e;
    register u64 r9 __asm__("r9") = f;
    long ret;
    __asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return ret;
}
#define SYS_PICK(a0, a1, a2, a3, a4, a5, a6, ...) sys6(a0, (u64)(a1), (u64)(a2), (u64)(a3), (u64)(a4), (u64)(a5), (u64)(a6))
// SYS(read, fd, buf, n): the call by its name, with up to six arguments.
#define SYS(...) SYS_EXPAND(__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define SYS_EXPAND(name, ...) SYS_PICK(__NR_##name, __VA_ARGS__, 0)

// The processor's time stamp, when everything before it has been done (SDM 2B RDTSC).
static inline u64 ticks_now(void)
{
    __asm__ volatile("lfence" ::: "memory");
    return __builtin_ia32_rdtsc();
}

// start.S: see there.
long thread_clone(u64 flags, void *stack_top, u32 *tid, void (*fn)(void *), void *arg);
void signal_restorer(void);

// Ends the run: prints "ASSAY error OP: WHAT: error N", then powers off (as process 1) or exits. Any thread or child.
NORETURN void die(const char *what, long error);
// A call that must not fail: its result, or the end.
static inline long must(long ret, const char *what)
{
    if (ret < 0) die(what, -ret);
    return ret;
}
// The call must have moved exactly n bytes.
static inline void must_all(long ret, u64 n, const char *what)
{
    if (must(ret, what) != (long)n) die(what, 0);
}

// Anonymous memory in 4 KiB pages, zero and not yet there.
void *pages_get(u64 bytes);
void pages_put(void *p, u64 bytes);

// Threads that share everything with their creator. A thread must be waited for.
enum { THREAD_STACK = 16384 };
struct thread { u32 tid; u8 *stack; };
void thread_start(struct thread *t, void (*fn)(void *), void *arg);
void thread_wait(struct thread *t);
void futex_wait(u32 *word, u32 seen);      // until somebody wakes it, if *word is `seen`; may return early
void futex_wake(u32 *word, u32 n);
// The calling thread runs on the nth of the processors that this process may use, only there.
void pin(unsigned n);

// A child that dies with its parent: 0 in the child, which ends by process_exit.
int process_fork(void);
NORETURN void process_exit(int code);
void process_wait(int pid);                // it must have ended with code 0
