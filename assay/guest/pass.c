// A pass: the jobs one after the other, on as many processors as each wants, and the ways in and out of it.
//
// Processor 0 leads. A job is announced by a number that grows (`announced`) and an IPI; those that take part run it, meet after setup
// and after the run, and meet once more when their results are written. Between jobs they halt. Whatever goes wrong anywhere sets
// `aborted`, which every wait looks at.
#include <stdarg.h>
#include <string.h>

#include "assay/guest/guest.h"
#include "kernel/base/fmt.h"

enum { MET_SETUP, MET_RUN, MET_END, MEETINGS };
#define DRAIN_MOST (1ull << 30)         // TSC ticks

static struct {
    u32 tables_ready, announced, over, all_woken, aborted, printing;
    u32 met[ASSAY_JOBS][MEETINGS];      // who came, ever: processors meet again and again when a job is run again
} state;

static struct assay_result *result_of(u64 job, u64 cpu) { return &((struct assay_result (*)[ASSAY_CPUS])header()->results)[job][cpu]; }
static u32 look(const u32 *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }

bool pass_aborted(void) { return look(&state.aborted); }

// ---- the end -----------------------------------------------------------------------------------------------------------------
// Who is entered natively leaves no interrupt behind, on its way or pending: the next one to take it would be the caller's kernel. So the
// last wake-up is waited for, for as long as it may take, and what the timer has left is taken.
static void interrupts_drain(struct cpu *c)
{
    if (!c->has_apic) return;
    irq_on();
    for (u64 t = rdtsc(); rdtsc() - t < DRAIN_MOST; relax())
        if (look(&state.all_woken) && *(volatile u64 *)&c->wakes == __atomic_load_n(&c->wakes_sent, __ATOMIC_SEQ_CST)) break;
    irq_off();
}

// ends: the pass ends with this processor, be it that all is done or that it failed first. In a guest the others stand still until the
// machine ends.
static NORETURN void leave(bool ends)
{
    struct cpu *c = this_cpu();
    __atomic_store_n(&state.over, 1, __ATOMIC_SEQ_CST);
    if (ends) smp_wake(ASSAY_CPUS);
    if (ends) __atomic_store_n(&state.all_woken, 1, __ATOMIC_SEQ_CST);
    lapic_timer_off(c);
    if (pass()->native) interrupts_drain(c);
    if (pass()->native) native_leave(c);
    if (ends && state.printing && pass_aborted()) {
        debug_puts("error ");
        debug_puts(header()->error);
        debug_puts("\n");
    }
    if (ends) outb(ASSAY_EXIT_PORT, pass_aborted());
    for (;;) __asm__ volatile("cli; hlt");
}

void pass_fail(const char *fmt, ...)
{
    va_list ap;
    bool first = !__atomic_exchange_n(&state.aborted, 1, __ATOMIC_SEQ_CST);
    va_start(ap, fmt);
    if (first) fmt_vsnprintf(header()->error, sizeof header()->error, fmt, ap);
    va_end(ap);
    leave(first);
}

void trap(const struct frame *f)
{
    struct cpu *c = this_cpu();
    u64 cr2;
    if (f->vector == 2 || f->vector >= 32) {
        c->strays++;
        if (f->vector != 2 && f->vector != VEC_SPURIOUS) lapic_eoi(c);
        return;
    }
    __asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
    pass_fail("processor %llu: exception %llu (error code %#llx) at %#llx in ring %llu, CR2 %#llx", (unsigned long long)c->number,
              (unsigned long long)f->vector, (unsigned long long)f->error, (unsigned long long)f->rip, (unsigned long long)f->cs & 3,
              (unsigned long long)cr2);
}

// ---- one job on one processor ----------------------------------------------------------------------------------------------------
// Spins: whoever takes part is awake, and is about to come.
static bool meet(u64 job, unsigned which, u32 n)
{
    u32 *met = &state.met[job][which];
    u32 all = (__atomic_fetch_add(met, 1, __ATOMIC_SEQ_CST) / n + 1) * n;
    while ((s32)(look(met) - all) < 0) {
        if (pass_aborted()) return false;
        relax();
    }
    return true;
}

static const struct assay_test *test_of(u64 job) { return &tests[pass()->job[job].test]; }

static struct assay_ctx ctx_of(u64 job, u64 cpu)
{
    return (struct assay_ctx){(u8 *)(ARENA_AT + cpu * ARENA_SIZE), ARENA_SIZE, (u8 *)SHARED_AT, SHARED_SIZE,
                              (u8 *)(CODE_AT + cpu * CODE_SIZE), (u32)cpu,
                              pass()->job[job].cpus};
}

static void call_setup(const struct assay_test *t, struct assay_ctx *ctx, u64 n)
{
    if (t->setup) ((void (*)(struct assay_ctx *, u64))t->setup)(ctx, n);
}

static u64 call_check(const struct assay_test *t, struct assay_ctx *ctx, u64 n, u64 value)
{
    return t->check ? ((u64 (*)(struct assay_ctx *, u64, u64))t->check)(ctx, n, value) : value;
}

// What cannot be is found before anything is done. Returns the fault's description, or NULL.
static const char *job_fault(u64 job)
{
    const struct assay_job *j = &pass()->job[job];
    if (job >= ASSAY_JOBS || j->test >= header()->n_tests) return "there is no such test";
    const struct assay_test *t = &tests[j->test];
    if (!j->n || j->n % t->n_unit) return "n is not a multiple of the test's unit";
    if (t->n_max && j->n > t->n_max) return "n is above what the test allows";
    if (!j->cpus || j->cpus > ASSAY_CPUS) return "the number of processors is not 1 to 64";
    if ((t->needs & NEED_TWO_CPUS) && j->cpus != 2) return "the test wants two processors";
    if (cpu_lacks(t->needs & NEED_AVX2)) return "the test wants AVX2, which this processor lacks or has switched off";
    return NULL;
}

u64 user_job(u64 job, u64 cpu)
{
    const char *fault = job_fault(job);
    if (!fault && test_of(job)->kind != TEST_USER) fault = "the test needs the payload's kernel";
    if (fault) {
        fmt_snprintf(header()->error, sizeof header()->error, "job %llu: %s", (unsigned long long)job, fault);
        return 0;
    }
    const struct assay_test *t = test_of(job);
    struct assay_ctx ctx = ctx_of(job, cpu);
    struct timed run = {t->run, (u64)&ctx, pass()->job[job].n, 0, 0, 0};
    call_setup(t, &ctx, run.n);
    meet(job, MET_SETUP, ctx.cpus);
    timed_call(&run);
    meet(job, MET_RUN, ctx.cpus);
    u64 sum = call_check(t, &ctx, run.n, run.value);
    *result_of(job, cpu) = (struct assay_result){.ticks = run.end - run.start, .checksum = sum, .tsc_start = run.start};
    return sum;
}

void latency_add(struct cpu *c, u64 ticks)
{
    c->lat_sum += ticks;
    if (ticks < c->lat_min) c->lat_min = ticks;
    if (ticks > c->lat_max) c->lat_max = ticks;
}

// To whoever watches a guest from outside.
static void mark(const struct cpu *c, char what)
{
    if (pass()->marks && !c->number) outb(ASSAY_MARK_PORT, (u8)what);
}

static void job_run(struct cpu *c, u64 job)
{
    const struct assay_test *t = test_of(job);
    struct assay_ctx ctx = ctx_of(job, c->number);
    struct timed run = {t->run, (u64)&ctx, pass()->job[job].n, 0, 0, 0};
    call_setup(t, &ctx, run.n);
    c->strays = c->lat_sum = c->lat_max = 0;
    c->lat_min = ~0ull;
    if (!meet(job, MET_SETUP, ctx.cpus)) leave(false);
    mark(c, 'b');
    if (t->kind == TEST_USER) ring3_run(&run, 2);
    else timed_call(&run);
    mark(c, 'e');
    u64 strays = c->strays;
    if (!meet(job, MET_RUN, ctx.cpus)) leave(false);
    struct assay_result *r = result_of(job, c->number);
    *r = (struct assay_result){.ticks = run.end - run.start, .events = strays, .tsc_start = run.start};
    r->checksum = call_check(t, &ctx, run.n, run.value);
    if (t->latency) {
        r->ticks = c->lat_sum;
        r->min = c->lat_sum ? c->lat_min : 0;
        r->max = c->lat_max;
    }
    if (!meet(job, MET_END, ctx.cpus)) leave(false);
}

// ---- processor 0 --------------------------------------------------------------------------------------------------------------------
static void needs_check(u64 job)
{
    const struct assay_test *t = test_of(job);
    const char *what = NULL;
    u32 lacks = cpu_lacks(t->needs);
    if (lacks & NEED_PCID) what = "PCIDs";
    if ((t->needs & NEED_APIC) && !this_cpu()->has_apic) what = "a local APIC";
    if ((t->needs & NEED_IOAPIC) && !pass()->mmio_ioapic) what = "an I/O APIC";
    if (what) pass_fail("job %llu: %s wants %s, and there is none", (unsigned long long)job, t->name, what);
}

static NORETURN void lead(void)
{
    if (pass()->n_jobs > ASSAY_JOBS) pass_fail("%u jobs, and at most %u fit", pass()->n_jobs, (u32)ASSAY_JOBS);
    for (u32 i = 0; i < pass()->n_jobs; i++) {
        const char *fault = job_fault(i);
        if (fault) pass_fail("job %u: %s", i, fault);
        needs_check(i);
    }
    for (u32 i = 0; i < pass()->n_jobs; i++) {
        u32 n = pass()->job[i].cpus;
        if (n > 1) {
            smp_start(n);
            __atomic_store_n(&state.announced, i + 1, __ATOMIC_SEQ_CST);
            smp_wake(n);
        }
        job_run(this_cpu(), i);
    }
    if (state.printing) command_print_results();
    leave(true);
}

// ---- the others -------------------------------------------------------------------------------------------------------------------------
static NORETURN void serve(u64 number)
{
    struct cpu *c = &cpus[number];
    u32 done = 0;
    cpu_init(number);
    __atomic_store_n(&c->ready, 1, __ATOMIC_SEQ_CST);
    while (!look(&state.over)) {
        u32 job = look(&state.announced);
        if (job == done) {
            halt();
            continue;
        }
        done = job;
        if (number < pass()->job[job - 1].cpus) job_run(c, job - 1);
    }
    leave(false);
}

// ---- ways in ----------------------------------------------------------------------------------------------------------------------
static void tables_make(void)
{
    paging_build();
    __atomic_store_n(&state.tables_ready, 1, __ATOMIC_SEQ_CST);
}

void native_main(u64 cpu)
{
    tables_make();
    cpu_init(cpu);
    lead();
}

void native_ap_main(u64 cpu)
{
    while (!look(&state.tables_ready)) relax();
    serve(cpu);
}

void guest_ap_main(u64 cpu) { serve(cpu); }

// The low megabyte is still mapped: it takes the trampoline.
void guest_main(void)
{
    struct assay_pass *p = pass();
    u64 need_kib = (ASSAY_GUEST_PHYS + ASSAY_WINDOW - MIB) / KIB;
    p->phys = ASSAY_GUEST_PHYS;
    p->native = 0;
    if (!p->mmio_lapic) p->mmio_lapic = 0xfee00000;
    if (!p->mmio_ioapic) p->mmio_ioapic = 0xfec00000;
    outb(0x21, 0xff);                    // the PICs are not asked
    outb(0xa1, 0xff);
    for (unsigned i = 0; &trampoline[i] < trampoline_end; i++) ((volatile u8 *)TRAMPOLINE_AT)[i] = trampoline[i];
    state.printing = !p->n_jobs;
    if (strstr(command_line, "x2apic")) lapic_want_x2apic();
    tables_make();
    cpu_init(0);
    if (mem_upper_kib < need_kib)
        pass_fail("%u MiB of memory, and the payload needs %llu: give the guest more", mem_upper_kib / 1024 + 1,
                  (unsigned long long)need_kib / 1024 + 1);
    if (state.printing && !command_parse()) leave(true);
    lead();
}
