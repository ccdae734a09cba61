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
    for (u32 r = 0; r < t->n_regions; r++)
        for (u32 i = 0; i < t->regions[r].n_tbs; i++) {
            const struct tb *tb = t->regions[r].order[i];
            all += tb->samples;
            if (tb->samples) hot_insert(hot, tb);
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

// All vCPUs' counters in one.
struct sums { u64 guest, host, ticks, tbs, bytes, exits, kind[5], misses, flushes, pages, mmio, smc, used; u32 live; };

static void sums_add(struct sums *s, const struct vcpu *c)
{
    s->guest += c->tr->n_guest_insns;
    s->host += c->tr->n_host_insns;
    s->ticks += c->tr->ticks;
    s->tbs += c->n_translated_tb;
    s->bytes += c->n_translated_bytes;
    s->exits += c->n_exits;
    for (unsigned k = 0; k < 5; k++) s->kind[k] += c->n_exit_kind[k];
    s->misses += c->n_tlb_miss;
    s->flushes += c->n_flush;
    s->pages += c->n_flush_page;
    s->mmio += c->n_mmio;
    s->smc += c->n_smc;
}

static void regions_add(struct sums *s, const struct tcg *t)
{
    s->used = t->first;
    for (u32 r = 0; r < t->n_regions; r++) {
        u32 n = t->regions[r].n_tbs;
        const struct tb *last = n ? t->regions[r].order[n - 1] : NULL;
        s->live += n;
        if (last) s->used += (u64)(last->code + last->code_size - (t->rx + t->first + r * t->region_size));
    }
}

void tcg_info(const struct tcg *t, void (*out)(void *o, const char *s), void *o)
{
    char b[800];
    struct sums s = {0};
    for (unsigned n = 0; n < t->n_vcpus; n++) sums_add(&s, t->vcpus[n]);
    regions_add(&s, t);
    u64 guest = s.guest ? s.guest : 1, ticks = s.ticks ? s.ticks : 1;
    fmt_snprintf(b, sizeof b,
                 "code cache      %llu/%llu KiB, %u TBs, %llu flushes\n"
                 "translated      %llu TBs, %llu guest instructions, %llu host instructions (%llu.%02llu per guest instruction)\n"
                 "                %llu KiB of guest code in %llu Mticks: %llu bytes per million ticks\n"
                 "exits           %llu: chain %llu, other page %llu, poll %llu, indirect %llu, loop %llu\n"
                 "softmmu         %llu TLB misses, %llu flushes, %llu of a page, %llu device accesses, %llu writes to code\n"
                 "vCPUs           %u: %llu pages claimed for code, %llu blocks translated again, %llu times alone\n",
                 (ull)(s.used / KIB), (ull)(t->size / KIB), s.live, (ull)t->n_flushes, (ull)s.tbs, (ull)s.guest, (ull)s.host,
                 (ull)(s.host / guest), (ull)(s.host * 100 / guest % 100), (ull)(s.bytes / KIB), (ull)(s.ticks / 1000000),
                 (ull)(s.bytes * 1000000 / ticks), (ull)s.exits, (ull)s.kind[EXIT_CHAIN], (ull)s.kind[EXIT_GUARDED], (ull)s.kind[EXIT_PC],
                 (ull)s.kind[EXIT_INDIRECT], (ull)s.kind[EXIT_LEAVE], (ull)s.misses, (ull)s.flushes, (ull)s.pages, (ull)s.mmio, (ull)s.smc,
                 t->n_vcpus, (ull)t->n_claims, (ull)t->n_retries, (ull)t->n_exclusive);
    out(o, b);
    hot_table(t, out, o);
}
