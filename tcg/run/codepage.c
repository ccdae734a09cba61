// Guest-physical pages that hold translated code, and how stores to them are noticed, with several vCPUs storing and translating at once.
//
// A page is NONE, NEW or YES (struct code_page). In NONE it may be in write TLBs and is written behind our back. In YES it is in none, and
// every store to it comes to tb_invalidate_phys. Translating from a page claims it first:
//
//   NONE -> NEW    the page leaves every vCPU's write TLB. A vCPU that fills its TLB at this moment looks at the state once more after it
//                  wrote the entry, so one of the two takes the entry out.
//   NEW -> YES     once every other vCPU has passed its loop: whoever had already found the page writable has done its store by then.
//
// Only then are the page's bytes read. A store to a YES page goes through translated code's slow path: it names the page in store_page,
// then drops what it overlaps and raises the page's version, and then happens. So between the version's change and the bytes' change a
// translator can read the old bytes. Either it read the version before, and its claim fails when the TB is registered; or after, and it has
// seen store_page: it waits until that vCPU has passed. (Once: stores that set out meanwhile move the version on from what the claim
// noted.) C code and devices write first and raise the version afterwards; they need no such mark. A version that moves on also fails
// claims of those who read bytes next to the written ones; they try again, and run alone at the third time.
//
// Most stores to a YES page hit no code: a function is written behind others. A map of the page, CODE_GRAIN bytes to a bit, tells them
// apart without lock and list. The store raises the version, then looks at the map; a TB sets its bits, then looks at the version: so one
// of the two sees the other.
//
// When a page has seen CODE_PAGE_PATIENCE stores since its last TB was dropped, it is NONE again and stores to it are fast. Not at once:
// claiming costs as much as that many stores, and code that is changed now and then would pay it at each change. Emptying the cache leaves
// pages as they are: their code will be wanted again.
#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "tcg/run/tcg.h"

static struct code_page *page_of(struct tcg *t, u64 page)
{
    u64 chunk = page >> PAGE_CHUNK_BITS;
    struct code_page *p = chunk < t->n_page_chunks ? __atomic_load_n(&t->pages[chunk], __ATOMIC_ACQUIRE) : NULL;
    return p ? &p[page & ((1u << PAGE_CHUNK_BITS) - 1)] : NULL;
}

static struct code_page *page_make(struct tcg *t, u64 page)
{
    struct code_page *p = page_of(t, page);
    u64 chunk = page >> PAGE_CHUNK_BITS;
    if (p || chunk >= t->n_page_chunks) return p;
    struct code_page *fresh = plat_pages_alloc(sizeof *fresh << PAGE_CHUNK_BITS);
    ASSERT(fresh, "no memory for the table of code pages%s", "");
    struct code_page *none = NULL;
    if (!__atomic_compare_exchange_n(&t->pages[chunk], &none, fresh, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        plat_pages_free(fresh, sizeof *fresh << PAGE_CHUNK_BITS);
    bool irqs = tb_lock(t);
    t->top_chunk = max_u64(t->top_chunk, chunk);
    tb_unlock(t, irqs);
    return page_of(t, page);
}

bool tb_page_has_code(struct tcg *t, struct gpa a)
{
    const struct code_page *p = page_of(t, a.v >> PAGE_SHIFT);
    return p && __atomic_load_n(&p->state, __ATOMIC_SEQ_CST) != CODE_PAGE_NONE;
}

// Host addresses identify RAM pages. The owner may be writing the entry at this moment: an emptied tag is right with either half of it.
static void leave_write_tlbs(struct tcg *t, u64 page)
{
    for (unsigned v = 0; v < t->n_vcpus; v++) {
        struct vcpu *c = t->vcpus[v];
        u64 host = (u64)phys_host(c->phys, gpa(page << PAGE_SHIFT));
        if (!host) continue;
        for (unsigned m = 0; m < MMU_MODES; m++)
            for (unsigned i = 0; i < TLB_SIZE; i++)
                if (__atomic_load_n(&c->tlb[m][1][i].host, __ATOMIC_RELAXED) == host)
                    __atomic_store_n(&c->tlb[m][1][i].tag, tlb_empty_tag(i), __ATOMIC_RELAXED);
    }
}

static bool store_on_its_way(const struct vcpu *c, u64 page)
{
    const struct tcg *t = c->tcg;
    for (unsigned v = 0; v < t->n_vcpus; v++) {
        const struct vcpu *o = t->vcpus[v];
        if (o == c || __atomic_load_n(&o->parked, __ATOMIC_SEQ_CST)) continue;
        if (__atomic_load_n(&o->store_page[0], __ATOMIC_SEQ_CST) == page || __atomic_load_n(&o->store_page[1], __ATOMIC_SEQ_CST) == page) return true;
    }
    return false;
}

// NONE -> NEW -> YES, for whoever comes first; others wait for it. Nobody else ends NEW, so the wait is this vCPU's own; it ends NEW while
// it is still parked, since one of the others may run alone by now. A store may take YES back to NONE at once; then the claim fails.
static void make_code_page(struct vcpu *c, struct code_page *p, u64 page)
{
    struct tcg *t = c->tcg;
    for (unsigned n = 1;; n++) {
        u32 state = __atomic_load_n(&p->state, __ATOMIC_SEQ_CST);
        if (state == CODE_PAGE_YES) return;
        if (state == CODE_PAGE_NEW) {
            vcpu_park(c);
            plat_relax(n);
            vcpu_unpark(c);
            continue;
        }
        bool irqs = tb_lock(t), mine = p->state == CODE_PAGE_NONE;
        if (mine) {
            __atomic_store_n(&p->state, CODE_PAGE_NEW, __ATOMIC_SEQ_CST);
            __atomic_add_fetch(&t->n_claims, 1, __ATOMIC_SEQ_CST);   // before the TLBs are looked through (addrspace.c)
            leave_write_tlbs(t, page);
        }
        tb_unlock(t, irqs);
        if (!mine) continue;
        vcpus_park_until_passed(c);
        __atomic_store_n(&p->state, CODE_PAGE_YES, __ATOMIC_SEQ_CST);
        vcpu_unpark(c);
        return;
    }
}

void tb_page_claim(struct vcpu *c, u64 page)
{
    struct translator *tr = c->tr;
    for (unsigned n = 0; n < tr->n_claims; n++)
        if (tr->claim[n].page == page) return;
    struct code_page *p = page_make(c->tcg, page);
    if (!p) return;
    ASSERT(tr->n_claims < ARRAY_SIZE(tr->claim), "a block of more than %u pages", tr->n_claims);
    make_code_page(c, p, page);
    u32 version = __atomic_load_n(&p->version, __ATOMIC_SEQ_CST);
    if (store_on_its_way(c, page)) vcpus_wait_passed(c);
    tr->claim[tr->n_claims].page = page;
    tr->claim[tr->n_claims++].version = version;
}

bool tb_claims_hold(struct vcpu *c)
{
    const struct translator *tr = c->tr;
    for (unsigned n = 0; n < tr->n_claims; n++) {
        const struct code_page *p = page_of(c->tcg, tr->claim[n].page);
        if (p->state != CODE_PAGE_YES || __atomic_load_n(&p->version, __ATOMIC_SEQ_CST) != tr->claim[n].version) return false;
    }
    return true;
}

// ---- the lists of TBs by page ----------------------------------------------------------------------------------------------

// Bytes first..last of a page, as bits of word n of its map.
static u64 grains(unsigned n, u64 first, u64 last)
{
    u64 lo = first / CODE_GRAIN, hi = last / CODE_GRAIN;
    if (hi < 64 * n || lo >= 64 * (n + 1)) return 0;
    lo = lo < 64 * n ? 0 : lo - 64 * n;
    hi = hi >= 64 * (n + 1) ? 63 : hi - 64 * n;
    return ~0ull >> (63 - (hi - lo)) << lo;
}

// tb's bytes on its page number k: the bits of word n.
static u64 grains_of(const struct tb *tb, unsigned k, unsigned n)
{
    u64 off = tb->gpa.v & ~PAGE_MASK, first = min_u64(tb->len, PAGE_SIZE - off);
    if (k == 0) return grains(n, off, off + (first ? first - 1 : 0));
    return tb->len > first ? grains(n, 0, tb->len - first - 1) : 0;
}

void tb_page_announce(struct tcg *t, const struct tb *tb)
{
    for (unsigned k = 0; k < 2; k++) {
        struct code_page *p = tb->page[k] != ~0ull ? page_of(t, tb->page[k]) : NULL;
        for (unsigned n = 0; p && n < 2; n++) __atomic_or_fetch(&p->map[n], grains_of(tb, k, n), __ATOMIC_SEQ_CST);
    }
}

void tb_page_add(struct tcg *t, struct tb *tb)
{
    for (unsigned n = 0; n < 2; n++) {
        struct code_page *p = tb->page[n] != ~0ull ? page_of(t, tb->page[n]) : NULL;
        if (!p) continue;
        tb->page_next[n] = p->head;
        p->head = tb;
        p->quiet = 0;
        tb->listed |= (u8)(1u << n);
    }
}

void tb_page_remove(struct tcg *t, struct tb *tb)
{
    for (unsigned n = 0; n < 2; n++) {
        struct code_page *p = tb->listed & 1u << n ? page_of(t, tb->page[n]) : NULL;
        for (struct tb **at = p ? &p->head : NULL; at && *at;) {
            unsigned k = (*at)->page[0] == tb->page[n] ? 0 : 1;
            if (*at == tb) {
                *at = tb->page_next[n];
                break;
            }
            at = &(*at)->page_next[k];
        }
    }
    tb->listed = 0;
}

void tb_pages_reset(struct tcg *t)
{
    for (u64 i = 0; i <= t->top_chunk; i++)
        for (unsigned k = 0; t->pages[i] && k < 1u << PAGE_CHUNK_BITS; k++) {
            struct code_page *p = &t->pages[i][k];
            if (p->state == CODE_PAGE_NONE) continue;
            p->head = NULL;
            p->map[0] = p->map[1] = 0;
            p->quiet = 0;
            p->version++;
        }
}

// ---- stores ------------------------------------------------------------------------------------------------------------------

// Does tb have a byte in [a, a+len)?
static bool overlaps(const struct tb *tb, u64 a, u64 len)
{
    u64 first = min_u64(tb->len, PAGE_SIZE - (tb->gpa.v & ~PAGE_MASK));
    if (tb->gpa.v < a + len && a < tb->gpa.v + first) return true;
    if (tb->page[1] == ~0ull) return false;
    u64 b = tb->page[1] << PAGE_SHIFT;
    return b < a + len && a < b + (tb->len - first);
}

static bool page_written(struct tcg *t, struct code_page *p, u64 page, u64 a, u64 len, u64 running)
{
    u64 map[2] = {0, 0};
    bool hit = false, irqs = tb_lock(t);
    if (p->state == CODE_PAGE_YES) {
        for (struct tb **at = &p->head, *tb; (tb = *at);) {
            unsigned k = tb->page[0] == page ? 0 : 1;
            if (overlaps(tb, a, len)) {
                hit |= running - (u64)tb->code < tb->code_size;
                *at = tb->page_next[k];
                tb->listed &= (u8)~(1u << k);
                tb_drop(t, tb);
            } else {
                for (unsigned n = 0; n < 2; n++) map[n] |= grains_of(tb, k, n);
                at = &tb->page_next[k];
            }
        }
        for (unsigned n = 0; n < 2; n++) __atomic_store_n(&p->map[n], map[n], __ATOMIC_SEQ_CST);
        __atomic_add_fetch(&p->version, 1, __ATOMIC_SEQ_CST);
        if (!p->head && ++p->quiet >= CODE_PAGE_PATIENCE) __atomic_store_n(&p->state, CODE_PAGE_NONE, __ATOMIC_SEQ_CST);
    }
    tb_unlock(t, irqs);
    return hit;
}

// Bytes a..a+len-1 of the page. Where no TB is left at all, the store counts for the page's patience.
static bool matters(struct code_page *p, u64 a, u64 len)
{
    u64 first = a & ~PAGE_MASK, last = min_u64(first + len, PAGE_SIZE) - 1, hit = 0, any = 0;
    if (__atomic_load_n(&p->state, __ATOMIC_SEQ_CST) == CODE_PAGE_NONE) return false;
    __atomic_add_fetch(&p->version, 1, __ATOMIC_SEQ_CST);
    for (unsigned n = 0; n < 2; n++) {
        u64 map = __atomic_load_n(&p->map[n], __ATOMIC_SEQ_CST);
        any |= map;
        hit |= map & grains(n, first, last);
    }
    return hit || !any;
}

bool tb_write_matters(struct tcg *t, struct gpa a, u64 len)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);          // the bytes, or store_page, before the look at the state
    struct code_page *p = page_of(t, a.v >> PAGE_SHIFT);
    return p && matters(p, a.v, len);
}

bool tb_invalidate_phys(struct tcg *t, struct gpa a, u64 len, u64 running)
{
    bool hit = false;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);          // as above
    for (u64 page = a.v >> PAGE_SHIFT, end = a.v + len; len && page <= (end - 1) >> PAGE_SHIFT; page++) {
        struct code_page *p = page_of(t, page);
        u64 from = max_u64(a.v, page << PAGE_SHIFT);
        if (p && matters(p, from, end - from)) hit |= page_written(t, p, page, a.v, len, running);
    }
    return hit;
}
