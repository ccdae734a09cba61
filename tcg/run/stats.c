// What "info jit" tells: counters that the translator keeps anyway, and a sampling profile for free - every interrupt that
// arrives in translated code counts for the TB it hit.
#include "kernel/base/fmt.h"
#include "kernel/base/types.h"
#include "tcg/run/tcg.h"

#define ull unsigned long long
enum { HOT = 10 };

static void hot_insert(const struct tb *hot[HOT], const struct tb *tb)
{
    for (unsigned n = 0; n < HOT; n++) {
        if (hot[n] && hot[n]->samples >= tb->samples) continue;
        for (unsigned k = HOT - 1; k > n; k--) hot[k] = hot[k - 1];
        hot[n] = tb;
        return;
    }
}

static void hot_table(const struct tcg *t, void (*out)(void *o, const char *s), void *o)
{
    const struct tb *hot[HOT] = {0};
    char b[160];
    u64 all = 0;
    for (u32 i = 0; i < t->n_tbs; i++) {
        all += t->order[i]->samples;
        if (t->order[i]->samples) hot_insert(hot, t->order[i]);
    }
    fmt_snprintf(b, sizeof b, "hot blocks      %llu samples\n  samples  guest pc            guest insns  host insns  host/guest\n", (ull)all);
    out(o, b);
    for (unsigned n = 0; n < HOT && hot[n]; n++) {
        unsigned guest = hot[n]->n_insns ? hot[n]->n_insns : 1, host = hot[n]->host_insns;
        fmt_snprintf(b, sizeof b, "  %7u  %#018llx  %11u  %10u  %7u.%02u\n", hot[n]->samples, (ull)hot[n]->pc, guest, host, host / guest,
                     host * 100 / guest % 100);
        out(o, b);
    }
}

void tcg_info(const struct tcg *t, const struct vcpu *c, void (*out)(void *o, const char *s), void *o)
{
    char b[640];
    u64 guest = t->n_guest_insns ? t->n_guest_insns : 1, ticks = t->translate_ticks ? t->translate_ticks : 1;
    fmt_snprintf(b, sizeof b,
                 "code cache      %llu/%llu KiB, %u TBs, %llu flushes\n"
                 "translated      %llu TBs, %llu guest instructions, %llu host instructions (%llu.%02llu per guest instruction)\n"
                 "                %llu KiB of guest code in %llu Mticks: %llu bytes per million ticks\n"
                 "exits           %llu: chain %llu, other page %llu, poll %llu, indirect %llu, loop %llu\n"
                 "softmmu         %llu TLB misses, %llu flushes, %llu of a page, %llu device accesses, %llu writes to code\n",
                 (ull)(t->used / KIB), (ull)(t->size / KIB), t->n_tbs, (ull)t->n_flushes, (ull)c->n_translated_tb, (ull)t->n_guest_insns,
                 (ull)t->n_host_insns, (ull)(t->n_host_insns / guest), (ull)(t->n_host_insns * 100 / guest % 100),
                 (ull)(c->n_translated_bytes / KIB), (ull)(t->translate_ticks / 1000000), (ull)(c->n_translated_bytes * 1000000 / ticks),
                 (ull)c->n_exits, (ull)c->n_exit_kind[EXIT_CHAIN], (ull)c->n_exit_kind[EXIT_GUARDED], (ull)c->n_exit_kind[EXIT_PC],
                 (ull)c->n_exit_kind[EXIT_INDIRECT], (ull)c->n_exit_kind[EXIT_LEAVE], (ull)c->n_tlb_miss, (ull)c->n_flush,
                 (ull)c->n_flush_page, (ull)c->n_mmio, (ull)c->n_smc);
    out(o, b);
    hot_table(t, out, o);
}
