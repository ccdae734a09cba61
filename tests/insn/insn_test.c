// Runs every row on the CPU and in Cupel with many inputs and compares. Then checks that the rows cover the decode table.
//
//     insn_test [seed=N] [inputs=N] [row=TEXT] [show=N] [exit=poll] [chain=off] [one-insn-per-tb=on] [native] [v]
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
extern const u8 rows_text[], rows_text_end[];
extern const u32 rows_tab[][2];

struct options { u64 seed; unsigned inputs, shown; const char *only; bool native, verbose; struct translated_options t; };

static void show_failure(unsigned row, unsigned i, const struct insn_state *in, const char *text)
{
    printf("row %u `%s` [%s] input %u:%s\n", row, rows[row].text, rows[row].opts, i, text);
    printf("    flags %llx", (unsigned long long)in->rflags);
    for (int k = 0; k < 16; k++) printf(" %s %llx", gpr_names[k], (unsigned long long)in->gpr[k]);
    printf("\n");
}

static bool run_row(const struct options *o, unsigned row, unsigned *failures)
{
    static struct insn_memory mem;
    static struct insn_result want, got;
    static struct insn_state in;
    char text[800];
    struct rng r = {o->seed * 1000003 + row};
    unsigned count = input_count(rows[row].opts, o->inputs), bad = 0, first = 0, ended = 0;
    char first_text[800];
    static struct insn_state first_in;
    u64 candidates = stale_candidates(rows_text + rows_tab[row][0], rows_tab[row][1] - rows_tab[row][0]);
    struct leave_out leave_out = {.cr2 = option_set(rows[row].opts, "cr2"), .fault_flags = option_set(rows[row].opts, "ff")};
    bool stale = option_set(rows[row].opts, "stale");
    input_memory(&mem, &r);
    for (unsigned i = 0; i < count; i++) {
        input_make(&in, rows[row].opts, i, &r);
        in.rip = CODE_BASE + rows_tab[row][0];
        native_run(&in, &mem, &want);
        if (candidates) {
            leave_out.flags_stale = stale ? candidates : stale_flags(candidates, &in, &mem, &want);
            native_run(&in, &mem, &want);
        }
        ended += want.vector == 6 && want.st.rip == CODE_BASE + rows_tab[row][1];
        if (o->native) native_run(&in, &mem, &got);
        else translated_run(&in, &mem, &got);
        unsigned n = compare_results(&want, &got, &leave_out, text, sizeof text);
        if (n && !bad++) { first = i; first_in = in; memcpy(first_text, text, sizeof text); }
        if (got.vector >= RUN_HUNG) break;
    }
    if (o->verbose) printf("row %u `%s`: %u of %u inputs end well\n", row, rows[row].text, ended, count);
    if (bad && (*failures)++ < o->shown) {
        show_failure(row, first, &first_in, first_text);
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
        else if (!strncmp(argv[i], "show=", 5)) o.shown = (unsigned)atoi(argv[i] + 5);
        else if (!strncmp(argv[i], "row=", 4)) o.only = argv[i] + 4;
        else if (!strcmp(argv[i], "exit=poll")) o.t.exit_poll = true;
        else if (!strcmp(argv[i], "one-insn-per-tb=on")) o.t.one_insn = true;
        else if (!strcmp(argv[i], "chain=off")) o.t.no_chain = true;
        else if (!strcmp(argv[i], "native")) o.native = true;
        else if (!strcmp(argv[i], "v")) o.verbose = true;
        else { fprintf(stderr, "insn_test: unknown argument %s\n", argv[i]); exit(2); }
    }
    return o;
}

int main(int argc, char **argv)
{
    struct options o = parse(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 0);
    signals_init();
    native_init();
    u64 len = (u64)(rows_text_end - rows_text);
    if (len > SCRATCH_OFF) { fprintf(stderr, "insn_test: rows take %llu bytes\n", (unsigned long long)len); return 2; }
    memcpy(native_code(), rows_text, len);
    translated_init(&o.t);
    translated_code(0, rows_text, len);
    unsigned passed = 0, failures = 0, skipped = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        if (o.only && !strstr(rows[i].text, o.only)) continue;
        const u8 *code = rows_text + rows_tab[i][0];
        u64 n = rows_tab[i][1] - rows_tab[i][0];
        coverage_mark(code, n);
        if (coverage_offered(code, n)) passed += run_row(&o, i, &failures);
        else skipped++;
    }
    if (failures > o.shown) printf("... and %u more\n", failures - o.shown);
    if (!o.only) coverage_report(&passed, &failures);
    if (skipped) printf("%u rows skipped: the guest's CPUID does not offer the instruction\n", skipped);
    printf("%u passed, %u failed\n", passed, failures);
    return failures != 0;
}
