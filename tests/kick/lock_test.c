// The big lock: misuse is caught at once and with the place; what is dispatched without it; who may touch what from interrupt context;
// stopping the machine stops its clock. Misuse happens in children that are expected to panic.
#include "tests/kick/rig.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devices/devices.h"
#include "hosted/hosted.h"
#include "tcg/run/softmmu.h"
#include "tcg/run/tcg.h"

static const char *kernel = "build/tests/kick.elf";

// ---- misuse outside any machine ----

static void platform(void)
{
    core_init();
    time_init();
    clocks_init();
}

// Notes the line of a call, for the message that must name it: shared with the parent, which knows only then.
static int *line;
#define HERE(n, call) line[n] = __LINE__; call
static void taken_twice(void)
{
    platform();
    HERE(1, bql_lock());
    HERE(0, bql_lock());
}
static void released_unheld(void)
{
    platform();
    HERE(0, bql_unlock());
}
static void no_core(void)
{
    HERE(0, bql_lock());
}
static void switched_on(void)
{
    platform();
    HERE(0, bql_lock());
    plat_irq_restore(false);
}
static void found_on(void)
{
    platform();
    HERE(0, bql_lock());
    core_self()->off = false;
    raise(SIGUSR1);
}
static void released_on(void)
{
    platform();
    HERE(1, bql_lock());
    core_self()->off = false;
    HERE(0, bql_unlock());
}
static void idle_unheld(void)
{
    platform();
    plat_idle();
}

static struct timer t;
static void nothing(void *opaque) { (void)opaque; }
static void free_mod(void)
{
    platform();
    timer_init(&t, CLOCK_VIRTUAL_, nothing, NULL);
    timer_mod_ns(&t, 1);
}
static void free_del(void)
{
    platform();
    timer_init(&t, CLOCK_VIRTUAL_, nothing, NULL);
    timer_del(&t);
}
static void free_enable(void)
{
    platform();
    clock_enable(CLOCK_HOST_, false);
}
static void free_pause(void)
{
    platform();
    clock_pause_vm();
}
static void free_resume(void)
{
    platform();
    clock_resume_vm();
}
static void free_run(void)
{
    platform();
    clocks_run_expired();
}
static void wire(void *opaque, unsigned n, bool level) {}
static void free_wire(void)
{
    struct irq q = {wire, NULL, 0};
    platform();
    irq_set(&q, true);
}
static void unlocking_callback(void *opaque) { bql_unlock(); }
static void callback_unlocks(void)
{
    static const struct plat_events events = {.timer = clocks_run_expired};
    platform();
    plat_events_set(&events);
    bql_lock();
    timer_init(&t, CLOCK_REALTIME_, unlocking_callback, NULL);
    timer_mod_ns(&t, 0);
    bql_unlock();
    for (;;) pause();
}

// ---- misuse inside a machine ----

static void *apic(void) { return rig_vcpu()->apic; }
static u64 region_read(void *opaque, u64 addr, unsigned size) { return 0; }
static const struct io_ops some_ops = {.read = region_read};

static void device_unlocked(void) { (void)phys_ld(rig_vcpu()->phys, gpa(0xfec00000), 4); }
static void map_unlocked(void) { phys_add_mmio(rig_vcpu()->phys, gpa(0xd0000000), 4096, &some_ops, NULL, "x"); }
static void (*in_interrupt_fn)(void);
static void in_interrupt(void *opaque)
{
    ASSERT(plat_in_interrupt() && vcpu_current() == rig_vcpu() && !cpu_is_self(rig_vcpu()), "interrupt context is not a CPU%s", "");
    in_interrupt_fn();
}
static void from_interrupt(void)
{
    bql_lock();
    timer_init(&t, CLOCK_REALTIME_, in_interrupt, NULL);
    timer_mod_ns(&t, 0);
    bql_unlock();
    rig_sleep_ns(10 * NS_PER_SEC);
}
static void apic_ack(void) { (void)rig_vcpu()->apic_ops->ack(apic()); }
static void apic_fold(void)
{
    static const u64 v[4] = {0, 2};
    rig_vcpu()->apic_ops->fold(apic(), v, v);
}
static void apic_tpr(void) { rig_vcpu()->apic_ops->set_tpr(apic(), 0); }
static void apic_reset(void) { rig_vcpu()->apic_ops->reset(apic(), true); }
static void tlb_all(void) { tlb_flush(rig_vcpu()); }
static void tlb_page(void) { tlb_flush_page(rig_vcpu(), gva(0)); }

static void (*machine_test)(void);
static void machine(void)
{
    const struct rig_options o = {.kernel = kernel};
    rig_run(&o, machine_test);
}
static void apic_of_another(void) { apic_ack(); }

static const struct { const char *name, *text; void (*fn)(void); } plain[] = {
    {"taken twice", "lock_test.c:%d: bql_lock, but tests/kick/lock_test.c:%d holds it already", taken_twice},
    {"released unheld", "lock_test.c:%d: bql_unlock, but this core does not hold it", released_unheld},
    {"on a thread that is no core", "lock_test.c:%d: bql_lock on a thread that is no core", no_core},
    {"interrupts switched on", "interrupts switched on, but tests/kick/lock_test.c:%d holds the BQL", switched_on},
    {"an interrupt finds it held", "interrupts are on, but tests/kick/lock_test.c:%d holds the BQL", found_on},
    {"released with interrupts on", "lock_test.c:%d: bql_unlock: interrupts are on, but tests/kick/lock_test.c:%d holds", released_on},
    {"idle without", "plat_idle needs the BQL", idle_unheld},
    {"timer_mod_ns", "timer armed without the BQL", free_mod},
    {"timer_del", "timer deleted without the BQL", free_del},
    {"clock_enable", "clock 2 switched without the BQL", free_enable},
    {"clock_pause_vm", "clock paused without the BQL", free_pause},
    {"clock_resume_vm", "clock resumed without the BQL", free_resume},
    {"clocks_run_expired", "timers run without the BQL", free_run},
    {"irq_set", "irq_set without the BQL", free_wire},
    {"a callback that releases it", "a timer callback returned without the BQL", callback_unlocks},
};
static const struct { const char *name, *text; void (*fn)(void); bool interrupt; } inside[] = {
    {"device access", "ioapic accessed without the BQL", device_unlocked, false},
    {"memory map", "the memory map changes without the BQL", map_unlocked, false},
    {"APIC of another core", "local APIC 0 used by somebody else", apic_of_another, false},
    {"APIC ack", "local APIC 0 used by somebody else", apic_ack, true},
    {"APIC fold", "local APIC 0 used by somebody else", apic_fold, true},
    {"APIC TPR", "local APIC 0 used by somebody else", apic_tpr, true},
    {"APIC reset", "local APIC 0 reset in interrupt context", apic_reset, true},
    {"TLB", "TLB of vCPU 0 touched in interrupt context", tlb_all, true},
    {"TLB, one page", "TLB of vCPU 0 touched in interrupt context", tlb_page, true},
};

// ---- what needs no lock ----

static volatile struct kick_page *page;
static u32 kind_wanted;
static bool kind_runs(void *arg) { return page->kind == kind_wanted; }
static void only(enum kick_kind kind)
{
    kind_wanted = kind;
    page->self = 0;
    page->mask = 1u << kind;
    vcpu_post_interrupt(rig_vcpu(), VEC_POST, false);
    if (!rig_wait(kind_runs, NULL, 5 * NS_PER_SEC)) rig_stall("the guest to change its ways");
    rig_sleep_ns(20000000);
}
static bool looped(void *arg) { return page->loops - *(u32 *)arg > 10000; }

static void unlocked_regions(void)
{
    struct lockstat a, z;
    page = rig_page();
    only(K_MMIO);
    bql_lock();
    u32 from = page->loops;
    bool ran = rig_wait(looped, &from, 20 * NS_PER_SEC);
    bql_unlock();
    CHECK(ran);                                          // APIC and HPET reads went on while this core held the lock
    CHECK(plat_bql_stats(0, &a));
    from = page->loops;
    CHECK(rig_wait(looped, &from, 20 * NS_PER_SEC));
    CHECK(plat_bql_stats(0, &z));
    CHECK(z.taken - a.taken < 1000);                     // 20000 reads of devices, and but the timer takes it
    only(K_PORT);
    CHECK(plat_bql_stats(0, &a));
    from = page->loops;
    CHECK(rig_wait(looped, &from, 20 * NS_PER_SEC));
    CHECK(plat_bql_stats(0, &z));
    CHECK(z.taken - a.taken >= 10000 && z.held > a.held);   // the PIT's port takes it every time,
    bql_lock();
    rig_sleep_ns(20000000);
    from = page->loops;
    rig_sleep_ns(100000000);
    u32 to = page->loops;
    bql_unlock();
    CHECK(to - from <= 1);                               // and waits while this core has it (it may have been between the two)
    from = page->loops;
    CHECK(rig_wait(looped, &from, 20 * NS_PER_SEC));
    CHECK(plat_bql_stats(0, &z));
    CHECK(z.contended > 0 && z.waited > 0 && z.held_max > 0);
    CHECK(!plat_bql_stats(CORES_MAX, &z));
}

// ---- pause ----

static bool clock_stands(void *arg)
{
    u64 v = clock_ns(CLOCK_VIRTUAL_);
    rig_pause_ns(2000000);
    return clock_ns(CLOCK_VIRTUAL_) == v;
}

static void pause_and_go(void)
{
    page = rig_page();
    only(K_MMIO);
    for (int n = 0; n < 20; n++) {
        bql_lock();
        machine_stop();
        bql_unlock();
        CHECK(rig_wait(clock_stands, NULL, 5 * NS_PER_SEC));
        u64 v = clock_ns(CLOCK_VIRTUAL_), rt = clock_ns(CLOCK_VIRTUAL_RT_), real = clock_ns(CLOCK_REALTIME_);
        u32 loops = page->loops;
        rig_sleep_ns(3000000);
        CHECK(clock_ns(CLOCK_VIRTUAL_) == v && clock_ns(CLOCK_VIRTUAL_RT_) == rt && page->loops == loops);
        CHECK(clock_ns(CLOCK_REALTIME_) >= real + 3000000);
        bql_lock();
        u64 before = plat_time_ns();
        machine_cont();
        bql_unlock();
        plat_core_kick(0);
        u32 from = page->loops;
        CHECK(rig_wait(looped, &from, 20 * NS_PER_SEC));
        u64 now = clock_ns(CLOCK_VIRTUAL_);
        CHECK(now > v && now - v <= plat_time_ns() - before);   // goes on from where it stood
    }
}

// ---- what the handler decides, address by address: windows of a few instructions that a stress meets too seldom ----

static u32 decided, wrong_decisions;
static void decide(u64 rip, u64 expected)
{
    decided++;
    wrong_decisions += vcpu_interrupted(rip) != expected;
}

static void decide_in(struct vcpu *c, struct tb *tb)
{
    u64 at = (u64)tb->code, call = (u64)c->tcg->stubs.call;
    for (unsigned i = 0; i < tb->n_ind; i++) decide(at + tb->ind[i].jmp, at + tb->ind[i].miss);
    tb_relink(c);
    decide(at, at);
    wrong_decisions += !tb->unlinked;
    tb_relink(c);
    c->helper_ra = at + 1;                               // on the way back from C into this block
    decide(call, call);
    wrong_decisions += !tb->unlinked;
    tb_relink(c);
}

// Interrupt context on the vCPU's core, as if the interrupt had come at each of these addresses with a request pending.
static void decide_all(void *opaque)
{
    struct vcpu *c = rig_vcpu();
    struct tcg *tcg = c->tcg;
    const struct tcg_stubs *s = &tcg->stubs;
    u32 in_guest = c->in_guest;
    u64 ra = c->helper_ra;
    c->in_guest = 1;
    vcpu_kick(c);
    for (u64 a = (u64)s->enter_check; a < (u64)s->enter_end; a++) decide(a, (u64)s->enter_abort);
    for (u32 r = 0; r < tcg->n_regions; r++)
        for (u32 n = 0; n < tcg->regions[r].n_tbs; n++)
            if (!tcg->regions[r].order[n]->invalid) decide_in(c, tcg->regions[r].order[n]);
    c->helper_ra = ra;
    c->in_guest = in_guest;
}

static bool has_decided(void *arg) { return __atomic_load_n(&decided, __ATOMIC_SEQ_CST) != 0; }

static void decisions(void)
{
    page = rig_page();
    page->self = 1;
    rig_sleep_ns(200000000);
    only(K_SPIN);
    bql_lock();
    timer_init(&t, CLOCK_REALTIME_, decide_all, NULL);
    timer_mod_ns(&t, 0);
    bql_unlock();
    CHECK(rig_wait(has_decided, NULL, 5 * NS_PER_SEC));
    bql_lock();                                          // the callback has ended
    bql_unlock();
    printf("%u places of interruption tried\n", decided);
    CHECK(decided > 100 && wrong_decisions == 0);
    only(K_CALL);                                        // and the guest goes on
    u32 rounds = page->rounds;
    only(K_SPIN);
    CHECK(page->rounds > rounds);
}

static void expect(const char *name, const char *text, void (*fn)(void), bool interrupt)
{
    in_interrupt_fn = fn;
    machine_test = interrupt ? from_interrupt : fn;
    rig_expect_panic(name, text, line, machine);
}

int main(int argc, char **argv)
{
    if (argc > 1) kernel = argv[1];
    line = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(plain); i++) rig_expect_panic(plain[i].name, plain[i].text, line, plain[i].fn);
    for (unsigned i = 0; i < ARRAY_SIZE(inside); i++) expect(inside[i].name, inside[i].text, inside[i].fn, inside[i].interrupt);
    machine_test = unlocked_regions;
    rig_fork("unlocked regions", machine);
    machine_test = decisions;
    rig_fork("decisions of the handler", machine);
    machine_test = pause_and_go;
    rig_fork("pause", machine);
    return rig_result();
}
