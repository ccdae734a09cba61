// Translation blocks: making, finding, chaining, dropping.
//
// Found by a hash of the guest-physical address. Each guest-physical page lists the TBs that have bytes on it, so that a write to the page
// finds what it breaks. The code cache is filled from front to back; when it is full everything is dropped at once and the cache starts
// anew: TBs then come back as they are used, which costs little at the speed of translation and needs no order of ageing. Chaining is
// recorded on both sides, so that a TB can be taken out of everybody's jumps before it goes.
#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"
#include "tcg/run/softmmu.h"
#include "tcg/run/tcg.h"

enum { PAGE_CHUNK_BITS = 9, MAX_PHYS_BITS = 40 };

static u64 read_tsc(void) { return __builtin_ia32_rdtsc(); }

struct tcg *tcg_new(const struct tcg_config *cfg)
{
    struct tcg *t = plat_pages_alloc(sizeof *t);
    if (!t) return NULL;
    t->cfg = *cfg;
    t->size = cfg->cache_size;
    t->arena_size = cfg->cache_size;
    t->max_tbs = (u32)(cfg->cache_size / 256);
    t->n_page_chunks = 1ull << (MAX_PHYS_BITS - PAGE_SHIFT - PAGE_CHUNK_BITS);
    if (!plat_code_alloc(t->size, &t->rw, &t->rx)) return NULL;
    t->arena = plat_pages_alloc(t->arena_size);
    t->hash = plat_pages_alloc(sizeof(struct tb *) << TB_HASH_BITS);
    t->pages = plat_pages_alloc(t->n_page_chunks * sizeof(*t->pages));
    t->sigs = plat_pages_alloc(sizeof(struct code_sig) << SIG_HASH_BITS);
    t->order = plat_pages_alloc(t->max_tbs * sizeof(struct tb *));
    t->block = plat_pages_alloc(sizeof(struct ir_block));
    t->emit = plat_pages_alloc(host_emit_size());
    if (!t->arena || !t->hash || !t->pages || !t->order || !t->sigs || !t->block || !t->emit) return NULL;
    host_prologue_emit(t);
    return t;
}

void tcg_add_vcpu(struct tcg *t, struct vcpu *c)
{
    ASSERT(t->n_vcpus < ARRAY_SIZE(t->vcpus), "vCPU %u", t->n_vcpus);
    t->vcpus[t->n_vcpus++] = c;
}

void *tcg_arena_alloc(struct tcg *t, u64 size)
{
    size = align_up(size, 16);
    ASSERT(t->arena_used + size <= t->arena_size, "arena: %llu of %llu used", (unsigned long long)t->arena_used, (unsigned long long)t->arena_size);
    void *p = t->arena + t->arena_used;
    t->arena_used += size;
    memset(p, 0, size);
    return p;
}

u32 tcg_code_signature(struct tcg *t, u64 va, u64 page, unsigned mmu)
{
    u32 mask = (1u << SIG_HASH_BITS) - 1;
    if (t->n_sigs > mask / 2) {                   // forget them all: chained jumps then miss once and learn the new numbers
        memset(t->sigs, 0, sizeof(struct code_sig) << SIG_HASH_BITS);
        t->n_sigs = 0;
    }
    u32 i = (u32)((va >> PAGE_SHIFT) * 0x9e3779b1u ^ (page >> PAGE_SHIFT) * 0x85ebca6bu ^ mmu) & mask;
    for (; t->sigs[i].sig; i = (i + 1) & mask)
        if (t->sigs[i].va == va && t->sigs[i].page == page && t->sigs[i].mmu == mmu) return t->sigs[i].sig;
    t->n_sigs++;
    t->sigs[i] = (struct code_sig){.va = va, .page = page, .sig = ++t->last_sig, .mmu = (u8)mmu};
    return t->last_sig;
}

// ---- by physical page ---------------------------------------------------------------------------------------------------

static struct tb **page_slot(struct tcg *t, u64 page, bool make)
{
    u64 chunk = page >> PAGE_CHUNK_BITS;
    if (chunk >= t->n_page_chunks) return NULL;
    if (!t->pages[chunk]) {
        if (!make) return NULL;
        t->pages[chunk] = plat_pages_alloc(sizeof(struct tb *) << PAGE_CHUNK_BITS);
        ASSERT(t->pages[chunk], "no memory for the page table of TBs%s", "");
    }
    return &t->pages[chunk][page & ((1u << PAGE_CHUNK_BITS) - 1)];
}

static struct tb **page_head(struct tcg *t, u64 page) { return page_slot(t, page, false); }

bool tb_page_has_code(struct tcg *t, struct gpa a)
{
    struct tb **h = page_head(t, a.v >> PAGE_SHIFT);
    return h && *h;
}

// Writes to a page must be seen from now on: no vCPU may have it in a write TLB. Host addresses identify RAM pages.
static void write_protect(struct tcg *t, u64 page)
{
    for (unsigned v = 0; v < t->n_vcpus; v++) {
        struct vcpu *c = t->vcpus[v];
        u8 *host = phys_host(c->phys, gpa(page << PAGE_SHIFT));
        if (!host) continue;
        for (unsigned m = 0; m < MMU_MODES; m++)
            for (unsigned i = 0; i < TLB_SIZE; i++)
                if (c->tlb[m][1][i].host == (u64)host) c->tlb[m][1][i] = (struct tlb_entry){.tag = tlb_empty_tag(i)};
    }
}

static void page_add(struct tcg *t, struct tb *tb, unsigned n)
{
    struct tb **h = page_slot(t, tb->page[n], true);
    if (!h) return;
    if (!*h) write_protect(t, tb->page[n]);
    tb->page_next[n] = *h;
    *h = tb;
}

static void page_remove(struct tcg *t, struct tb *tb, unsigned n)
{
    struct tb **p = page_head(t, tb->page[n]);
    while (p && *p) {
        unsigned k = (*p)->page[0] == tb->page[n] ? 0 : 1;
        if (*p == tb) {
            *p = tb->page_next[n];
            return;
        }
        p = &(*p)->page_next[k];
    }
}

// ---- by hash -----------------------------------------------------------------------------------------------------------

static unsigned hash_of(u64 pa) { return (unsigned)((pa ^ pa >> TB_HASH_BITS) & ((1u << TB_HASH_BITS) - 1)); }

static struct tb *hash_find(struct tcg *t, u64 pa, u64 pc, u64 cs_base, u32 mode)
{
    for (struct tb *tb = t->hash[hash_of(pa)]; tb; tb = tb->hash_next)
        if (tb->gpa.v == pa && tb->pc == pc && tb->cs_base == cs_base && tb->mode == mode) return tb;
    return NULL;
}

static void hash_remove(struct tcg *t, struct tb *tb)
{
    struct tb **p = &t->hash[hash_of(tb->gpa.v)];
    while (*p && *p != tb) p = &(*p)->hash_next;
    if (*p) *p = tb->hash_next;
}

// ---- chaining ------------------------------------------------------------------------------------------------------------

static u8 *rw_of(struct tcg *t, const u8 *rx) { return (u8 *)rx - (t->rx - t->rw); }

static void patch_exit(struct tcg *t, struct tb_exit *x, const u8 *dest_rx)
{
    u8 *rel = x->owner->code + x->rel;
    s64 d = dest_rx - (rel + 4);
    __atomic_store_n((s32 *)(void *)rw_of(t, rel), (s32)d, __ATOMIC_RELEASE);
}

static const u8 *entry_for(const struct tb_exit *x, const struct tb *to)
{
    bool saved = x->saved && (!x->host || !to->wants_host);
    return to->code + (saved ? to->entry_saved : to->entry_host);
}

static bool chainable(const struct tb_exit *x) { return x->kind == EXIT_CHAIN || x->kind == EXIT_GUARDED; }

static void exit_detach(struct tb_exit *x)
{
    struct tb_exit **p = &x->dest->in_head;
    while (*p && *p != x) p = &(*p)->next_in;
    if (*p) *p = x->next_in;
    x->dest = NULL;
}

void tb_chain(struct vcpu *c, struct tb *from, unsigned exit, struct tb *to)
{
    struct tcg *t = c->tcg;
    struct tb_exit *x = &from->exits[exit];
    if (t->cfg.no_chain || !chainable(x) || from->invalid || to->invalid || from->oneshot || to->oneshot) return;
    if (x->kind == EXIT_GUARDED) {
        u64 va = to->pc + to->cs_base;
        *(u32_any *)rw_of(t, from->code + x->sig) = c->xsig[c->ops->mmu_mode(c, to->mode)][xtlb_index(va)];
    }
    if (x->dest == to) return;
    if (x->dest) exit_detach(x);
    x->dest = to;
    x->next_in = to->in_head;
    to->in_head = x;
    patch_exit(t, x, entry_for(x, to));
}

static void patch_miss(struct tcg *t, struct tb *tb, u16 opcode)
{
    for (unsigned n = 0; n < tb->n_ind; n++) __atomic_store_n((u16 *)(void *)rw_of(t, tb->code + tb->ind[n].jne), opcode, __ATOMIC_RELEASE);
}

void tb_unlink(struct tcg *t, struct tb *tb)
{
    tb->unlinked = true;
    for (unsigned n = 0; n < tb->n_exits; n++)
        if (chainable(&tb->exits[n])) patch_exit(t, &tb->exits[n], tb->code + tb->exits[n].stub);
    patch_miss(t, tb, 0xe990);                    // jne rel32 becomes nop; jmp rel32: the lookup always misses
}

void tb_relink(struct tcg *t, struct tb *tb)
{
    tb->unlinked = false;
    for (unsigned n = 0; n < tb->n_exits; n++)
        if (tb->exits[n].dest) patch_exit(t, &tb->exits[n], entry_for(&tb->exits[n], tb->exits[n].dest));
    patch_miss(t, tb, 0x850f);
}

static void unchain_incoming(struct tcg *t, struct tb *tb)
{
    for (struct tb_exit *x = tb->in_head; x; x = x->next_in) {
        x->dest = NULL;
        patch_exit(t, x, x->owner->code + x->stub);
    }
    tb->in_head = NULL;
}

static void unchain_outgoing(struct tb *tb)
{
    for (unsigned n = 0; n < tb->n_exits; n++)
        if (tb->exits[n].dest) exit_detach(&tb->exits[n]);
}

// ---- dropping ------------------------------------------------------------------------------------------------------------

static void jc_forget(struct tcg *t, const struct tb *tb)
{
    unsigned i = jc_index(tb->pc);
    if (tb->jc_class == JC_NONE) return;
    for (unsigned v = 0; v < t->n_vcpus; v++) {
        struct jump_cache *jc = &t->vcpus[v]->jc[tb->jc_class];
        if (jc->pc[i] == tb->pc) jc->pc[i] = jc_empty_pc(i);
    }
}

static void tb_drop(struct tcg *t, struct tb *tb)
{
    tb->invalid = true;
    hash_remove(t, tb);
    for (unsigned n = 0; n < 2; n++)
        if (tb->page[n] != ~0ull) page_remove(t, tb, n);
    unchain_incoming(t, tb);
    unchain_outgoing(tb);
    tb_unlink(t, tb);                             // if it is running, it must not go on into others it no longer tracks
    jc_forget(t, tb);
}

// Does tb have a byte in [a, a+len)?
static bool overlaps(const struct tb *tb, u64 a, u64 len)
{
    u64 first = min_u64(tb->len, PAGE_SIZE - (tb->gpa.v & ~PAGE_MASK));
    if (tb->gpa.v < a + len && a < tb->gpa.v + first) return true;
    if (tb->page[1] == ~0ull) return false;
    u64 b = tb->page[1] << PAGE_SHIFT;
    return b < a + len && a < b + (tb->len - first);
}

bool tb_invalidate_phys(struct tcg *t, struct gpa a, u64 len, const struct tb *current)
{
    bool hit = false;
    for (u64 page = a.v >> PAGE_SHIFT; len && page <= (a.v + len - 1) >> PAGE_SHIFT; page++) {
        struct tb **h = page_head(t, page);
        for (struct tb *tb = h ? *h : NULL, *next; tb; tb = next) {
            next = tb->page_next[tb->page[0] == page ? 0 : 1];
            if (!overlaps(tb, a.v, len)) continue;
            if (tb == current) hit = true;
            tb_drop(t, tb);
        }
    }
    return hit;
}

void tb_flush_all(struct tcg *t)
{
    t->n_flushes++;
    memset(t->hash, 0, sizeof(struct tb *) << TB_HASH_BITS);
    for (u32 i = 0; i < t->n_tbs; i++)
        for (unsigned n = 0; n < 2; n++) {
            struct tb **h = page_head(t, t->order[i]->page[n]);
            if (h) *h = NULL;
        }
    t->used = align_up((u64)(t->stubs.end - t->rx), 64);
    t->arena_used = 0;
    t->n_tbs = 0;
    t->n_classes = 0;
    for (unsigned v = 0; v < t->n_vcpus; v++) {
        tlb_flush(t->vcpus[v]);
        t->vcpus[v]->last_tb = NULL;
    }
}

// ---- making ----------------------------------------------------------------------------------------------------------------

// Jump-cache class of a mode, first come first served. A guest passes through many modes while it starts; when the classes are used up,
// everything begins anew with the modes then in use, but only so often: a guest that keeps on using more modes than classes does without
// for the late ones.
static unsigned class_of(struct tcg *t, u32 mode, u64 cs_base)
{
    u32 key = mode ^ (u32)(cs_base * 0x9e3779b1u);
    for (unsigned k = 0; k < t->n_classes; k++)
        if (t->class_mode[k] == key && t->class_base[k] == cs_base) return k;
    if (t->n_classes == JC_CLASSES && t->class_restarts++ < 16) tb_flush_all(t);
    if (t->n_classes == JC_CLASSES) return JC_NONE;
    t->class_mode[t->n_classes] = key;
    t->class_base[t->n_classes] = cs_base;
    return t->n_classes++;
}

// For this block, not for the largest there could be: a small cache would be emptied with most of it unused.
static void make_room(struct tcg *t, const struct ir_block *b)
{
    u64 room = tb_room(b);
    if (t->used + room > t->size || t->arena_used + room > t->arena_size || t->n_tbs + 1 >= t->max_tbs) tb_flush_all(t);
}

// -d in_asm, op, out_asm, in QEMU's order. The disassembler may use vector registers.
static void trace_tb(struct vcpu *c, const struct ir_block *b, const struct tb *tb)
{
    u8 code[TB_MAX_INSNS * 16];
    vcpu_fpu_release(c);
    if (trace_mask() & TRACE_IN_ASM) {
        unsigned n = mem_fetch(c, gva(b->pc + b->cs_base), code, b->len, b->mmu, false);
        if (n < b->len) n += mem_fetch(c, gva(b->pc + b->cs_base + n), code + n, b->len - n, b->mmu, false);
        trace_write("----------------\nIN: mode %#x\n", b->mode);
        plat_disassemble(b->pc, code, n, c->ops->code_bits(b->mode));
    }
    if (trace_mask() & TRACE_OP) {
        trace_write("OP: %#llx\n", (unsigned long long)b->pc);
        ir_dump(b);
    }
    if (trace_mask() & TRACE_OUT_ASM) {
        trace_write("OUT: [size=%u, hot %u]\n", tb->code_size, tb->hot_size);
        plat_disassemble((u64)tb->code, tb->code, tb->code_size, 64);
    }
}

static unsigned insns_limit(struct tcg *t)
{
    if (!TB_DICE_INSNS || tcg_dice(t, 2)) return t->cfg.max_insns;
    unsigned n = 1;
    while ((int)n < TB_DICE_INSNS && n < t->cfg.max_insns && tcg_dice(t, 2)) n++;
    return n;
}

static struct tb *tb_make(struct vcpu *c, struct gpa pa, u64 cs_base, u32 mode)
{
    struct tcg *t = c->tcg;
    struct ir_block *b = t->block;
    u64 start = read_tsc();
    b->n = 0;
    b->pc = c->pc;
    b->cs_base = cs_base;
    b->mode = mode;
    b->mmu = (u8)c->ops->mmu_mode(c, mode);
    b->n_insns = b->len = 0;
    b->page[0] = pa.v >> PAGE_SHIFT;
    b->page[1] = ~0ull;
    c->ops->translate(c, b, c->one_insn ? 1 : insns_limit(t));        // may raise: nothing has been allocated yet
    ir_verify(b);
    ir_optimise(b);
    make_room(t, b);
    unsigned k = c->one_insn ? JC_NONE : class_of(t, mode, cs_base);
    struct tb *tb = tcg_arena_alloc(t, sizeof *tb);
    tb->pc = b->pc;
    tb->cs_base = cs_base;
    tb->mode = mode;
    tb->gpa = pa;
    tb->len = (u16)b->len;
    tb->n_insns = (u16)b->n_insns;
    tb->page[0] = b->page[0];
    tb->page[1] = b->page[1];
    tb->jc_class = (u8)k;
    tb->oneshot = c->one_insn;
    host_tb_emit(t, b, tb);
    t->order[t->n_tbs++] = tb;
    if (trace_mask() & (TRACE_IN_ASM | TRACE_OP | TRACE_OUT_ASM)) trace_tb(c, b, tb);
    c->n_translated_tb++;
    c->n_translated_bytes += b->len;
    t->translate_ticks += read_tsc() - start;
    return tb;
}

static void tb_register(struct tcg *t, struct tb *tb)
{
    struct tb **h = &t->hash[hash_of(tb->gpa.v)];
    tb->hash_next = *h;
    *h = tb;
    for (unsigned n = 0; n < 2; n++)
        if (tb->page[n] != ~0ull) page_add(t, tb, n);
}

struct tb *tb_get(struct vcpu *c)
{
    struct tcg *t = c->tcg;
    u64 cs_base;
    u32 mode;
    c->ops->tb_mode(c, &cs_base, &mode);
    struct gpa pa = mem_code_gpa(c, gva(c->pc + cs_base), c->ops->mmu_mode(c, mode));
    if (c->one_insn) {
        struct tb *tb = tb_make(c, pa, cs_base, mode);
        c->one_insn = false;
        return tb;
    }
    struct tb *tb = hash_find(t, pa.v, c->pc, cs_base, mode);
    if (tb && tcg_dice(t, 1024)) {
        tb_drop(t, tb);
        tb = NULL;
    }
    // A TB over two pages is right only if its second page is still where it was.
    struct gva second = gva(((c->pc + cs_base) & PAGE_MASK) + PAGE_SIZE);
    if (tb && tb->page[1] != ~0ull && mem_code_gpa(c, second, c->ops->mmu_mode(c, mode)).v >> PAGE_SHIFT != tb->page[1]) {
        tb_drop(t, tb);
        tb = NULL;
    }
    if (!tb) {
        tb = tb_make(c, pa, cs_base, mode);
        tb_register(t, tb);
    }
    if (tb->second_sig) {
        u32 sig = c->xsig[c->ops->mmu_mode(c, mode)][xtlb_index(second.v)];
        *(u32_any *)rw_of(t, tb->code + tb->second_sig) = sig ? sig : 0xffffffff;   // 0: everything has just been flushed
    }
    if (tb->jc_class != JC_NONE && !t->cfg.no_chain) {
        struct jump_cache *jc = &c->jc[tb->jc_class];
        unsigned i = jc_index(c->pc);
        jc->pc[i] = c->pc;
        jc->host[i] = tb->code + tb->entry_saved;
        unsigned m = c->ops->mmu_mode(c, mode), x = xtlb_index(c->pc + cs_base);
        u64 bit = 1ull << (i & 63);
        if (c->xsig_local[m][x / 64] >> (x & 63) & 1) c->jc_local[tb->jc_class][i / 64] |= bit;
        else c->jc_local[tb->jc_class][i / 64] &= ~bit;
    }
    return tb;
}

// ---- from host code back to the guest -------------------------------------------------------------------------------------------

struct tb *tb_by_host(struct tcg *t, u64 rip)
{
    u64 base = (u64)t->rx;
    if (rip < (u64)t->stubs.end || rip >= base + t->used + TB_CODE_MAX || !t->n_tbs) return NULL;
    u32 lo = 0, hi = t->n_tbs;
    while (hi - lo > 1) {
        u32 mid = (lo + hi) / 2;
        if ((u64)t->order[mid]->code <= rip) lo = mid;
        else hi = mid;
    }
    struct tb *tb = t->order[lo];
    return rip >= (u64)tb->code && rip < (u64)tb->code + tb->code_size ? tb : NULL;
}

void tb_restore(struct vcpu *c, const struct tb *tb, u64 rip, u64 eflags)
{
    u32 off = (u32)(rip - (u64)tb->code);
    unsigned n = 0;
    while (n + 1 < tb->n_marks && tb->marks[n + 1].off <= off) n++;
    const struct tb_mark *m = &tb->marks[n];
    c->pc = tb->pc + tb->insn_off[m->insn];
    const struct flag_recipe *r = &tb->recipes[m->recipe];
    if (r->kind == FR_HOST) c->cc = cc_from_eflags(eflags);
    else if (r->kind == FR_OP) c->cc = flags_recompute(c, r);
}
