// The run from beginning to end. See assay.h.
#include <stdarg.h>
#include <string.h>

#include "assay/run.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { DOCUMENT_MAX = 1 << 20 };

void assay_say(const struct assay *a, const char *fmt, ...)
{
    char line[256];
    va_list ap;
    va_start(ap, fmt);
    fmt_vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    a->p->print(line);
}

static void prepare(struct assay *a, const struct assay_options *o, const struct assay_platform *p, const struct assay_guests *g)
{
    a->o = o;
    a->p = p;
    a->g = g;
    a->guest = machine_ram(ASSAY_GUEST_PHYS, ASSAY_WINDOW);
    a->native = (struct assay_header *)p->native.window;
    a->cpus = machine_cores();
    a->started_tsc = __builtin_ia32_rdtsc();
    bool irqs = plat_irq_save();
    a->counting = facts_counting();
    plat_irq_restore(irqs);
    a->tsc_hz = facts_tsc_hz();
}

static void rounds_all(struct assay *a)
{
    for (a->round = 0; a->round < a->o->rounds && !a->quit; a->round++) {
        assay_say(a, "assay: round %u of %u: %u workloads", a->round + 1, a->o->rounds, a->n_workloads);
        rounds_one(a);
    }
    unsigned linux_rounds = a->g->kernel.data ? a->o->linux_rounds : 0;
    for (a->round = 0; a->round < linux_rounds && !a->quit; a->round++) {
        assay_say(a, "assay: Linux, round %u of %u", a->round + 1, linux_rounds);
        linux_one(a);
    }
}

static bool keep(struct assay *a)
{
    char *buf = plat_pages_alloc(DOCUMENT_MAX), err[160] = "";
    u64 len = buf ? document_write(a, buf, DOCUMENT_MAX, !a->quit) : 0;
    if (!buf || len > DOCUMENT_MAX) fmt_snprintf(err, sizeof err, "no room for a document of %llu bytes", (unsigned long long)len);
    else if (a->p->save(buf, len, err, sizeof err)) return true;
    assay_say(a, "assay: the results are not kept: %s", err);
    return false;
}

int assay_run(const struct assay_options *o, const struct assay_platform *p, const struct assay_guests *g)
{
    struct assay *a = plat_pages_alloc(sizeof *a);
    char err[512] = "";
    if (!a) panic("no memory for the assay");
    prepare(a, o, p, g);
    if (!a->guest) panic("assay: the guest has less than %llu MiB below the PCI window", (ASSAY_GUEST_PHYS + ASSAY_WINDOW) / MIB);
    assay_say(a, "assay: calibrating");
    if (!rounds_calibrate(a, err, sizeof err)) {
        assay_say(a, "%s", err);
        return 1;
    }
    rounds_all(a);
    rounds_finish(a);
    if (!a->quit) breakdown_all(a);
    table_print(a);
    if (a->mismatch[0]) assay_say(a, "assay: FAILED: %s", a->mismatch);
    if (a->quit) assay_say(a, "assay: ended by the user before it was complete");
    bool kept = keep(a);
    return a->mismatch[0] || a->quit || !kept;
}
