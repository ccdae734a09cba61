// Runs every row on the CPU and in Cupel with many inputs and compares. Then checks that the rows cover the decode table. The rows of
// 32-bit code run twice: in the guest's compatibility mode and in its protected mode.
//
//     insn_test [seed=N] [inputs=N] [row=TEXT] [bits=64|32] [show=N] [exit=poll] [chain=off] [one-insn-per-tb=on] [icount=on] [native] [v]
//
// row=: only rows whose text contains TEXT. native: the CPU against itself (tests the harness). v: says of each row how many inputs ran to
// its end on the CPU.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/insn/coverage.h"
#include "tests/insn/state.h"

struct row { const char *text, *opts; };
static const struct row rows[] = {
#include "rows.inc"
};
static const struct row rows32[] = {
#include "rows32.inc"
};
extern const u8 rows_text[], rows_text_end[], rows32_text[], rows32_text_end[];
extern const u32 rows_tab[][2], rows32_tab[][2];

// A set of rows and how it is run.
static const struct rowset {
    const char *mode;
    unsigned bits;
    bool legacy;
    const struct row *row;
    unsigned count;
    const u8 *text, *text_end;
    const u32 (*tab)[2];          // begin and end of each
} sets[] = {
    {"64-bit", 64, false, rows, ARRAY_SIZE(rows), rows_text, rows_text_end, rows_tab},
    {"compatibility", 32, false, rows32, ARRAY_SIZE(rows32), rows32_text, rows32_text_end, rows32_tab},
    {"protected", 32, true, rows32, ARRAY_SIZE(rows32), rows32_text, rows32_text_end, rows32_tab},
};

struct options { u64 seed; unsigned inputs, shown, bits; const char *only; bool native, verbose; struct translated_options t; };

static void show_failure(const struct rowset *s, unsigned row, unsigned i, const struct insn_state *in, const char *text)
{
    printf("%s row %u `%s` [%s] input %u:%s\n", s->mode, row, s->row[row].text, s->row[row].opts, i, text);
    printf("    flags %llx", (unsigned long long)in->rflags);
    for (int k = 0; k < 16; k++) printf(" %s %llx", gpr_names[k], (unsigned long long)in->gpr[k]);
    printf("\n");
}

static bool run_row(const struct options *o, const struct rowset *s, unsigned row, unsigned *failures)
{
    static struct insn_memory mem;
    static struct insn_result want, got;
    static struct insn_state in;
    char text[800];
    const char *opts = s->row[row].opts;
    struct rng r = {o->seed * 1000003 + row};
    unsigned count = input_count(opts, o->inputs), bad = 0, first = 0, ended = 0;
    char first_text[800];
    static struct insn_state first_in;
    u64 candidates = stale_candidates(s->text + s->tab[row][0], s->tab[row][1] - s->tab[row][0], s->bits);
    struct leave_out leave_out = {.cr2 = option_set(opts, "cr2"), .fault_flags = option_set(opts, "ff")};
    bool stale = option_set(opts, "stale");
    input_memory(&mem, &r);
    for (unsigned i = 0; i < count; i++) {
        input_make(&in, opts, s->bits, i, &r);
        in.rip = CODE_BASE + s->tab[row][0];
        native_run(&in, &mem, &want);
        if (candidates) {
            leave_out.flags_stale = stale ? candidates : stale_flags(candidates, &in, &mem, &want);
            native_run(&in, &mem, &want);
        }
        ended += want.vector == 6 && want.st.rip == (want.st.seg[S_CS] == SEL_L_CODE16 ? 0 : CODE_BASE) + s->tab[row][1];
        if (o->native) native_run(&in, &mem, &got);
        else translated_run(&in, &mem, &got);
        unsigned n = compare_results(&want, &got, &leave_out, text, sizeof text);
        if (n && !bad++) { first = i; first_in = in; memcpy(first_text, text, sizeof text); }
        if (got.vector >= RUN_HUNG) break;
    }
    if (o->verbose) printf("%s row %u `%s`: %u of %u inputs end well\n", s->mode, row, s->row[row].text, ended, count);
    if (bad && (*failures)++ < o->shown) {
        show_failure(s, row, first, &first_in, first_text);
        printf("    %u of %u inputs\n", bad, count);
    }
    return !bad;
}

static struct options parse(int argc, char **argv)
{
    struct options o = {.seed = 1, .inputs = 32, .shown = 20};
    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "seed=", 5)) o.seed = strtoull(argv[i] + 5, NULL, 0);
        else if (!strncmp(argv[i], "inputs=", 7)) o.inputs = (unsigned)atoi(argv[i] + 7);
        else if (!strncmp(argv[i], "bits=", 5)) o.bits = (unsigned)atoi(argv[i] + 5);
        else if (!strncmp(argv[i], "show=", 5)) o.shown = (unsigned)atoi(argv[i] + 5);
        else if (!strncmp(argv[i], "row=", 4)) o.only = argv[i] + 4;
        else if (!strcmp(argv[i], "exit=poll")) o.t.exit_poll = true;
        else if (!strcmp(argv[i], "one-insn-per-tb=on")) o.t.one_insn = true;
        else if (!strcmp(argv[i], "icount=on")) o.t.icount = true;
        else if (!strcmp(argv[i], "chain=off")) o.t.no_chain = true;
        else if (!strcmp(argv[i], "native")) o.native = true;
        else if (!strcmp(argv[i], "v")) o.verbose = true;
        else { fprintf(stderr, "insn_test: unknown argument %s\n", argv[i]); exit(2); }
    }
    return o;
}

struct sums { unsigned passed, failures, skipped; };

static void run_set(const struct options *o, const struct rowset *s, struct sums *sum)
{
    u64 len = (u64)(s->text_end - s->text);
    if (len > SCRATCH_OFF) { fprintf(stderr, "insn_test: %s rows take %llu bytes\n", s->mode, (unsigned long long)len); exit(2); }
    memcpy(native_code(), s->text, len);
    translated_code(0, s->text, len);
    translated_legacy(s->legacy);
    for (unsigned i = 0; i < s->count; i++) {
        if (o->only && !strstr(s->row[i].text, o->only)) continue;
        if (s->legacy && option_set(s->row[i].opts, "long")) continue;
        const u8 *code = s->text + s->tab[i][0];
        u64 n = s->tab[i][1] - s->tab[i][0];
        coverage_mark(code, n, s->bits);
        if (coverage_offered(code, n, s->bits)) sum->passed += run_row(o, s, i, &sum->failures);
        else sum->skipped++;
    }
}

int main(int argc, char **argv)
{
    struct options o = parse(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 0);
    signals_init();
    native_init();
    translated_init(&o.t);
    struct sums sum = {0};
    for (unsigned i = 0; i < ARRAY_SIZE(sets); i++)
        if (!o.bits || sets[i].bits == o.bits) run_set(&o, &sets[i], &sum);
    if (sum.failures > o.shown) printf("... and %u more\n", sum.failures - o.shown);
    if (!o.only && !o.bits) coverage_report(&sum.passed, &sum.failures);
    if (sum.skipped) printf("%u rows skipped: the guest's CPUID does not offer the instruction\n", sum.skipped);
    printf("%u passed, %u failed\n", sum.passed, sum.failures);
    return sum.failures != 0;
}
