// Translation blocks: making and finding.
//
// Found by a hash of the guest-physical address. Finding takes no lock: a TB is complete before it enters the hash, stays where it is
// when it leaves it, and memory is only used again when everybody is parked (region.c). Making takes none either, up to the last moment:
// under tb_lock the TB is registered, if what it was read from has not been written meanwhile (codepage.c) and if no other vCPU has made
// the same one.
#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"
#include "tcg/run/softmmu.h"
#include "tcg/run/tcg.h"

enum { TRIES_BESIDE_OTHERS = 3, CLASS_RESTARTS = 16 };

static u64 read_tsc(void) { return __builtin_ia32_rdtsc(); }

u32 tcg_code_signature(struct tcg *t, u64 va, u64 page, unsigned mmu)
{
    u32 mask = (1u << SIG_HASH_BITS) - 1, sig;
    bool irqs = tb_lock(t);
    if (t->n_sigs > mask / 2) {                   // forget them all: chained jumps then miss once and learn the new numbers
        memset(t->sigs, 0, sizeof(struct code_sig) << SIG_HASH_BITS);
        t->n_sigs = 0;
    }
    u32 i = (u32)((va >> PAGE_SHIFT) * 0x9e3779b1u ^ (page >> PAGE_SHIFT) * 0x85ebca6bu ^ mmu) & mask;
    while (t->sigs[i].sig && (t->sigs[i].va != va || t->sigs[i].page != page || t->sigs[i].mmu != mmu)) i = (i + 1) & mask;
    if (!t->sigs[i].sig) {
        t->n_sigs++;
        t->sigs[i] = (struct code_sig){.va = va, .page = page, .sig = ++t->last_sig, .mmu = (u8)mmu};
    }
    sig = t->sigs[i].sig;
    tb_unlock(t, irqs);
    return sig;
}

// ---- by hash -----------------------------------------------------------------------------------------------------------

static unsigned hash_of(u64 pa) { return (unsigned)((pa ^ pa >> TB_HASH_BITS) & ((1u << TB_HASH_BITS) - 1)); }

// page1: second page that the TB must have; ANY_PAGE: whichever the vCPU has mapped behind the first one now.
#define ANY_PAGE (~1ull)

static bool second_page_is(struct vcpu *c, const struct tb *tb, u64 page1)
{
    if (page1 != ANY_PAGE) return tb->page[1] == page1;
    if (tb->page[1] == ~0ull) return true;
    struct gva second = gva(((tb->pc + tb->cs_base) & PAGE_MASK) + PAGE_SIZE);
    struct gpa is;
    return mem_code_find(c, second, c->ops->mmu_mode(c, tb->mode), &is) && is.v >> PAGE_SHIFT == tb->page[1];
}

static struct tb *hash_find(struct vcpu *c, u64 pa, u64 pc, u64 cs_base, u32 mode, u64 page1)
{
    for (struct tb *tb = __atomic_load_n(&c->tcg->hash[hash_of(pa)], __ATOMIC_ACQUIRE); tb; tb = __atomic_load_n(&tb->hash_next, __ATOMIC_ACQUIRE))
        if (tb->gpa.v == pa && tb->pc == pc && tb->cs_base == cs_base && tb->mode == mode && !tb->invalid && second_page_is(c, tb, page1)) return tb;
    return NULL;
}

static void hash_remove(struct tcg *t, struct tb *tb)
{
    struct tb **p = &t->hash[hash_of(tb->gpa.v)];
    while (*p && *p != tb) p = &(*p)->hash_next;
    if (*p) __atomic_store_n(p, tb->hash_next, __ATOMIC_RELEASE);
}

// ---- dropping ------------------------------------------------------------------------------------------------------------

static void jc_forget(struct tcg *t, const struct tb *tb)
{
    unsigned i = jc_index(tb->pc);
    if (tb->jc_class == JC_NONE) return;
    for (unsigned v = 0; v < t->n_vcpus; v++) {
        struct jump_cache *jc = &t->vcpus[v]->jc[tb->jc_class];
        if (__atomic_load_n(&jc->at[i].pc, __ATOMIC_RELAXED) == tb->pc) __atomic_store_n(&jc->at[i].pc, jc_empty_pc(i), __ATOMIC_RELAXED);
    }
}

void tb_drop(struct tcg *t, struct tb *tb)
{
    __atomic_store_n(&tb->invalid, true, __ATOMIC_SEQ_CST);
    hash_remove(t, tb);
    tb_page_remove(t, tb);
    tb_unchain(t, tb);
    jc_forget(t, tb);
}

// ---- making ----------------------------------------------------------------------------------------------------------------

// Class of a mode, or JC_NONE. Looked for without the lock, too: a class is there when n_classes says so, and is given to another mode only
// when all are parked.
static unsigned class_known(const struct tcg *t, u32 key, u64 cs_base)
{
    u32 n = __atomic_load_n(&t->n_classes, __ATOMIC_ACQUIRE);
    for (unsigned k = 0; k < n; k++)
        if (t->class_mode[k] == key && t->class_base[k] == cs_base) return k;
    return JC_NONE;
}

static u32 class_key(u32 mode, u64 cs_base) { return mode ^ (u32)(cs_base * 0x9e3779b1u); }

// Jump-cache class of a mode, first come first served. A guest passes through many modes while it starts; when the classes are used up,
// everything begins
// anew with the modes then in use, but only so often: a guest that keeps on using more modes than classes does without for the late ones.
static unsigned class_find(struct tcg *t, u32 key, u64 cs_base)
{
    unsigned k = class_known(t, key, cs_base);
    if (k != JC_NONE || t->n_classes == JC_CLASSES) return k;
    k = t->n_classes;
    t->class_mode[k] = key;
    t->class_base[k] = cs_base;
    __atomic_store_n(&t->n_classes, k + 1, __ATOMIC_RELEASE);
    return k;
}

static unsigned class_of(struct vcpu *c, u32 mode, u64 cs_base)
{
    struct tcg *t = c->tcg;
    u32 key = class_key(mode, cs_base);
    for (;;) {
        bool irqs = tb_lock(t);
        unsigned k = class_find(t, key, cs_base);
        bool again = k == JC_NONE && t->class_restarts < CLASS_RESTARTS;
        t->class_restarts += again;
        tb_unlock(t, irqs);
        if (!again) return k;
        tcg_flush_all(c);
    }
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

static unsigned insns_limit(struct vcpu *c)
{
    unsigned max = c->tcg->cfg.max_insns;
    if (!TB_DICE_INSNS || tcg_dice(c, 2)) return max;
    unsigned n = 1;
    while ((int)n < TB_DICE_INSNS && n < max && tcg_dice(c, 2)) n++;
    return n;
}

// Instructions that the next TB may have if it is to run once and be forgotten; 0: it is a TB like others.
static unsigned oneshot_insns(const struct vcpu *c) { return c->one_insn ? 1 : c->few_insns; }

// Claims the page of c->pc. Claiming may park c, and who empties the cache meanwhile makes it forget its translations: the page tables may
// say something else now. Returns the address of the first byte. May raise the guest's fetch fault.
static struct gpa first_claim(struct vcpu *c, u64 cs_base, unsigned mmu)
{
    struct gva at = gva(c->pc + cs_base);
    for (;;) {
        struct gpa pa = mem_code_gpa(c, at, mmu);
        c->tr->n_claims = 0;
        tb_page_claim(c, pa.v >> PAGE_SHIFT);
        if (mem_code_gpa(c, at, mmu).v == pa.v) return pa;
    }
}

// The block at c->pc, translated and emitted, known to nobody yet but tb_by_host. May raise the guest's fetch fault.
static struct tb *tb_make(struct vcpu *c, u64 cs_base, u32 mode)
{
    struct translator *tr = c->tr;
    struct ir_block *b = tr->block;
    u64 start = read_tsc();
    b->mmu = (u8)c->ops->mmu_mode(c, mode);
    tr->claiming = !oneshot_insns(c);                  // (mem_fetch claims further pages)
    struct gpa pa = tr->claiming ? first_claim(c, cs_base, b->mmu) : mem_code_gpa(c, gva(c->pc + cs_base), b->mmu);
    b->n = 0;
    b->pc = c->pc;
    b->cs_base = cs_base;
    b->mode = mode;
    b->n_insns = b->len = 0;
    b->page[0] = pa.v >> PAGE_SHIFT;
    b->page[1] = ~0ull;
    c->ops->translate(c, b, oneshot_insns(c) ? oneshot_insns(c) : insns_limit(c));        // may raise: nothing has been allocated yet
    tr->claiming = false;
    ir_verify(b);
    ir_optimise(b);
    unsigned k;
    do {                                          // (each may empty the cache)
        region_need(c, tb_room(b));
        k = oneshot_insns(c) ? JC_NONE : class_of(c, mode, cs_base);
    } while (!tr->region);
    struct tb *tb = tcg_arena_alloc(c, sizeof *tb);
    tb->pc = b->pc;
    tb->cs_base = cs_base;
    tb->mode = mode;
    tb->gpa = pa;
    tb->len = (u16)b->len;
    tb->n_insns = (u16)b->n_insns;
    tb->page[0] = b->page[0];
    tb->page[1] = b->page[1];
    tb->jc_class = (u8)k;
    tb->oneshot = oneshot_insns(c) != 0;
    host_tb_emit(c, b, tb);
    region_add(c, tb);
    if (trace_mask() & (TRACE_IN_ASM | TRACE_OP | TRACE_OUT_ASM)) trace_tb(c, b, tb);
    c->n_translated_tb++;
    c->n_translated_bytes += b->len;
    tr->ticks += read_tsc() - start;
    return tb;
}

// The number of a mapping of tb's, which an entry compares. It never changes but for a new number of the same mapping.
static void sign(struct vcpu *c, const struct tb *tb, u32 off, u64 va, unsigned mmu)
{
    u32 sig = c->xsig[mmu][xtlb_index(va)];
    u32_any *at = (u32_any *)tb_rw(c->tcg, tb->code + off);
    if (off && sig && *at != sig) __atomic_store_n(at, sig, __ATOMIC_RELEASE);   // 0: just flushed
}

// Makes tb known to all, or finds that somebody was faster, or (NULL) that the guest's code was written meanwhile.
static struct tb *tb_register(struct vcpu *c, struct tb *tb)
{
    struct tcg *t = c->tcg;
    bool irqs = tb_lock(t);
    struct tb *is = NULL, **h = &t->hash[hash_of(tb->gpa.v)];
    tb_page_announce(t, tb);
    if (tb_claims_hold(c)) {
        is = hash_find(c, tb->gpa.v, tb->pc, tb->cs_base, tb->mode, tb->page[1]);
        if (!is) {
            is = tb;
            tb->hash_next = *h;
            __atomic_store_n(h, tb, __ATOMIC_RELEASE);
            tb_page_add(t, tb);
        }
    }
    if (is != tb) tb->invalid = true;
    t->n_retries += !is;
    tb_unlock(t, irqs);
    return is;
}

static struct tb *tb_new(struct vcpu *c, u64 cs_base, u32 mode)
{
    struct tb *tb = NULL;
    u8 was = profile_enter(&c->prof, PROF_TRANSLATE);
    for (unsigned n = 0; !tb; n++) {
        if (n == TRIES_BESIDE_OTHERS || tcg_dice(c, 64)) exclusive_begin(c);
        tb = tb_register(c, tb_make(c, cs_base, mode));
    }
    exclusive_end(c);
    profile_leave(&c->prof, was);
    return tb;
}

// Another vCPU may drop tb at any moment: either it sees the entry and takes it out, or this one sees that tb is invalid.
static void jc_put(struct vcpu *c, const struct tb *tb)
{
    struct jump_cache *jc = &c->jc[tb->jc_class];
    unsigned i = jc_index(tb->pc);
    u8 *host = tb->code + tb->entry_checked;
    // There already, for all to see: whoever drops tb takes it out.
    if (jc->at[i].host == host && __atomic_load_n(&jc->at[i].pc, __ATOMIC_RELAXED) == tb->pc) return;
    jc->at[i].host = host;
    __atomic_store_n(&jc->at[i].pc, tb->pc, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&tb->invalid, __ATOMIC_SEQ_CST)) __atomic_store_n(&jc->at[i].pc, jc_empty_pc(i), __ATOMIC_RELAXED);
}

// Classes are numbered anew when the cache is emptied, and only then.
static unsigned class_now(struct vcpu *c)
{
    const struct tcg *t = c->tcg;
    u64 cs_base;
    u32 mode;
    c->ops->tb_mode(c, &cs_base, &mode);
    __typeof__(&c->class_memo[0]) m = &c->class_memo[mode % CLASS_MEMOS];
    if (m->mode == mode && m->cs_base == cs_base && m->n == t->n_flushes + 1) return m->jc_class;
    unsigned k = class_known(t, class_key(mode, cs_base), cs_base);
    if (k == JC_NONE) return k;
    m->mode = mode;
    m->cs_base = cs_base;
    m->n = t->n_flushes + 1;
    return m->jc_class = k;
}

const u8 *vcpu_code_now(struct vcpu *c)
{
    unsigned k = class_now(c), i = jc_index(c->pc);
    if (k == JC_NONE || __atomic_load_n(&c->jc[k].at[i].pc, __ATOMIC_RELAXED) != c->pc) return NULL;
    return c->jc[k].at[i].host;
}

struct tb *tb_get(struct vcpu *c)
{
    struct tcg *t = c->tcg;
    u64 cs_base;
    u32 mode;
    c->ops->tb_mode(c, &cs_base, &mode);
    unsigned mmu = c->ops->mmu_mode(c, mode);
    struct gpa pa = mem_code_gpa(c, gva(c->pc + cs_base), mmu);
    if (oneshot_insns(c)) {
        u8 was = profile_enter(&c->prof, PROF_TRANSLATE);
        struct tb *tb = tb_make(c, cs_base, mode);
        profile_leave(&c->prof, was);
        c->one_insn = false;
        c->few_insns = 0;
        return tb;
    }
    struct tb *tb = hash_find(c, pa.v, c->pc, cs_base, mode, ANY_PAGE);
    if (tb && tcg_dice(c, 1024)) {
        bool irqs = tb_lock(t);
        if (!tb->invalid) tb_drop(t, tb);
        tb_unlock(t, irqs);
        tb = NULL;
    }
    if (!tb) tb = tb_new(c, cs_base, mode);
    if (tb->second_sig) sign(c, tb, tb->second_sig, ((c->pc + cs_base) & PAGE_MASK) + PAGE_SIZE, mmu);
    sign(c, tb, tb->first_sig, c->pc + cs_base, mmu);
    if (tb->jc_class != JC_NONE && !t->cfg.no_chain) jc_put(c, tb);
    return tb;
}
