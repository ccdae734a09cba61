// Random sequences on the CPU and in Cupel, compared; a failing one is shrunk by leaving out what is not needed.
//
//     insn_random [seconds=N] [rounds=N] [seed=N] [exit=poll] [chain=off] [one-insn-per-tb=on] [icount=on]
//                 [tb-size=MIB] [d=BITS] [mode=64|compat|legacy]
//
// Every sequence has its own seed, printed on failure: seed=N rounds=1 repeats it. d: TRACE_* of kernel/base/log.h. mode: 64-bit code, or
// 32-bit code in the guest's compatibility mode or its protected mode; without it the seed decides.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernel/base/log.h"
#include "tests/insn/sequence.h"

enum { MODE_64, MODE_COMPAT, MODE_LEGACY };
enum { INPUTS = 4, SHOWN = 20, CODE_MAX = 1024 };

static struct insn_memory mem;

struct verdict { unsigned input, hung; char text[700]; struct insn_state in; };

static void options_for(const struct sequence *s, char *opts, size_t len)
{
    size_t n = 0;
    opts[0] = 0;
    for (int i = 0; i < 16; i++)
        if (s->pointers >> i & 1 && n < len) n += (size_t)snprintf(opts + n, len - n, "%s=%s ", gpr_names[i], i == 4 ? "pv" : i % 3 ? "pv" : "pe");
    if (n < len) snprintf(opts + n, len - n, "rcx=c df");
}

// icount: cut in other places, the same run must take as many instructions.
static bool count_differs(const struct insn_state *in, const struct insn_result *first, struct verdict *v)
{
    static struct insn_result again;
    struct leave_out nothing = {.fault_flags = false};
    u64 count = translated_count();
    translated_run(in, &mem, &again);
    if (compare_results(first, &again, &nothing, v->text, sizeof v->text)) return true;
    if (translated_count() == count) return false;
    snprintf(v->text, sizeof v->text, " %llu instructions, then %llu", (unsigned long long)count, (unsigned long long)translated_count());
    return true;
}

// True: equal for all inputs.
static bool check(const struct sequence *s, u64 seed, struct verdict *v)
{
    static struct insn_result want, got;
    struct leave_out leave_out = {.fault_flags = false};
    struct insn_state in;
    struct rng r = {seed ^ 0x5eed};
    u8 code[CODE_MAX];
    char opts[256];
    unsigned len = sequence_layout(s, code, sizeof code);
    u64 off = SCRATCH_OFF + rng_below(&r, 3) * 0x1000 + (rng_below(&r, 4) ? 0 : 0xff0 - rng_below(&r, 64));   // sometimes over a page's end
    memcpy(native_code() + off, code, len);
    translated_code(off, code, len);
    // A faulting REP SCAS shows other flags on AMD: see rows/string.def.
    for (unsigned i = 0; i < s->n; i++) leave_out.fault_flags |= !strcmp(s->item[i].name, "scas");
    options_for(s, opts, sizeof opts);
    input_memory(&mem, &r);
    for (unsigned i = 0; i < INPUTS; i++) {
        input_make(&in, opts, s->bits, (unsigned)rng_below(&r, 8), &r);
        in.rip = CODE_BASE + off;
        native_run(&in, &mem, &want);
        translated_run(&in, &mem, &got);
        leave_out.flags_stale = want.vector == 0 ? 0x8d5 : 0;   // #DE: undefined, see stale.c
        bool differs = compare_results(&want, &got, &leave_out, v->text, sizeof v->text);
        if (!differs && translated_count()) differs = count_differs(&in, &got, v);
        if (!differs) continue;
        v->input = i;
        v->in = in;
        v->hung = got.vector >= RUN_HUNG;
        return false;
    }
    return true;
}

static void shrink(struct sequence *s, u64 seed, struct verdict *v)
{
    if (v->hung == 1 && strstr(v->text, "256")) return;   // a hang costs seconds per try
    for (bool again = true; again;) {
        again = false;
        for (unsigned i = s->n; i-- > 0 && s->n > 1;) {
            struct sequence less = *s;
            struct verdict w;
            sequence_remove(&less, i);
            if (check(&less, seed, &w)) continue;
            *s = less;
            *v = w;
            again = true;
        }
    }
}

static void show(const struct sequence *s, u64 seed, const struct verdict *v)
{
    printf("seed=%llu input %u:%s\n", (unsigned long long)seed, v->input, v->text);
    sequence_print(s);
    printf("    rip %llx flags %llx", (unsigned long long)v->in.rip, (unsigned long long)v->in.rflags);
    for (int k = 0; k < 16; k++) printf(" %s %llx", gpr_names[k], (unsigned long long)v->in.gpr[k]);
    printf("\n");
}

int main(int argc, char **argv)
{
    struct translated_options o = {0};
    int mode = -1;
    u64 seed = 1, rounds = ~0ull, seconds = 20, passed = 0, failed = 0;
    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "seconds=", 8)) seconds = strtoull(argv[i] + 8, NULL, 0);
        else if (!strncmp(argv[i], "rounds=", 7)) { rounds = strtoull(argv[i] + 7, NULL, 0); seconds = ~0ull >> 2; }
        else if (!strncmp(argv[i], "seed=", 5)) seed = strtoull(argv[i] + 5, NULL, 0);
        else if (!strncmp(argv[i], "tb-size=", 8)) o.tb_size = strtoull(argv[i] + 8, NULL, 0) << 20;
        else if (!strncmp(argv[i], "d=", 2)) trace_set_mask((unsigned)strtoul(argv[i] + 2, NULL, 0));
        else if (!strcmp(argv[i], "mode=64")) mode = MODE_64;
        else if (!strcmp(argv[i], "mode=compat")) mode = MODE_COMPAT;
        else if (!strcmp(argv[i], "mode=legacy")) mode = MODE_LEGACY;
        else if (!strcmp(argv[i], "exit=poll")) o.exit_poll = true;
        else if (!strcmp(argv[i], "one-insn-per-tb=on")) o.one_insn = true;
        else if (!strcmp(argv[i], "icount=on")) o.icount = true;
        else if (!strcmp(argv[i], "chain=off")) o.no_chain = true;
        else { fprintf(stderr, "insn_random: unknown argument %s\n", argv[i]); return 2; }
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    signals_init();
    native_init();
    translated_init(&o);
    u64 end = (u64)time(NULL) + seconds;
    for (u64 n = 0; n < rounds && (n % 64 || (u64)time(NULL) < end); n++, seed++) {
        struct rng r = {seed * 0x1234567};
        struct sequence s;
        struct verdict v;
        unsigned m = mode >= 0 ? (unsigned)mode : seed % 4 < 2 ? MODE_64 : seed % 4 - 1;
        translated_legacy(m == MODE_LEGACY);
        sequence_make(&s, m == MODE_64 ? 64 : 32, &r);
        if (check(&s, seed, &v)) { passed++; continue; }
        if (failed++ >= SHOWN) continue;
        shrink(&s, seed, &v);
        show(&s, seed, &v);
    }
    printf("%llu passed, %llu failed (next seed %llu)\n", (unsigned long long)passed, (unsigned long long)failed, (unsigned long long)seed);
    return failed != 0;
}
