// The code cache: regions, their arenas, and the way back from a host address to its TB.
//
// The cache is cut into equal regions. A vCPU takes one and fills it from front to back, code in the region, TB structs and metadata in the
// region's part of the arena, so making a TB takes no lock. When the regions are used up everything is dropped at once and the cache starts
// anew: TBs then come back as they are used, which costs little at the speed of translation and needs no order of ageing. One vCPU has the
// whole cache as its region; several have four regions each, so that one that translates more than the others gets more; fewer where the
// cache is small, since the end of a region, where a TB of the greatest length would not fit, stays empty.
#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "tcg/run/softmmu.h"
#include "tcg/run/tcg.h"

enum { REGIONS_PER_VCPU = 4, REGION_MIN = 2 * TB_CODE_MAX, REGION_GOOD = 8 * TB_CODE_MAX, BYTES_PER_TB = 256 };

u64 tcg_cache_min(unsigned vcpus) { return 2 * MIB + (u64)vcpus * REGION_MIN; }

static bool regions_make(struct tcg *t)
{
    unsigned vcpus = t->cfg.vcpus > 1 ? t->cfg.vcpus : 1;
    t->n_regions = vcpus == 1 ? 1 : vcpus * REGIONS_PER_VCPU;
    u64 room = t->size - t->first;
    while (t->n_regions > vcpus && room / t->n_regions < REGION_GOOD) t->n_regions--;
    t->region_size = align_down(room / t->n_regions, 64);
    t->max_tbs = (u32)(t->region_size / BYTES_PER_TB);
    t->regions = plat_pages_alloc(t->n_regions * sizeof *t->regions);
    struct tb **order = plat_pages_alloc((u64)t->n_regions * t->max_tbs * sizeof *order);
    if (!t->regions || !order) return false;
    for (unsigned n = 0; n < t->n_regions; n++) t->regions[n].order = order + (u64)n * t->max_tbs;
    return true;
}

struct tcg *tcg_new(const struct tcg_config *cfg)
{
    struct tcg *t = plat_pages_alloc(sizeof *t);
    if (!t) return NULL;
    t->cfg = *cfg;
    t->size = t->arena_size = cfg->cache_size;
    t->n_page_chunks = 1ull << (MAX_PHYS_BITS - PAGE_SHIFT - PAGE_CHUNK_BITS);
    if (!plat_code_alloc(t->size, &t->rw, &t->rx)) return NULL;
    t->arena = plat_pages_alloc(t->arena_size);
    t->hash = plat_pages_alloc(sizeof(struct tb *) << TB_HASH_BITS);
    t->pages = plat_pages_alloc(t->n_page_chunks * sizeof(*t->pages));
    t->sigs = plat_pages_alloc(sizeof(struct code_sig) << SIG_HASH_BITS);
    if (!t->arena || !t->hash || !t->pages || !t->sigs) return NULL;
    host_prologue_emit(t);
    t->first = align_up((u64)(t->stubs.end - t->rx), 64);
    return regions_make(t) ? t : NULL;
}

static void jc_flush(struct vcpu *c)
{
    for (unsigned k = 0; k < JC_CLASSES; k++) {
        memset(&c->jc[k], 0, sizeof c->jc[k]);
        c->jc[k].at[0].pc = jc_empty_pc(0);
    }
}

bool tcg_add_vcpu(struct tcg *t, struct vcpu *c)
{
    ASSERT(t->n_vcpus < ARRAY_SIZE(t->vcpus), "vCPU %u", t->n_vcpus);
    struct translator *tr = plat_pages_alloc(sizeof *tr);
    if (!tr) return false;
    tr->block = plat_pages_alloc(sizeof(struct ir_block));
    tr->emit = plat_pages_alloc(host_emit_size());
    tr->dice = t->n_vcpus;
    jc_flush(c);
    c->tr = tr;
    c->as_sets = as_sets_new();
    t->vcpus[t->n_vcpus++] = c;
    return tr->block && tr->emit && c->as_sets;
}

void *tcg_arena_alloc(struct vcpu *c, u64 size)
{
    struct translator *tr = c->tr;
    size = align_up(size, 16);
    ASSERT(tr->arena_used + size <= tr->arena_end, "arena: %llu of %llu used", (unsigned long long)tr->arena_used, (unsigned long long)tr->arena_end);
    void *p = c->tcg->arena + tr->arena_used;
    tr->arena_used += size;
    memset(p, 0, size);
    return p;
}

static bool region_take(struct vcpu *c)
{
    struct tcg *t = c->tcg;
    struct translator *tr = c->tr;
    u32 n = __atomic_fetch_add(&t->next_region, 1, __ATOMIC_RELAXED);
    if (n >= t->n_regions) {
        __atomic_store_n(&t->next_region, t->n_regions, __ATOMIC_RELAXED);
        return false;
    }
    u64 arena_part = align_down((t->arena_size / t->n_regions), 64);
    tr->used = t->first + n * t->region_size;
    tr->end = tr->used + t->region_size;
    tr->arena_used = n * arena_part;
    tr->arena_end = tr->arena_used + arena_part;
    tr->region = &t->regions[n];
    return true;
}

static bool has_room(const struct tcg *t, const struct translator *tr, u64 room)
{
    return tr->region && tr->used + room <= tr->end && tr->arena_used + room <= tr->arena_end && tr->region->n_tbs < t->max_tbs;
}

// For this block, not for the largest there could be: a small region would be given up with most of it unused.
void region_need(struct vcpu *c, u64 room)
{
    while (!has_room(c->tcg, c->tr, room) && !region_take(c)) tcg_flush_all(c);
}

struct tb *region_add(struct vcpu *c, struct tb *tb)
{
    struct code_region *r = c->tr->region;
    r->order[r->n_tbs] = tb;
    __atomic_store_n(&r->n_tbs, r->n_tbs + 1, __ATOMIC_RELEASE);
    return tb;
}

// Everybody else is parked, so nobody is in the code or holds a TB.
static void flush_alone(struct tcg *t)
{
    t->n_flushes++;
    memset(t->hash, 0, sizeof(struct tb *) << TB_HASH_BITS);
    tb_pages_reset(t);
    t->n_classes = 0;
    t->next_region = 0;
    for (unsigned n = 0; n < t->n_regions; n++) t->regions[n].n_tbs = 0;
    for (unsigned v = 0; v < t->n_vcpus; v++) {
        struct vcpu *c = t->vcpus[v];
        tlb_flush(c);
        jc_flush(c);
        c->last_tb = NULL;
        c->n_unlinked = 0;
        c->tr->region = NULL;
    }
}

void tcg_flush_all(struct vcpu *c)
{
    struct tcg *t = c->tcg;
    u64 before = t->n_flushes;
    bool had = t->exclusive == c;
    exclusive_begin(c);
    if (t->n_flushes == before || !tcg_shared(t)) {   // (another vCPU may have done it while this one waited)
        bool irqs = tb_lock(t);
        flush_alone(t);
        tb_unlock(t, irqs);
    }
    if (!had) exclusive_end(c);
}

void tcg_set_engine(struct tcg *t, bool exit_poll, bool no_chain)
{
    bool irqs = tb_lock(t);
    t->cfg.exit_poll = exit_poll;
    t->cfg.no_chain = no_chain;
    flush_alone(t);
    tb_unlock(t, irqs);
}

// ---- from host code back to the guest -------------------------------------------------------------------------------------------

struct tb *tb_by_host(struct tcg *t, u64 rip)
{
    u64 off = rip - (u64)t->rx - t->first, n = off / t->region_size;
    if (rip < (u64)t->rx + t->first || n >= t->n_regions) return NULL;
    const struct code_region *r = &t->regions[n];
    u32 lo = 0, hi = __atomic_load_n(&r->n_tbs, __ATOMIC_ACQUIRE);
    if (!hi) return NULL;
    while (hi - lo > 1) {
        u32 mid = (lo + hi) / 2;
        if ((u64)r->order[mid]->code <= rip) lo = mid;
        else hi = mid;
    }
    struct tb *tb = r->order[lo];
    return rip >= (u64)tb->code && rip < (u64)tb->code + tb->code_size ? tb : NULL;
}

static const struct tb_mark *mark_at(const struct tb *tb, u64 rip)
{
    u32 off = (u32)(rip - (u64)tb->code);
    unsigned n = 0;
    while (n + 1 < tb->n_marks && tb->marks[n + 1].off <= off) n++;
    return &tb->marks[n];
}

unsigned tb_insn_at(const struct tb *tb, u64 rip) { return mark_at(tb, rip)->insn; }

void tb_restore(struct vcpu *c, const struct tb *tb, u64 rip, u64 eflags)
{
    const struct tb_mark *m = mark_at(tb, rip);
    c->pc = tb->pc + tb->insn_off[m->insn];
    const struct flag_recipe *r = &tb->recipes[m->recipe];
    if (r->kind == FR_HOST) c->cc = cc_from_eflags(eflags);
    else if (r->kind == FR_OP) c->cc = flags_recompute(c, r);
}
