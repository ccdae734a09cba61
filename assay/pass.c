// A pass: the payload runs a list of jobs, in one mode.
//
// In a guest: the machine is restarted with the payload as its kernel, in the mode's engine; the list goes into the header in guest RAM;
// the machine runs until the payload writes to isa-debug-exit; the results lie in guest RAM. Natively: the same in a window of Cupel's
// own, and the payload is entered as a function - on metal its own kernel on the bare processor (native, native_ap), hosted job by job
// (user_job). The image is loaded anew for every pass, so that no pass sees what another left.
#include <string.h>

#include "assay/console.h"
#include "assay/run.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/plat.h"

#define PASS_LIMIT_NS (300 * NS_PER_SEC)   // a pass takes a second or so; emulated twice, a minute

// The debug console carries no argument to find it by. Written between passes, on core 0.
static struct { void (*fn)(void *arg, bool end); void *arg; } watch;

void pass_watch(void (*fn)(void *arg, bool end), void *arg)
{
    watch.fn = fn;
    watch.arg = arg;
}

void assay_mark_out(const void *buf, size_t len)
{
    const char *s = buf;
    for (size_t i = 0; watch.fn && i < len; i++)
        if (s[i] == 'b' || s[i] == 'e') watch.fn(watch.arg, s[i] == 'e');
}

static unsigned mode_cpus(const struct assay *a, enum mode_id mode) { return modes[mode].all ? a->cpus : 1; }

const char *pass_missing(const struct assay *a, enum mode_id mode, const struct assay_test *t)
{
    const struct mode *m = &modes[mode];
    if (m->native && !a->native) return a->p->native_why;
    if (m->native && t->kind == TEST_KERNEL && !a->p->native.kernel) return "needs ring 0, which this process does not have";
    if (m->all && a->cpus < 2) return "needs two processors";
    if (m->all && t->kind == TEST_KERNEL) return "a kernel test runs on one processor, or on two that talk to each other";
    if ((t->needs & NEED_TWO_CPUS) && a->cpus < 2) return "needs two processors";
    u32 lacks = facts_lacks(t->needs);
    if (lacks & NEED_AVX2) return "needs AVX2";
    if ((lacks & NEED_PCID) && m->native) return "needs PCIDs";
    if ((t->needs & NEED_IOAPIC) && m->native && !a->p->native.ioapic) return "this PC has no I/O APIC";
    return NULL;
}

static struct assay_result *result_of(struct assay_header *h, unsigned job)
{
    return (struct assay_result *)pass_at(h, h->results) + job * ASSAY_CPUS;
}

static void list_fill(struct assay *a, struct assay_header *h, enum mode_id mode, const struct pass_job *job, unsigned n)
{
    unsigned cpus = mode_cpus(a, mode), there = cpus;
    h->pass.n_jobs = n;
    for (unsigned i = 0; i < n; i++) {
        const struct assay_test *t = (struct assay_test *)pass_at(h, h->table) + job[i].test;
        unsigned want = t->needs & NEED_TWO_CPUS ? 2 : cpus;
        h->pass.job[i] = (struct assay_job){.test = job[i].test, .cpus = want, .n = job[i].n};
        there = (unsigned)max_u64(there, want);
    }
    h->pass.cpus = there;
}

static void results_take(struct assay_header *h, const struct pass_job *job, unsigned n, struct pass_result *r)
{
    for (unsigned i = 0; i < n; i++) {
        const struct assay_result *of = result_of(h, i);
        const struct assay_test *t = (struct assay_test *)pass_at(h, h->table) + job[i].test;
        unsigned cpus = t->kind == TEST_USER ? (unsigned)min_u64(h->pass.job[i].cpus, ASSAY_CPUS) : 1;
        r[i].ticks = of[0].ticks;
        r[i].checksum = of[0].checksum;
        r[i].min = of[0].min;
        r[i].max = of[0].max;
        r[i].events = of[0].events;
        for (unsigned c = 1; c < cpus; c++) {
            r[i].ticks = max_u64(r[i].ticks, of[c].ticks);
            r[i].events += of[c].events;
            r[i].checksum = (r[i].checksum << 5 | r[i].checksum >> 59) ^ of[c].checksum;
        }
    }
}

// ---- in a guest ------------------------------------------------------------------------------------------------------------------

static bool header_check(const struct assay_header *h, char *err, size_t errlen)
{
    if (h->magic == ASSAY_MAGIC && h->version == ASSAY_VERSION && h->size == sizeof *h && h->n_tests <= ASSAY_TESTS &&
        h->table >= ASSAY_VIRT && h->table + h->n_tests * sizeof(struct assay_test) <= ASSAY_VIRT + ASSAY_WINDOW && h->results >= ASSAY_VIRT &&
        h->results + sizeof(struct assay_result[ASSAY_JOBS][ASSAY_CPUS]) <= ASSAY_VIRT + ASSAY_WINDOW) return true;
    fmt_snprintf(err, errlen, "assay: the payload is not of this Cupel; build it again (make)");
    return false;
}

static bool guest_load(struct assay *a, enum mode_id mode, char *err, size_t errlen)
{
    struct machine_guest g = {.kernel = a->g->payload, .exit_poll = modes[mode].exit_poll, .no_chain = modes[mode].no_chain};
    return machine_restart(&g, err, errlen) && header_check(a->guest, err, errlen);
}

bool pass_load(struct assay *a, char *err, size_t errlen) { return guest_load(a, MODE_SOFT, err, errlen); }

static bool guest_run(struct assay *a, char *err, size_t errlen)
{
    int code = 0;
    enum machine_end end = machine_run_for(PASS_LIMIT_NS, &code);
    a->quit |= end == MACHINE_QUIT;
    a->guest->error[sizeof a->guest->error - 1] = 0;      // guest memory: anything may be there
    if (end == MACHINE_DEBUG_EXIT && code == 1) return true;
    if (end == MACHINE_DEBUG_EXIT) fmt_snprintf(err, errlen, "%s", a->guest->error[0] ? a->guest->error : "the payload ended early");
    else if (end == MACHINE_TIMEOUT) fmt_snprintf(err, errlen, "the payload did not end within %llu s", PASS_LIMIT_NS / NS_PER_SEC);
    else fmt_snprintf(err, errlen, "%s", end == MACHINE_QUIT ? "ended by the user" : "the payload's machine was reset or switched off");
    return false;
}

// ---- natively --------------------------------------------------------------------------------------------------------------------

static void native_core(unsigned core, void *arg)
{
    struct assay *a = arg;
    struct assay_header *h = a->native;
    if (a->p->native.kernel) {
        a->p->native.enter(core ? h->native_ap : h->native, core);
        return;
    }
    u64 (*user_job)(u64 job, u64 cpu) = (u64 (*)(u64, u64))h->user_job;
    for (u32 i = 0; i < h->pass.n_jobs; i++)
        if (core < h->pass.job[i].cpus) a->p->native.user(user_job, i, core);
}

static bool native_run(struct assay *a, char *err, size_t errlen)
{
    struct assay_header *h = a->native;
    const struct assay_native *n = &a->p->native;
    h->pass.phys = n->phys;
    h->pass.native = 1;
    h->pass.mmio_lapic = n->lapic;
    h->pass.mmio_ioapic = n->ioapic;
    for (unsigned c = 0; n->apic_id && c < h->pass.cpus; c++) h->pass.apic_ids[c] = n->apic_id(c);
    if (!machine_on_cores(h->pass.cpus, native_core, a)) {
        fmt_snprintf(err, errlen, "fewer than %u cores are there", h->pass.cpus);
        return false;
    }
    h->error[sizeof h->error - 1] = 0;
    if (h->error[0]) fmt_snprintf(err, errlen, "%s", h->error);
    return !h->error[0];
}

// ---- either ----------------------------------------------------------------------------------------------------------------------

bool pass_run(struct assay *a, enum mode_id mode, const struct pass_job *job, unsigned n, struct pass_result *r, char *err, size_t errlen)
{
    bool native = modes[mode].native, ok;
    struct assay_header *h = native ? a->native : a->guest;
    memset(r, 0, n * sizeof *r);
    if (native) ok = image_load(&a->g->payload, a->p->native.window, err, errlen) && header_check(h, err, errlen);
    else ok = guest_load(a, mode, err, errlen);
    if (!ok) return false;
    list_fill(a, h, mode, job, n);
    if (native) {
        ok = native_run(a, err, errlen);
    } else {
        h->pass.phys = ASSAY_GUEST_PHYS;
        h->pass.marks = watch.fn != NULL;
        h->pass.mmio_lapic = 0xfee00000;
        h->pass.mmio_ioapic = 0xfec00000;
        for (unsigned c = 0; c < h->pass.cpus; c++) h->pass.apic_ids[c] = c;
        ok = guest_run(a, err, errlen);
    }
    if (ok) results_take(h, job, n, r);
    return ok;
}
