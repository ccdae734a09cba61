// Linux system calls without libc: general registers only, so they may be used while the guest's vector and x87 state is in the
// host's registers. They return -errno. Any context.
#pragma once

#include <sys/syscall.h>

#include "kernel/base/types.h"

static inline long sys_call(long nr, long a, long b, long c, long d)
{
    long ret;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return ret;
}

static inline long sys_write(int fd, const void *p, size_t n) { return sys_call(SYS_write, fd, (long)p, (long)n, 0); }
static inline long sys_read(int fd, void *p, size_t n) { return sys_call(SYS_read, fd, (long)p, (long)n, 0); }
NORETURN static inline void sys_exit(int code)
{
    for (;;) sys_call(SYS_exit_group, code, 0, 0, 0);
}
