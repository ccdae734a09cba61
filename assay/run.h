// Inside the assay: what the run knows and collects. One run per process, in memory of the platform.
#pragma once

#include "assay/assay.h"
#include "assay/linux_phases.h"
#include "assay/stats.h"
#include "tcg/run/profile.h"

enum mode_id { MODE_NATIVE, MODE_SOFT, MODE_POLL, MODE_UNCHAINED, MODE_NATIVE_ALL, MODE_SOFT_ALL, N_MODES };

struct mode {
    const char *id, *title;
    bool native, exit_poll, no_chain, all;    // all: on every processor at once
};
extern const struct mode modes[N_MODES];

struct sample { u64 ticks, min, max; bool have, disturbed; };

struct series {                   // a workload in a mode
    struct sample round[ASSAY_ROUNDS_MAX];
    char missing[96];             // why there is none; empty: there is, or nobody tried yet
    u64 checksum;
    // ---- after the last round ----
    struct stats ticks;           // of the undisturbed rounds, or of all if more than half are disturbed
    unsigned n, n_disturbed;
};

struct workload {
    const struct assay_test *test;
    unsigned index;               // in the payload's table
    u64 n;
    struct series in[N_MODES];
};

struct linux_boot { bool have; u64 started; struct linux_run run; };   // started: host TSC

// Of one vCPU in one run; total 0: not profiled. counters: of the whole run of n.
struct breakdown { const char *what; enum mode_id mode; unsigned vcpu; u64 total, samples, ticks[PROF_N], n, counters[ASSAY_COUNTERS]; };
enum { BREAKDOWNS = 4 * ASSAY_TESTS };

struct assay {
    const struct assay_options *o;
    const struct assay_platform *p;
    const struct assay_guests *g;
    struct assay_header *guest, *native;      // the two windows' beginnings; native NULL: there is none
    unsigned cpus, round;
    struct assay_test tests[ASSAY_TESTS];     // the payload's table
    struct workload w[ASSAY_TESTS];
    unsigned n_workloads, clock;              // clock: the payload's test that takes the same number of cycles always
    u64 clock_n;
    u64 tsc_hz, started_tsc;
    bool counting;                            // the TSC counts instructions
    u64 events;                               // interrupts that came while the bare processor ran a workload
    unsigned clock_disturbed, clock_samples;
    char mismatch[256];                       // the first difference of checksums; empty: none
    struct linux_boot linux_boot[ASSAY_ROUNDS_MAX][N_MODES];
    struct breakdown breakdown[BREAKDOWNS];
    unsigned n_breakdowns;
    bool quit;                                // the user wants to end
};

// ---- pass.c ----
struct pass_job { unsigned test; u64 n; };    // test: in the payload's table
struct pass_result { u64 ticks, checksum, min, max, events; };
// Runs up to ASSAY_JOBS jobs in this mode. Several processors: the slowest one's ticks. False: it could not be done, why in err, and
// there are no results; a->quit if the user wants to end.
bool pass_run(struct assay *a, enum mode_id mode, const struct pass_job *job, unsigned n, struct pass_result *r, char *err, size_t errlen);
// While set: called at the beginning and the end of each job's timed part in a guest, in vCPU 0's context with the BQL held.
void pass_watch(void (*fn)(void *arg, bool end), void *arg);
// Is there such a mode for this test? NULL, or why not.
const char *pass_missing(const struct assay *a, enum mode_id mode, const struct assay_test *t);
// The guest's window holds a freshly loaded payload, so that its table can be read. False and a message.
bool pass_load(struct assay *a, char *err, size_t errlen);
// An address of the payload's as this side sees it in a window.
static inline void *pass_at(struct assay_header *h, u64 va) { return (u8 *)h + (va - ASSAY_VIRT); }

// ---- image.c ----
// The payload's segments into a window, everything else of it zero. False and a message.
bool image_load(const struct blob *elf, u8 *window, char *err, size_t errlen);

// ---- rounds.c ----
// Chooses each workload's n. False and a message: nothing runs at all.
bool rounds_calibrate(struct assay *a, char *err, size_t errlen);
void rounds_one(struct assay *a);             // round number a->round, all modes
void rounds_finish(struct assay *a);          // statistics
// A translated mode against native on as many processors, in thousandths: the ratio of the medians, and the quartiles of the ratios of
// single rounds. 0: there is none.
struct ratio { u64 median, low, high; };
struct ratio rounds_ratio(const struct workload *w, enum mode_id m);
// Warning number i for the user, if there is one.
bool rounds_warning(const struct assay *a, unsigned i, char *text, size_t len);

// ---- breakdown.c ----
void breakdown_all(struct assay *a);          // where translated time goes, workload by workload and in Linux
struct json;
void breakdown_put(struct json *j, const struct assay *a);

// ---- linux.c ----
void linux_one(struct assay *a);              // boots Linux in each translated mode, as a->round
void linux_boot_once(struct assay *a, enum mode_id mode);   // and does not keep what it says

// ---- facts.c ----
struct cpu_facts { char brand[49], vendor[13], hypervisor[13]; unsigned family, model, stepping; bool tsc_invariant; };
void facts_cpu(struct cpu_facts *f);
// Does the TSC advance by exactly one per instruction, as in QEMU with -icount?
bool facts_counting(void);
u32 facts_lacks(u32 needs);                   // of enum assay_need: NEED_AVX2 and NEED_PCID that CPUID does not have
u64 facts_tsc_hz(void);                       // measured against plat_time_ns, in 50 ms

// ---- document.c, table.c ----
// assay.json into buf; the length it has, or more than size if it does not fit.
u64 document_write(const struct assay *a, char *buf, u64 size, bool complete);
void table_print(const struct assay *a);
void assay_say(const struct assay *a, const char *fmt, ...) PRINTF(2, 3);   // a line on the console
