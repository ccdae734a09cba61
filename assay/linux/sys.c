// Threads, processes and memory by bare system calls.
//
// A thread's end is told by the kernel (CLONE_CHILD_CLEARTID): it clears the tid and wakes whoever waits, after the thread has left its
// stack for good, which is when the stack may be unmapped.
#include <asm/signal.h>
#include <linux/futex.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/sched.h>

#include "assay/linux/work.h"

void *pages_get(u64 bytes)
{
    void *p = (void *)must(SYS(mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
    SYS(madvise, p, bytes, MADV_NOHUGEPAGE);       // (a kernel without huge pages refuses, and has none)
    return p;
}

void pages_put(void *p, u64 bytes) { must(SYS(munmap, p, bytes), "munmap"); }

void thread_start(struct thread *t, void (*fn)(void *), void *arg)
{
    t->stack = pages_get(THREAD_STACK);
    u64 flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    must(thread_clone(flags, t->stack + THREAD_STACK, &t->tid, fn, arg), "clone");
}

void thread_wait(struct thread *t)
{
    // Not private: the kernel's wake at a thread's end is not.
    for (u32 tid; (tid = __atomic_load_n(&t->tid, __ATOMIC_ACQUIRE)) != 0;) SYS(futex, &t->tid, FUTEX_WAIT, tid, 0);
    pages_put(t->stack, THREAD_STACK);
}

void futex_wait(u32 *word, u32 seen) { SYS(futex, word, FUTEX_WAIT_PRIVATE, seen, 0); }
void futex_wake(u32 *word, u32 n) { must(SYS(futex, word, FUTEX_WAKE_PRIVATE, n), "futex"); }

void pin(unsigned n)
{
    u64 mask[128] = {0};
    unsigned cpu = work_env->cpu[n];
    mask[cpu / 64] = 1ull << cpu % 64;
    must(SYS(sched_setaffinity, 0, sizeof mask, mask), "sched_setaffinity");
}

int process_fork(void)
{
    int pid = (int)must(SYS(fork), "fork");
    if (!pid) must(SYS(prctl, PR_SET_PDEATHSIG, SIGKILL), "prctl");
    return pid;
}

void process_exit(int code)
{
    for (;;) SYS(exit_group, code);
}

void process_wait(int pid)
{
    int status = 0;
    must(SYS(wait4, pid, &status, 0, 0), "wait4");
    if (status) die("a child process failed", status);
}
