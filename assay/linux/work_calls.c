// The way into the kernel and back: system calls, the vDSO, signals; and how late the kernel's timers wake a process.
#include <asm/signal.h>
#include <linux/eventpoll.h>
#include <linux/time.h>
#include <linux/time_types.h>

#include "assay/linux/work.h"

u64 work_getpid(u64 n)
{
    u64 start = ticks_now();
    while (n--) SYS(getpid);
    return ticks_now() - start;
}

u64 work_clock_gettime(u64 n)
{
    struct __kernel_timespec t;
    vdso_clock *clock = vdso_find();
    u64 start = ticks_now();
    while (n--) clock(CLOCK_MONOTONIC, &t);
    return ticks_now() - start;
}

static volatile u64 signals;
static void handler(int sig) { signals++; }

u64 work_signal(u64 n)
{
    struct sigaction a = {.sa_handler = handler, .sa_flags = SA_RESTORER, .sa_restorer = signal_restorer};
    must(SYS(rt_sigaction, SIGUSR1, &a, 0, sizeof a.sa_mask), "sigaction");
    long pid = SYS(getpid), tid = SYS(gettid);
    signals = 0;
    u64 start = ticks_now();
    for (u64 i = 0; i < n; i++) SYS(tgkill, pid, tid, SIGUSR1);
    u64 ticks = ticks_now() - start;
    if (signals != n) die("signals got lost", 0);
    return ticks;
}

enum { SLEEP_NS = 100000 };
static u64 now_ns(void)
{
    struct __kernel_timespec t;
    must(SYS(clock_gettime, CLOCK_MONOTONIC, &t), "clock_gettime");
    return (u64)t.tv_sec * NS_PER_SEC + (u64)t.tv_nsec;
}

// How much longer than n sleeps the time since (ticks, ns) was, in ticks: the part of the ticks that is the late part of the nanoseconds.
static u64 late(u64 n, u64 ticks, u64 ns)
{
    ticks = ticks_now() - ticks;
    ns = now_ns() - ns;
    if (ns <= n * SLEEP_NS) die("a timer came early", 0);
    return (u64)((u128)ticks * (ns - n * SLEEP_NS) / ns);
}

u64 work_nanosleep(u64 n)
{
    struct __kernel_timespec t = {0, SLEEP_NS};
    u64 ns = now_ns(), ticks = ticks_now();
    for (u64 i = 0; i < n; i++) must(SYS(clock_nanosleep, CLOCK_MONOTONIC, 0, &t, 0), "clock_nanosleep");
    return late(n, ticks, ns);
}

u64 work_timerfd(u64 n)
{
    struct { struct __kernel_timespec interval, value; } once = {{0, 0}, {0, SLEEP_NS}};
    struct epoll_event event = {.events = EPOLLIN};
    u64 expired;
    long fd = must(SYS(timerfd_create, CLOCK_MONOTONIC, 0), "timerfd_create"), ep = must(SYS(epoll_create1, 0), "epoll_create");
    must(SYS(epoll_ctl, ep, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
    u64 ns = now_ns(), ticks = ticks_now();
    for (u64 i = 0; i < n; i++) {
        must(SYS(timerfd_settime, fd, 0, &once, 0), "timerfd_settime");
        must(SYS(epoll_wait, ep, &event, 1, -1), "epoll_wait");
        must_all(SYS(read, fd, &expired, 8), 8, "read of a timerfd");
    }
    ticks = late(n, ticks, ns);
    SYS(close, ep);
    SYS(close, fd);
    return ticks;
}
