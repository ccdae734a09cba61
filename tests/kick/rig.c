// The rig: see rig.h. The vCPU is private to machine.c; a timer's callback, which runs on its core, sees it as vcpu_current().
#define _GNU_SOURCE
#include "tests/kick/rig.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hosted/hosted.h"
#include "tcg/run/tcg.h"


#define PAGE_ADDR 0x200000ull
#define MAGIC 0x4b49434bu

const char *const kick_kinds[KINDS] = {"halt", "spin", "self-jump", "calls", "cpuid", "port", "apic+hpet", "rep movsb", "cli/sti", "mov ss",
                                       "count", "self-modifying", "sse+port", "short blocks", "memory",
                                       "TLB misses"};

static struct { u32 passed, failed; } *score;
static struct {
    struct vcpu *volatile cpu;
    struct core *core;                // the vCPU's
    struct timer find;
    struct rig_options o;
    void (*test)(void);
    u64 rng;
} rig = {.rng = 88172645463325252ull};

// ---- results ----

static void score_init(void)
{
    if (!score) score = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void rig_check(bool ok, const char *file, int line, const char *what)
{
    score_init();
    __atomic_fetch_add(ok ? &score->passed : &score->failed, 1, __ATOMIC_SEQ_CST);
    if (!ok) fprintf(stderr, "%s:%d: FAILED: %s\n", file, line, what);
}

void rig_fork(const char *name, void (*fn)(void))
{
    score_init();
    fflush(NULL);
    u32 failed = score->failed;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(0);
        fn();
        fflush(NULL);
        _exit(0);
    }
    int st = 0;
    if (pid < 0 || waitpid(pid, &st, 0) != pid) st = -1;
    if (st != 0 && score->failed == failed) {
        score->failed++;
        fprintf(stderr, "%s: FAILED: ended with status %#x\n", name, st);
    }
}

void rig_expect_panic(const char *name, const char *text, const int line[2], void (*fn)(void))
{
    int p[2];
    char buf[16384];
    size_t n = 0;
    score_init();
    fflush(NULL);
    if (pipe(p) != 0) abort();
    pid_t pid = fork();
    if (pid == 0) {
        dup2(p[1], 1);
        dup2(p[1], 2);
        close(p[0]);
        fn();
        _exit(0);
    }
    close(p[1]);
    for (ssize_t r; n < sizeof buf - 1 && (r = read(p[0], buf + n, sizeof buf - 1 - n)) > 0;) n += (size_t)r;
    buf[n] = 0;
    close(p[0]);
    int st;
    waitpid(pid, &st, 0);
    char want[200];
    const char *first = strstr(text, "%d"), *second = first ? strstr(first + 2, "%d") : NULL;
    int head = first ? (int)(first - text) : (int)strlen(text), middle = second ? (int)(second - first) - 2 : 0;
    if (!first) snprintf(want, sizeof want, "%s", text);
    else if (!second) snprintf(want, sizeof want, "%.*s%d%s", head, text, line[0], first + 2);
    else snprintf(want, sizeof want, "%.*s%d%.*s%d%s", head, text, line[0], middle, first + 2, line[1], second + 2);
    bool ok = WIFEXITED(st) && WEXITSTATUS(st) == 134 && strstr(buf, "panic") && strstr(buf, want);
    rig_check(ok, name, 0, want);
    if (!ok) fprintf(stderr, "status %#x, output: %s\n", st, buf);
}

int rig_result(void)
{
    score_init();
    printf("%u passed, %u failed\n", score->passed, score->failed);
    return score->failed != 0;
}

// ---- the machine ----

static struct blob kernel_load(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &st) != 0) {
        fprintf(stderr, "cannot open %s: make build/tests/kick.elf\n", path);
        exit(1);
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    return (struct blob){.data = p, .size = (u64)st.st_size, .name = path};
}

static void no_output(const void *buf, size_t len)
{
    (void)buf;
    (void)len;
}

// Interrupt context, on the vCPU's core.
static void find_cpu(void *opaque)
{
    (void)opaque;
    struct vcpu *c = vcpu_current();
    rig.core = core_self();
    rig.cpu = c && vcpu_index(c) == 0 ? c : NULL;
    if (!rig.cpu) timer_mod_ns(&rig.find, clock_ns(CLOCK_REALTIME_) + 100000);
}

static bool ready(void *arg)
{
    (void)arg;
    return rig.cpu && rig_page()->magic == MAGIC;
}

void rig_pin(unsigned n)
{
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) != 0) return;
    CPU_ZERO(&one);
    for (int c = 0; c < CPU_SETSIZE; c++) {
        if (!CPU_ISSET(c, &all) || n--) continue;
        CPU_SET(c, &one);
        sched_setaffinity(0, sizeof one, &one);
        return;
    }
}

static void second_core(void *arg)
{
    (void)arg;
    if (rig.o.pin) rig_pin(1);
    if (!rig_wait(ready, NULL, 20 * NS_PER_SEC)) rig_stall("the guest to start");
    rig.test();
    rig_stop();
}

int rig_run(const struct rig_options *o, void (*test)(void))
{
    struct machine_config cfg = {.ram_size = 32 * MIB, .smp = o->smp ? o->smp : 1, .kernel = kernel_load(o->kernel), .append = "", .exit_poll = o->exit_poll,
                                 .threads = o->single ? THREADS_SINGLE : THREADS_DEFAULT, .no_chain = o->no_chain, .no_reboot = true, .debug_exit_base = 0xf4, .debug_exit_size = 4, .serial_out = no_output};
    char err[256];
    int code = -1;
    core_init();
    time_init();
    if (!machine_create(&cfg, err, sizeof err)) {
        fprintf(stderr, "%s\n", err);
        exit(1);
    }
    rig.o = *o;
    rig.test = test;
    bql_lock();
    timer_init(&rig.find, CLOCK_REALTIME_, find_cpu, NULL);
    timer_mod_ns(&rig.find, clock_ns(CLOCK_REALTIME_) + 1000000);
    bql_unlock();
    if (!plat_core_start(o->smp > 1 && !o->single ? o->smp : 1, second_core, NULL)) panic("no second core");
    if (rig.o.pin) rig_pin(0);
    machine_run(&code);
    return code;
}

const struct rig_options *rig_options(void) { return &rig.o; }
struct vcpu *rig_vcpu(void) { return rig.cpu; }

volatile struct kick_page *rig_page(void) { return (volatile struct kick_page *)(void *)phys_host(rig.cpu->phys, gpa(PAGE_ADDR)); }

void rig_stop(void)
{
    for (;;) {
        rig_page()->stop = 1;
        vcpu_post_interrupt(rig.cpu, VEC_POST, false);
        usleep(1000);
    }
}

u64 rig_random(u64 n)
{
    rig.rng ^= rig.rng << 13;
    rig.rng ^= rig.rng >> 7;
    rig.rng ^= rig.rng << 17;
    return rig.rng % n;
}

bool rig_wait(bool (*done)(void *), void *arg, u64 ns)
{
    u64 end = plat_time_ns() + ns;
    for (unsigned spins = 1; !done(arg); spins++) {
        __builtin_ia32_pause();
        if (spins % 512 == 0) sched_yield();
        if (spins % 64 == 0 && plat_time_ns() > end) return done(arg);
    }
    return true;
}

void rig_pause_ns(u64 ns)
{
    for (u64 end = plat_time_ns() + ns; plat_time_ns() < end;) __builtin_ia32_pause();
}

void rig_sleep_ns(u64 ns)
{
    struct timespec left = {.tv_sec = (time_t)(ns / NS_PER_SEC), .tv_nsec = (long)(ns % NS_PER_SEC)};
    while (nanosleep(&left, &left) != 0);
}

static void signals_of(int tid)
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "Sig", 3) || !strncmp(line, "State", 5)) fprintf(stderr, "    %s", line);
    if (f) fclose(f);
}

void rig_stall(const char *what)
{
    struct vcpu *c = rig.cpu;
    fprintf(stderr, "STALL: waited in vain for %s\n", what);
    if (c) {
        volatile struct kick_page *p = rig_page();
        fprintf(stderr, "  guest: kind %s, %u rounds, loops %u\n", p->kind < KINDS ? kick_kinds[p->kind] : "?", p->rounds, p->loops);
        fprintf(stderr, "  vCPU: exit_request %u, in_guest %u, halted %u, pc %#llx, irq_look %u, helper_ra %#llx, last TB %p\n", c->exit_request,
                c->in_guest, c->halted, (ull)c->pc, c->irq_look, (ull)c->helper_ra, (void *)c->last_tb);
        fprintf(stderr, "  posted %#llx %#llx, events %#x\n", (ull)c->posted[1], (ull)c->posted[2], c->posted_events);
        fprintf(stderr, "  its core: interrupts off %u, BQL held %u (%s:%d), in interrupt %u, pending %#x, kick sent %u\n", rig.core->off,
                rig.core->held, rig.core->where, rig.core->where_line, rig.core->in_irq, rig.core->pending, rig.core->kick_sent);
    }
    signals_of(getpid());
    rig_check(false, __FILE__, __LINE__, what);
    _exit(1);
}
