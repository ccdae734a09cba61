// Cores and interrupts of the hosted platform: a core is a pthread, an interrupt is a signal, and "interrupts off" is a flag.
//
// The flag is the point. Masking signals for real would cost two system calls for each device access. Instead core.off says
// "interrupts are off"; a handler that finds it set leaves a bit in core.pending and returns; whoever clears it looks at pending
// afterwards and does the handler's work itself (irq_process). No system call is made on the way.
//
//     irqs_on:  off = false;  if (!pending) done;  off = true;  irq_process;  again
//
// A signal between "off = false" and the look at pending runs its handler at once and leaves pending empty: nothing is lost
// and nothing runs twice. pending is only touched by its own thread, so the only race is with a handler on top of it.
//
// The handler's work always has the same three steps: take the BQL if there are callbacks to run, run them, then, the BQL
// released, ask plat_events.interrupted where to resume. In a handler that is the interrupted RIP, which may lie in translated
// code; at the end of a lazily masked section it is the caller's, which does not, but the vCPU must hear of the interrupt all the same,
// since a helper may be running on behalf of a TB that would otherwise go on without looking.
//
// Signals are blocked by the kernel while a handler runs, so handlers never nest.
//
// Kicks are idempotent, and all but the first are free: kick_sent says that a signal is on its way and that its work (irq_process, which
// takes the flag back before it asks anybody anything) has not begun. Who finds it set has written what he wants seen before he
// looked, so that work will see it.
//
// "Off" is also what holding the BQL means here, so the two are checked against each other wherever one of them changes: releasing it
// with interrupts on, switching them on with it held, and a signal that finds it held and them on are panics that name who took it.
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "hosted/hosted.h"
#include "hosted/sys.h"
#include "kernel/base/log.h"
#include "kernel/machine.h"

enum { SIG_TIMER = SIGALRM, SIG_KICK = SIGUSR1, SIG_INPUT = SIGUSR2, SIG_HELPER = SIGIO };

static struct core cores[CORES_MAX];
static __thread struct core *self;
static struct plat_events events;
static struct { u32 next, owner; } ticket;   // the BQL between cores
static int pid;
static bool multi;                           // a second core was started: tickets are taken

struct core *core_self(void) { return self; }
const struct plat_events *core_events(void) { return &events; }
bool plat_in_interrupt(void) { return self && self->in_irq; }
unsigned plat_core_id(void) { return self ? self->id : PLAT_NO_CORE; }
bool bql_held(void) { return self && self->held; }

static void barrier(void) { __asm__ volatile("" ::: "memory"); }

// ---- the lock itself ----------------------------------------------------------------------------------

// FIFO between cores. A waiter whose predecessor was preempted by the host's scheduler gives its time away instead of spinning it out.
// Returns the TSC when the wait began, 0 if there was none.
static u64 ticket_take(void)
{
    u32 mine = __atomic_fetch_add(&ticket.next, 1, __ATOMIC_RELAXED);
    if (__atomic_load_n(&ticket.owner, __ATOMIC_ACQUIRE) == mine) return 0;
    u64 asked = __builtin_ia32_rdtsc();
    for (unsigned spins = 1; __atomic_load_n(&ticket.owner, __ATOMIC_ACQUIRE) != mine; spins++) {
        __builtin_ia32_pause();
        if (spins % 1024 == 0) sys_call(SYS_sched_yield, 0, 0, 0, 0);
    }
    return asked;
}

static void bql_take(struct core *c)
{
    c->ticketed = multi;
    lockstat_taken(&c->bql, c->ticketed ? ticket_take() : 0);
    c->held = true;
    barrier();
}

static void bql_drop(struct core *c)
{
    barrier();
    c->held = false;
    lockstat_released(&c->bql);
    if (c->ticketed) __atomic_store_n(&ticket.owner, ticket.owner + 1, __ATOMIC_RELEASE);
}

// ---- interrupts -----------------------------------------------------------------------------------------

// The work of all pending interrupts. off is set, the BQL is free. Returns where to resume.
static u64 irq_process(struct core *c, u64 rip)
{
    __atomic_store_n(&c->kick_sent, 0, __ATOMIC_SEQ_CST);
    u32 p = __atomic_exchange_n(&c->pending, 0, __ATOMIC_RELAXED);
    c->in_irq = true;
    if (events.entered) events.entered();
    if (p & (IRQ_TIMER | IRQ_INPUT | IRQ_HELPER)) {
        bql_take(c);
        c->where = __FILE__;
        c->where_line = __LINE__;
        if (p & IRQ_TIMER) time_fired();
        if (p & IRQ_INPUT) input_deliver();
        if (p & IRQ_HELPER) {
            block_deliver();
            if (events.attention) events.attention();
        }
        bql_drop(c);
    }
    if (events.interrupted) rip = events.interrupted(rip);
    c->in_irq = false;
    return rip;
}

// Interrupts on again; what arrived meanwhile is done now. In an interrupt handler they stay off until it ends.
static void irqs_on(struct core *c, u64 rip)
{
    if (c->held) panic("interrupts switched on, but %s:%d holds the BQL", c->where, c->where_line);
    for (;;) {
        barrier();
        c->off = false;
        barrier();
        if (!*(volatile u32 *)&c->pending) return;
        c->off = true;
        irq_process(c, rip);
    }
}

bool plat_irq_save(void)
{
    if (!self) return true;
    bool was = self->off;
    self->off = true;
    barrier();
    return was;
}

void plat_irq_restore(bool was_off)
{
    if (!was_off) irqs_on(self, (u64)__builtin_return_address(0));
}

void plat_relax(unsigned turn)
{
    __builtin_ia32_pause();
    if (turn % 256 == 255) sys_call(SYS_sched_yield, 0, 0, 0, 0);
}

static void on_interrupt(int sig, siginfo_t *si, void *ucv)
{
    (void)si;
    ucontext_t *uc = ucv;
    struct core *c = self;
    if (!c) return;
    u32 bit = sig == SIG_TIMER ? IRQ_TIMER : sig == SIG_INPUT ? IRQ_INPUT : sig == SIG_HELPER ? IRQ_HELPER : IRQ_KICK;
    __atomic_fetch_or(&c->pending, bit, __ATOMIC_RELAXED);
    if (c->off) return;
    if (c->held) panic("interrupts are on, but %s:%d holds the BQL", c->where, c->where_line);
    int saved = errno;
    c->off = true;
    u64 rip = (u64)uc->uc_mcontext.gregs[REG_RIP];
    do rip = irq_process(c, rip);
    while (c->pending);
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)rip;
    c->off = false;
    errno = saved;
}

// SIGINT, SIGTERM, SIGHUP: ask the machine to end; who insists gets his way at once.
static void on_terminate(int sig, siginfo_t *si, void *ucv)
{
    static volatile sig_atomic_t asked;
    if (asked++) plat_exit(1);
    machine_quit();
    on_interrupt(SIG_KICK, si, ucv);
}

// Back from a stop: the shell has put the terminal into its own mode.
static void on_continue(int sig) { term_raw(); }

static void signals_init(void)
{
    struct sigaction sa = {.sa_sigaction = on_interrupt, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigfillset(&sa.sa_mask);
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (unsigned i = 0; i < ARRAY_SIZE(faults); i++) sigdelset(&sa.sa_mask, faults[i]);
    sigaction(SIG_TIMER, &sa, NULL);
    sigaction(SIG_KICK, &sa, NULL);
    sigaction(SIG_INPUT, &sa, NULL);
    sigaction(SIG_HELPER, &sa, NULL);
    sa.sa_sigaction = on_terminate;
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGHUP, &sa, NULL);
    sa.sa_flags = SA_RESTART;
    sa.sa_handler = on_continue;
    sigaction(SIGCONT, &sa, NULL);
    signal(SIGPIPE, SIG_IGN);
    // Whatever mask the parent left, a core takes all signals.
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
}

void core_block_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
}

// ---- the contract ---------------------------------------------------------------------------------------

void bql_lock_at(const char *file, int line)
{
    struct core *c = self;
    if (!c) panic("%s:%d: bql_lock on a thread that is no core", file, line);
    if (c->held) panic("%s:%d: bql_lock, but %s:%d holds it already", file, line, c->where, c->where_line);
    c->off = true;
    barrier();
    bql_take(c);
    c->where = file;
    c->where_line = line;
}

void bql_unlock_at(const char *file, int line)
{
    struct core *c = self;
    if (!c || !c->held) panic("%s:%d: bql_unlock, but this core does not hold it", file, line);
    if (!c->off) panic("%s:%d: bql_unlock: interrupts are on, but %s:%d holds the BQL", file, line, c->where, c->where_line);
    bql_drop(c);
    if (!c->in_irq) irqs_on(c, (u64)__builtin_return_address(0));
}

static void core_signal(const struct core *c, int sig)
{
    if (c->tid) sys_call(SYS_tgkill, pid, c->tid, sig, 0);
}

void core_raise(unsigned irq_bit)
{
    struct core *c = self;
    if (c == &cores[0]) {
        __atomic_fetch_or(&c->pending, irq_bit, __ATOMIC_RELAXED);
        if (!c->off) irqs_on(c, (u64)__builtin_return_address(0));
    } else {
        core_signal(&cores[0], irq_bit == IRQ_TIMER ? SIG_TIMER : irq_bit == IRQ_INPUT ? SIG_INPUT : irq_bit == IRQ_HELPER ? SIG_HELPER : SIG_KICK);
    }
}

// What was typed before anyone listened is offered now.
void plat_events_set(const struct plat_events *ev)
{
    events = *ev;
    core_raise(IRQ_INPUT);
}

void plat_core_kick(unsigned id)
{
    ASSERT(id < CORES_MAX, "%u", id);
    struct core *c = &cores[id];
    if (c != self) {
        if (c->tid && !__atomic_exchange_n(&c->kick_sent, 1, __ATOMIC_SEQ_CST)) core_signal(c, SIG_KICK);
        return;
    }
    __atomic_fetch_or(&c->pending, IRQ_KICK, __ATOMIC_RELAXED);
    if (!c->off) irqs_on(c, (u64)__builtin_return_address(0));
}

// Signals are blocked for real before the last look at pending, and sigsuspend opens them and sleeps in one step: a signal that
// comes after the caller saw nothing to do is either in pending or ends the sleep at once.
void plat_idle(void)
{
    struct core *c = self;
    ASSERT(c && c->held && !c->in_irq, "plat_idle needs the BQL and no interrupt context");
    u64 all = ~0ull, none = 0;
    output_flush();
    sys_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, 8);
    bql_drop(c);
    if (c->pending) {
        irqs_on(c, (u64)__builtin_return_address(0));
    } else {
        barrier();
        c->off = false;
        sys_call(SYS_rt_sigsuspend, (long)&none, 8, 0, 0);
    }
    sys_call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, 8);
    bql_lock();
}

static void core_enter(struct core *c)
{
    pthread_attr_t a;
    void *lo;
    size_t len;
    if (pthread_getattr_np(pthread_self(), &a) == 0) {
        pthread_attr_getstack(&a, &lo, &len);
        c->stack_lo = (u64)lo;
        c->stack_hi = (u64)lo + len;
        pthread_attr_destroy(&a);
    }
    self = c;
    fault_thread_init();
    __atomic_store_n(&c->tid, (int)syscall(SYS_gettid), __ATOMIC_RELEASE);
}

void core_init(void)
{
    pid = getpid();
    core_enter(&cores[0]);
    signals_init();
    fault_init();
}

static void *core_thread(void *arg)
{
    struct core *c = arg;
    core_enter(c);
    c->fn(c->arg);
    panic("core %u: its function returned", c->id);
}

bool plat_core_start(unsigned id, void (*fn)(void *), void *arg)
{
    if (id == 0 || id >= CORES_MAX || cores[id].fn) return false;
    // From here on tickets count; a BQL held by the caller without one gets it now, while nobody else can want it.
    if (!multi) {
        multi = true;
        if (self->held) {
            ticket_take();
            self->ticketed = true;
        }
    }
    cores[id].id = id;
    cores[id].fn = fn;
    cores[id].arg = arg;
    pthread_t t;
    return pthread_create(&t, NULL, core_thread, &cores[id]) == 0;
}

bool plat_bql_stats(unsigned id, struct lockstat *s)
{
    if (id >= CORES_MAX || !cores[id].tid) return false;
    *s = cores[id].bql;
    return true;
}

unsigned plat_core_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int n = CPU_COUNT(&set);
    return n < 1 ? 1 : n > CORES_MAX ? CORES_MAX : (unsigned)n;
}

void plat_bind_vcpu(void *vcpu)
{
    enum { ARCH_SET_GS_ = 0x1001 };
    if (vcpu) *(void **)vcpu = self;
    long e = sys_call(SYS_arch_prctl, ARCH_SET_GS_, (long)vcpu, 0, 0);
    ASSERT(e == 0, "arch_prctl: %ld", e);
}
