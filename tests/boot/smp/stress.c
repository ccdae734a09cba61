// Everything that the kernel does between processors, at once, for a while, each kind checking itself: processes come and go, pipes, locks
// and condition variables, memory that is mapped and unmapped, signals and timers, and vector registers that must survive all of it.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "smp.h"

extern char **environ;
static uint64_t end_ms;
static uint32_t stop;

// May a thread that has done n rounds end?
static bool over(unsigned long n)
{
    if (!n) return false;
    if (now_ms() >= end_ms) __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
    return __atomic_load_n(&stop, __ATOMIC_ACQUIRE);
}

int stress_child(const char *arg) { return atoi(arg) & 0x7f; }

static int wait_for(pid_t pid)
{
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return status;
}

// fork and exec: the exit status comes back; memory of parent and child is their own.
static unsigned long processes(unsigned seed)
{
    unsigned long n = 0;
    static __thread volatile unsigned mine;
    for (; !over(n); n++) {
        unsigned want = (seed + (unsigned)n * 7) & 0x7f;
        char text[16];
        snprintf(text, sizeof text, "%u", want);
        char *argv[] = {"smp", "child", text, NULL};
        mine = want;
        pid_t pid;
        if (n & 1) {
            if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ)) pid = -1;
        } else {
            pid = fork();
            if (!pid && n & 2) {
                mine += 1000;
                _exit(mine == want + 1000 ? (int)want : 126);
            }
            if (!pid) {
                execv("/proc/self/exe", argv);
                _exit(127);
            }
        }
        if (pid < 0) {
            fail("stress: no process: %d", errno);
            break;
        }
        int status = wait_for(pid);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != (int)want) fail("stress: process ended with %#x, not %u", status, want);
        if (mine != want) fail("stress: the child wrote the parent's memory");
    }
    return n;
}

static bool all(ssize_t (*fn)(int, void *, size_t), int fd, void *buf, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = fn(fd, (char *)buf + at, len - at);
        if (n > 0) at += (size_t)n;
        else if (n == 0 || errno != EINTR) return false;
    }
    return true;
}

static ssize_t do_write(int fd, void *buf, size_t len) { return write(fd, buf, len); }

// A process that echoes what comes through a pipe.
static unsigned long pipes(unsigned seed)
{
    int to[2], from[2];
    unsigned long n = 0;
    uint32_t out[512], in[512];
    if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC)) {
        fail("stress: pipe");
        return 0;
    }
    pid_t pid = fork();
    if (!pid) {
        close(to[1]);
        close(from[0]);
        while (all(read, to[0], in, sizeof in) && all(do_write, from[1], in, sizeof in)) {}
        _exit(0);
    }
    close(to[0]);
    close(from[1]);
    for (; !over(n); n++) {
        for (unsigned k = 0; k < 512; k++) out[k] = seed + (uint32_t)n * 512 + k;
        if (!all(do_write, to[1], out, sizeof out) || !all(read, from[0], in, sizeof in)) {
            fail("stress: the pipe broke: %d", errno);
            break;
        }
        if (memcmp(in, out, sizeof in)) fail("stress: the pipe gave something else");
    }
    close(to[1]);
    close(from[0]);
    wait_for(pid);
    return n;
}

// Two kinds of waiting: a lock, and a condition handed around.
static struct { pthread_mutex_t lock; pthread_cond_t cond; unsigned turn, waiting; uint64_t plain; } futex =
    {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
static uint64_t futex_rounds;

static unsigned long futexes(unsigned which)
{
    unsigned long n = 0;
    for (; !over(n); n++) {
        pthread_mutex_lock(&futex.lock);
        futex.plain++;
        if (n % 4 == 0) {
            futex.turn = which;
            pthread_cond_broadcast(&futex.cond);
            for (unsigned k = 0; futex.turn == which && k < 2 && !over(n); k++) {
                struct timespec t;
                clock_gettime(CLOCK_REALTIME, &t);
                t.tv_nsec += 2000000;
                if (t.tv_nsec >= 1000000000) {
                    t.tv_nsec -= 1000000000;
                    t.tv_sec++;
                }
                pthread_cond_timedwait(&futex.cond, &futex.lock, &t);
            }
        }
        pthread_mutex_unlock(&futex.lock);
    }
    __atomic_fetch_add(&futex_rounds, n, __ATOMIC_RELAXED);
    return n;
}

// Anonymous memory: fresh pages are zero, written ones keep what was written, protection and moving change nothing else.
static unsigned long mappings(unsigned seed)
{
    unsigned long n = 0;
    for (; !over(n); n++) {
        size_t pages = 1 + (seed + n) % 24, len = pages * PAGE;
        uint64_t *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            fail("stress: mmap: %d", errno);
            break;
        }
        for (size_t k = 0; k < pages; k++) {
            uint64_t *at = p + k * (PAGE / 8) + (n & 511);
            if (*at) fail("stress: a fresh page holds %#llx", (unsigned long long)*at);
            *at = n ^ k << 32 ^ seed;
        }
        mprotect(p, len, PROT_READ);
        if (n & 1) {
            uint64_t *q = mremap(p, len, len + PAGE, MREMAP_MAYMOVE);
            if (q == MAP_FAILED) fail("stress: mremap");
            else p = q, len += PAGE;
        }
        mprotect(p, len, PROT_READ | PROT_WRITE);
        for (size_t k = 0; k < pages; k++)
            if (p[k * (PAGE / 8) + (n & 511)] != (n ^ k << 32 ^ seed)) fail("stress: a page lost its contents");
        if (n % 3 == 0 && madvise(p, len, MADV_DONTNEED) == 0 && p[n & 511]) fail("stress: a page given up is not zero");
        munmap(p, len);
    }
    return n;
}

// ---- signals ------------------------------------------------------------------------------------------------------------

static pthread_t victims[MAX_THREADS];
static unsigned n_victims;
static unsigned long alarms, kicks;

static void on_alarm(int sig)
{
    (void)sig;
    __atomic_fetch_add(&alarms, 1, __ATOMIC_RELAXED);
}

// The handler dirties what it may: the interrupted thread must not notice.
static void on_usr1(int sig)
{
    (void)sig;
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n\tpcmpeqd %%xmm7, %%xmm7\n\tpcmpeqd %%xmm15, %%xmm15" : : : "xmm0", "xmm7", "xmm15");
    __atomic_fetch_add(&kicks, 1, __ATOMIC_RELAXED);
}

// Registers with values of this thread's own, through interrupts, signals and moves between processors.
static unsigned long registers(unsigned seed)
{
    unsigned long n = 0;
    uint64_t v[2] = {seed * 0x9e3779b97f4a7c15ull, ~(uint64_t)seed}, got[6];
    double d = seed + 0.5, back;
    uint32_t mxcsr = 0x1f80 | (seed & 3) << 13, mxcsr_got;
    for (; !over(n); n++) {
        __asm__ volatile("ldmxcsr %[m]\n\tmovdqu %[v], %%xmm0\n\tmovdqa %%xmm0, %%xmm7\n\tmovdqa %%xmm0, %%xmm15\n\tfldl %[d]\n\t"
                         "mov $20000, %%ecx\n1:\tpaddq %%xmm7, %%xmm0\n\tpsubq %%xmm7, %%xmm0\n\tfld1\n\tfmulp\n\tdec %%ecx\n\tjnz 1b\n\t"
                         "movdqu %%xmm0, %[g]\n\tmovdqu %%xmm7, 16+%[g]\n\tmovdqu %%xmm15, 32+%[g]\n\tfstpl %[b]\n\tstmxcsr %[mg]"
                         : [g] "=o"(got), [b] "=m"(back), [mg] "=m"(mxcsr_got)
                         : [v] "m"(v), [d] "m"(d), [m] "m"(mxcsr) : "xmm0", "xmm7", "xmm15", "ecx", "cc", "st");
        for (unsigned k = 0; k < 6; k++)
            if (got[k] != v[k & 1]) fail("stress: a vector register lost its value: %#llx", (unsigned long long)got[k]);
        if (back != d) fail("stress: an x87 register lost its value: %f, not %f", back, d);
        if (mxcsr_got != mxcsr) fail("stress: MXCSR is %#x, not %#x", mxcsr_got, mxcsr);
    }
    mxcsr = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
    return n;
}

// Ends only when an alarm and a signal have come.
static unsigned long signals(unsigned seed)
{
    unsigned long n = 0;
    struct itimerval it = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_REAL, &it, NULL);
    for (; !over(n) || !__atomic_load_n(&alarms, __ATOMIC_RELAXED) || !__atomic_load_n(&kicks, __ATOMIC_RELAXED); n++) {
        pthread_t t = __atomic_load_n(&victims[(seed + n) % n_victims], __ATOMIC_ACQUIRE);
        if (t) pthread_kill(t, SIGUSR1);
        if (n % 16 == 0) usleep(200);
    }
    memset(&it, 0, sizeof it);
    setitimer(ITIMER_REAL, &it, NULL);
    return n;
}

static const struct kind { const char *name; unsigned long (*fn)(unsigned); bool victim; } kinds[] = {
    {"processes", processes, false}, {"pipes", pipes, true},      {"futexes", futexes, true},     {"futexes", futexes, true},
    {"mappings", mappings, true},    {"mappings", mappings, true}, {"registers", registers, true}, {"registers", registers, true},
    {"signals", signals, false},
};
enum { KINDS = sizeof kinds / sizeof *kinds };
static unsigned long rounds[KINDS];
static struct barrier going, ending;

static void thread(void *arg, unsigned i)
{
    (void)arg;
    __atomic_store_n(&victims[i], kinds[i].victim ? pthread_self() : 0, __ATOMIC_RELEASE);
    barrier_wait(&going);
    rounds[i] = kinds[i].fn(i + 1);
    barrier_wait(&ending);                    // nobody is sent a signal after he has gone
}

void stress(unsigned long ms)
{
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &sa, NULL);
    sa.sa_handler = on_usr1;
    sigaction(SIGUSR1, &sa, NULL);
    end_ms = now_ms() + ms;
    n_victims = KINDS;
    going.n = ending.n = KINDS;
    threads_run(KINDS, false, thread, NULL);
    for (unsigned i = 0; i < KINDS; i++) printf("stress %s: %lu rounds\n", kinds[i].name, rounds[i]);
    printf("stress: %lu alarms, %lu signals\n", alarms, kicks);
    if (futex.plain != futex_rounds) fail("stress: the lock let two in: %llu, not %llu", (unsigned long long)futex.plain, (unsigned long long)futex_rounds);
}
