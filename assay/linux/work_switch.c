// Processes and threads that wake one another: on one processor that is a switch each time, on two an interrupt between them.
#include <linux/net.h>

#include "assay/linux/work.h"

enum { AF_LOCAL = 1, STREAM = 1 };       // AF_UNIX, SOCK_STREAM: <sys/socket.h> is the C library's

// Two processes with a pipe each way; the other one on processor `cpu`.
static u64 ping_pong(u64 n, unsigned cpu)
{
    int there[2], back[2];
    u8 byte = 1;
    must(SYS(pipe2, there, 0), "pipe");
    must(SYS(pipe2, back, 0), "pipe");
    int pid = process_fork();
    if (!pid) {
        pin(cpu);
        SYS(close, there[1]);
        while (SYS(read, there[0], &byte, 1) == 1) must_all(SYS(write, back[1], &byte, 1), 1, "write to a pipe");
        process_exit(0);
    }
    SYS(close, there[0]);
    SYS(close, back[1]);
    u64 start = 0;
    for (u64 i = 0; i <= n; i++) {                 // once more, not timed: the child has to come up
        if (i == 1) start = ticks_now();
        must_all(SYS(write, there[1], &byte, 1), 1, "write to a pipe");
        must_all(SYS(read, back[0], &byte, 1), 1, "read from a pipe");
    }
    u64 ticks = ticks_now() - start;
    SYS(close, there[1]);
    process_wait(pid);
    SYS(close, back[0]);
    return ticks;
}

u64 work_pipe(u64 n) { return ping_pong(n, 0); }
u64 work_pipe_smp(u64 n) { return ping_pong(n, 1); }

struct ring { u32 turn; unsigned cpu; u64 n; };

// Waits for its turn, 0 or 1, and gives it to the other.
static void take_turn(struct ring *r, u32 mine)
{
    while (__atomic_load_n(&r->turn, __ATOMIC_ACQUIRE) != mine) futex_wait(&r->turn, !mine);
    __atomic_store_n(&r->turn, !mine, __ATOMIC_RELEASE);
    futex_wake(&r->turn, 1);
}

static void partner(void *arg)
{
    struct ring *r = arg;
    pin(r->cpu);
    for (u64 i = 0; i <= r->n; i++) take_turn(r, 1);
}

static u64 turns(u64 n, unsigned cpu)
{
    struct ring r = {0, cpu, n};
    struct thread t;
    thread_start(&t, partner, &r);
    u64 start = 0;
    for (u64 i = 0; i <= n; i++) {
        take_turn(&r, 0);
        while (__atomic_load_n(&r.turn, __ATOMIC_ACQUIRE) != 0) futex_wait(&r.turn, 1);
        if (i == 0) start = ticks_now();           // the partner is there
    }
    u64 ticks = ticks_now() - start;
    thread_wait(&t);
    return ticks;
}

u64 work_futex(u64 n) { return turns(n, 0); }
u64 work_futex_smp(u64 n) { return turns(n, 1); }

// 64 threads begin when `go` is set; the last to finish notes the time.
enum { CROWD = 64 };
struct crowd { u32 go, left; u64 each, end; };

static void one_of_crowd(void *arg)
{
    struct crowd *c = arg;
    while (!__atomic_load_n(&c->go, __ATOMIC_ACQUIRE)) futex_wait(&c->go, 0);
    for (u64 i = 0; i < c->each; i++) SYS(sched_yield);
    if (__atomic_sub_fetch(&c->left, 1, __ATOMIC_ACQ_REL) == 0) c->end = ticks_now();
}

u64 work_yield(u64 n)
{
    struct crowd c = {.left = CROWD, .each = n / CROWD};
    struct thread t[CROWD];
    for (unsigned i = 0; i < CROWD; i++) thread_start(&t[i], one_of_crowd, &c);
    u64 start = ticks_now();
    __atomic_store_n(&c.go, 1, __ATOMIC_RELEASE);
    futex_wake(&c.go, CROWD);
    for (unsigned i = 0; i < CROWD; i++) thread_wait(&t[i]);
    return c.end - start;
}

static void nothing(void *arg) {}

u64 work_thread(u64 n)
{
    u64 start = ticks_now();
    while (n--) {
        struct thread t;
        thread_start(&t, nothing, NULL);
        thread_wait(&t);
    }
    return ticks_now() - start;
}

enum { PIECE = 4096 };

static NORETURN void drain(int fd, u64 n)
{
    static u8 piece[PIECE];
    for (u64 got = 0; got < n;) {
        long r = SYS(read, fd, piece, PIECE);
        if (r <= 0) process_exit(1);
        got += (u64)r;
    }
    must_all(SYS(write, fd, piece, 1), 1, "write to a socket");
    process_exit(0);
}

u64 work_stream(u64 n)
{
    static u8 piece[PIECE];
    int fd[2];
    must(SYS(socketpair, AF_LOCAL, STREAM, 0, fd), "socketpair");
    int pid = process_fork();
    if (!pid) {
        SYS(close, fd[0]);
        drain(fd[1], n);
    }
    SYS(close, fd[1]);
    u64 start = ticks_now();
    for (u64 i = 0; i < n / PIECE; i++) must_all(SYS(write, fd[0], piece, PIECE), PIECE, "write to a socket");
    must_all(SYS(read, fd[0], piece, 1), 1, "read from a socket");
    u64 ticks = ticks_now() - start;
    process_wait(pid);
    SYS(close, fd[0]);
    return ticks;
}
