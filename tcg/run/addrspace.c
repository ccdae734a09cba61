// Translations of address spaces that are put aside while the guest runs another (x86: PCIDs).
//
// A guest that names its address spaces tells us when what we know of one stays good over a switch away and back. Then the TLB's and the
// code signatures' entries that are not global are put into a set on leaving and put back on return; that costs nanoseconds an entry, while
// learning one anew costs a page walk and often an exit to the loop. Sets are few, the one unused for longest makes room.
//
// Entries that allow writing must not come back if their page has become a code page meanwhile (codepage.c looks through TLBs, not through
// sets): they do not come back at all if any page has become one since. The order is that of the TLB's fill: entries first, then once more
// the look at the count of claims.
#include "kernel/plat.h"
#include "tcg/run/softmmu.h"
#include "tcg/run/tcg.h"

enum { SETS = 8, SET_ENTRIES = 768 };
enum { KEPT_READ, KEPT_WRITE, KEPT_CODE };

struct kept { u64 va, to; u32 sig; u16 index; u8 mmu, kind; };   // to: host page; KEPT_CODE: guest-physical page
struct as_set { bool used; u32 id, n; u64 stamp, claims; struct kept e[SET_ENTRIES]; };
struct as_sets { u64 stamp; struct as_set set[SETS]; };

struct as_sets *as_sets_new(void) { return plat_pages_alloc(sizeof(struct as_sets)); }

static u64 claims_now(const struct vcpu *c) { return __atomic_load_n(&c->tcg->n_claims, __ATOMIC_SEQ_CST); }

static struct as_set *set_find(struct as_sets *s, u32 id)
{
    for (unsigned n = 0; n < SETS; n++)
        if (s->set[n].used && s->set[n].id == id) return &s->set[n];
    return NULL;
}

static struct as_set *set_for(struct as_sets *s, u32 id)
{
    struct as_set *oldest = &s->set[0], *is = set_find(s, id);
    for (unsigned n = 0; n < SETS && !is; n++) {
        if (!s->set[n].used) is = &s->set[n];
        if (s->set[n].stamp < oldest->stamp) oldest = &s->set[n];
    }
    if (!is) is = oldest;
    is->used = true;
    is->id = id;
    is->n = 0;
    is->stamp = ++s->stamp;
    return is;
}

static void keep(struct as_set *s, struct kept e)
{
    if (s->n < SET_ENTRIES) s->e[s->n++] = e;
}

static void keep_tlb(struct vcpu *c, struct as_set *s, unsigned m, unsigned w)
{
    FOR_ENTRIES(i, &c->tlb_held[0][m][w]) {
        const struct tlb_entry *e = &c->tlb[m][w][i];
        if (tlb_index(e->tag) == i) keep(s, (struct kept){e->tag, e->host, 0, (u16)i, (u8)m, w ? KEPT_WRITE : KEPT_READ});
    }
}

static void keep_code(struct vcpu *c, struct as_set *s, unsigned m)
{
    FOR_ENTRIES(i, &c->xsig_held[0][m])
        if (c->xsig[m][i]) keep(s, (struct kept){c->xtlb[m][i].va, c->xtlb[m][i].page, c->xsig[m][i], (u16)i, (u8)m, KEPT_CODE});
}

static void put_back(struct vcpu *c, const struct kept *e, bool writes)
{
    if (e->kind == KEPT_CODE) {
        if (c->xsig[e->mmu][e->index]) return;           // a global one has the place
        c->xtlb[e->mmu][e->index].va = e->va;
        c->xtlb[e->mmu][e->index].page = e->to;
        c->xsig[e->mmu][e->index] = e->sig;
        entry_set_add(&c->xsig_held[0][e->mmu], e->index);
        entry_set_del(&c->xsig_held[1][e->mmu], e->index);
        return;
    }
    struct tlb_entry *t = &c->tlb[e->mmu][e->kind == KEPT_WRITE][e->index];
    if (tlb_index(t->tag) == e->index || (e->kind == KEPT_WRITE && !writes)) return;
    t->host = e->to;
    __atomic_store_n(&t->tag, e->va, __ATOMIC_RELAXED);
    entry_set_add(&c->tlb_held[0][e->mmu][e->kind == KEPT_WRITE], e->index);
    entry_set_del(&c->tlb_held[1][e->mmu][e->kind == KEPT_WRITE], e->index);
}

static void writes_drop(struct vcpu *c)
{
    for (unsigned m = 0; m < MMU_MODES; m++)
        FOR_ENTRIES(i, &c->tlb_held[0][m][1]) __atomic_store_n(&c->tlb[m][1][i].tag, tlb_empty_tag((unsigned)i), __ATOMIC_RELAXED);
}

static void set_restore(struct vcpu *c, const struct as_set *s)
{
    bool writes = s->claims == claims_now(c);
    for (u32 n = 0; n < s->n; n++) put_back(c, &s->e[n], writes);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (writes && s->claims != claims_now(c)) writes_drop(c);
}

void tlb_switch(struct vcpu *c, u32 from, u32 to, bool keep_to)
{
    if (from == to) {
        if (!keep_to) tlb_flush_local(c);
        return;
    }
    struct as_set *s = set_for(c->as_sets, from);
    s->claims = claims_now(c);
    for (unsigned m = 0; m < MMU_MODES; m++) {
        keep_tlb(c, s, m, 0);
        keep_tlb(c, s, m, 1);
        keep_code(c, s, m);
    }
    tlb_flush_local(c);
    if (!keep_to) {
        tlb_forget(c, to);
        return;
    }
    if ((s = set_find(c->as_sets, to))) set_restore(c, s);
}

void tlb_forget(struct vcpu *c, u32 id)
{
    struct as_set *s = set_find(c->as_sets, id);
    if (s) s->used = false;
}

void tlb_forget_all(struct vcpu *c)
{
    for (unsigned n = 0; n < SETS; n++) c->as_sets->set[n].used = false;
}
