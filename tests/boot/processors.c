// Preloaded into the emulator by smp_test.py: it is told of PROCESSORS processors, however few it has. Its cores are then threads that the
// host's scheduler stops anywhere, in the midst of a lock, an interrupt handler or the entry to translated code: as where other work takes
// the processors away (a container with a quota, taskset on a running process).
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set)
{
    const char *want = getenv("PROCESSORS");
    long got = syscall(SYS_sched_getaffinity, pid, size, set);
    if (got < 0 || !want) return got < 0 ? -1 : 0;
    for (size_t i = (size_t)got; i < size; i++) ((unsigned char *)set)[i] = 0;      // as libc's: the kernel writes what it has
    for (int cpu = 0; CPU_COUNT_S(size, set) < atoi(want); cpu++) CPU_SET_S((size_t)cpu, size, set);
    return 0;
}
