// The slow half of the softmmu: what inline lookups miss.
//
// A miss walks the guest's page tables, notes the page in the TLB if plain RAM (or, for reads, ROM) answers, and hands the access back to
// the instruction that missed. Where no plain memory answers - devices, accesses across pages - the instruction works on the vCPU's bounce
// buffer, filled beforehand for loads and read-modify-writes, delivered afterwards (softmmu_commit) for stores. The buffer keeps the
// address's offset within 64 bytes, so that instructions that insist on alignment fault exactly when the guest's processor would.
//
// Pages that hold translated code never enter the write TLB but in a form that nothing hits (tlb_code_tag): stores to them come here, where
// the form saves the walk, and drop the TBs they overlap. A TB that overwrites
// itself is left before the store, and the storing instruction runs alone in a TB of its own that is not tracked: exact, and slow only
// where it happens.
#include "tcg/run/softmmu.h"

#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"
#include "tcg/run/tcg.h"

struct page_at { struct gpa page; u8 *host; };   // host: of plain memory, else NULL

// A TLB is its vCPU's own: interrupt context queues such work (cpu_run_async) and its owner does it.
static void tlb_touched(const struct vcpu *c)
{
    ASSERT(!plat_in_interrupt(), "TLB of vCPU %u touched in interrupt context", c->index);
}

static void big_forget(struct vcpu *c)
{
    c->big[0].lo = c->big[1].lo = ~0ull;
    c->big[0].hi = c->big[1].hi = 0;
}

static void device_pages_forget(struct vcpu *c)
{
    if (!c->device_pages) return;
    memset(c->device_page, 0xff, sizeof c->device_page);
    c->device_pages = false;
}

static void drop_held(struct vcpu *c, bool global)
{
    for (unsigned m = 0; m < MMU_MODES; m++) {
        for (unsigned w = 0; w < 2; w++) {
            FOR_ENTRIES(i, &c->tlb_held[global][m][w]) c->tlb[m][w][i] = (struct tlb_entry){.tag = tlb_empty_tag((unsigned)i)};
            entry_set_clear(&c->tlb_held[global][m][w]);
        }
        FOR_ENTRIES(i, &c->xsig_held[global][m]) c->xsig[m][i] = 0;
        entry_set_clear(&c->xsig_held[global][m]);
    }
}

void tlb_init(struct vcpu *c)
{
    memset(c->tlb, 0, sizeof c->tlb);
    memset(c->xsig, 0, sizeof c->xsig);
    memset(c->tlb_held, 0, sizeof c->tlb_held);
    memset(c->xsig_held, 0, sizeof c->xsig_held);
    for (unsigned m = 0; m < MMU_MODES; m++) c->tlb[m][0][0].tag = c->tlb[m][1][0].tag = tlb_empty_tag(0);
    c->device_pages = true;
    device_pages_forget(c);
    c->code_host = NULL;
    big_forget(c);
}

void tlb_flush(struct vcpu *c)
{
    tlb_touched(c);
    c->n_flush++;
    drop_held(c, false);
    drop_held(c, true);
    device_pages_forget(c);
    if (c->as_sets) tlb_forget_all(c);
    c->code_host = NULL;
    big_forget(c);
}

void tlb_flush_local(struct vcpu *c)
{
    tlb_touched(c);
    c->n_flush++;
    drop_held(c, false);
    device_pages_forget(c);
}

void tlb_flush_page(struct vcpu *c, struct gva a)
{
    tlb_touched(c);
    c->n_flush_page++;
    u64 va = a.v & PAGE_MASK;
    if (va >= c->big[va >> 63].lo && va <= c->big[va >> 63].hi) {
        tlb_flush(c);
        return;
    }
    device_pages_forget(c);
    unsigned i = tlb_index(va), x = xtlb_index(va);
    for (unsigned m = 0; m < MMU_MODES; m++) {
        for (unsigned w = 0; w < 2; w++) c->tlb[m][w][i] = (struct tlb_entry){.tag = tlb_empty_tag(i)};
        if (c->xtlb[m][x].va == va) c->xsig[m][x] = 0;
    }
}

static void big_note(struct vcpu *c, u64 va, const struct tlb_fill *f)
{
    u64 size = f->page_size ? f->page_size : PAGE_SIZE, lo = va & ~(size - 1);
    if (size == PAGE_SIZE) return;
    unsigned half = va >> 63;
    c->big[half].lo = min_u64(c->big[half].lo, lo);
    c->big[half].hi = max_u64(c->big[half].hi, lo + size - 1);
}

static void tlb_put(struct vcpu *c, u64 va, unsigned mmu, unsigned write, u64 tag, const u8 *host, bool global)
{
    unsigned i = tlb_index(va);
    struct tlb_entry *e = &c->tlb[mmu][write][i];
    e->host = (u64)host;
    __atomic_store_n(&e->tag, tag, __ATOMIC_RELAXED);
    entry_set_add(&c->tlb_held[global][mmu][write], i);
    entry_set_del(&c->tlb_held[!global][mmu][write], i);
}

// In a form that nothing hits if the page holds code. Another vCPU may begin to translate from it at this moment: one of the two takes the
// entry out again (tcg/run/codepage.c).
static void tlb_put_write(struct vcpu *c, u64 va, unsigned mmu, const struct page_at *at, bool global)
{
    unsigned i = tlb_index(va);
    if (tb_page_has_code(c->tcg, at->page)) {
        tlb_put(c, va, mmu, 1, tlb_code_tag(va), at->host, global);
        return;
    }
    tlb_put(c, va, mmu, 1, va & PAGE_MASK, at->host, global);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (tb_page_has_code(c->tcg, at->page)) __atomic_store_n(&c->tlb[mmu][1][i].tag, tlb_empty_tag(i), __ATOMIC_RELAXED);
}

static void xtlb_put(struct vcpu *c, u64 va, unsigned mmu, const struct tlb_fill *f)
{
    unsigned i = xtlb_index(va);
    c->xtlb[mmu][i].va = va & PAGE_MASK;
    c->xtlb[mmu][i].page = f->page.v;
    c->xsig[mmu][i] = tcg_code_signature(c->tcg, va & PAGE_MASK, f->page.v, mmu);
    entry_set_add(&c->xsig_held[f->global][mmu], i);
    entry_set_del(&c->xsig_held[!f->global][mmu], i);
}

// Devices answer at few pages, over and over: a walk for each access would be most of its cost. What the page holds is looked up each time.
static void device_page_put(struct vcpu *c, u64 va, unsigned mmu, bool write, struct gpa page)
{
    unsigned i = va >> PAGE_SHIFT & (DEVICE_PAGES - 1);
    c->device_page[mmu][write][i].va = va & PAGE_MASK;
    c->device_page[mmu][write][i].page = page.v;
    c->device_pages = true;
}

static bool device_page_find(const struct vcpu *c, u64 va, enum access acc, unsigned mmu, struct page_at *at)
{
    unsigned i = va >> PAGE_SHIFT & (DEVICE_PAGES - 1);
    if (acc == ACCESS_EXEC || c->device_page[mmu][acc == ACCESS_WRITE][i].va != (va & PAGE_MASK)) return false;
    *at = (struct page_at){.page = gpa(c->device_page[mmu][acc == ACCESS_WRITE][i].page)};
    return true;
}

// Walks, and notes what may be noted. Raises the guest's fault unless raise is false (then host is NULL).
static bool page_walk(struct vcpu *c, u64 va, enum access acc, unsigned mmu, bool raise, struct page_at *at)
{
    tlb_touched(c);
    struct tlb_fill f;
    *at = (struct page_at){0};
    if (tcg_dice(c, 16)) vcpu_kick(c);
    if (tcg_dice(c, 16)) vcpu_fpu_release(c);           // as a device's access would
    if (!c->ops->tlb_fill(c, gva(va), acc, mmu, raise, &f)) return false;
    at->page = f.page;
    const struct region *r = phys_find_host(c->phys, f.page, &at->host);
    bool ram = r && r->kind == REGION_RAM;
    if (!ram && acc == ACCESS_WRITE) at->host = NULL;
    big_note(c, va, &f);
    if (acc == ACCESS_EXEC) xtlb_put(c, va, mmu, &f);
    else if (!at->host && (f.prot & acc)) device_page_put(c, va, mmu, acc == ACCESS_WRITE, f.page);
    if (acc == ACCESS_EXEC || !at->host) return true;
    if (f.prot & ACCESS_READ) tlb_put(c, va, mmu, 0, va & PAGE_MASK, at->host, f.global);
    if ((f.prot & ACCESS_WRITE) && ram) tlb_put_write(c, va, mmu, at, f.global);
    return true;
}

static bool page_find(struct vcpu *c, u64 va, enum access acc, unsigned mmu, bool raise, struct page_at *at)
{
    if (!tcg_dice(c, 4) && device_page_find(c, va, acc, mmu, at)) return true;
    u8 was = profile_enter(&c->prof, PROF_SOFTMMU);
    bool ok = page_walk(c, va, acc, mmu, raise, at);
    profile_leave(&c->prof, was);
    return ok;
}

static u8 *tlb_hit(struct vcpu *c, u64 va, u64 len, bool write, unsigned mmu)
{
    const struct tlb_entry *e = &c->tlb[mmu][write][tlb_index(va)];
    u64 off = e->tag ^ va;
    return len <= PAGE_SIZE && off <= PAGE_SIZE - len ? (u8 *)e->host + off : NULL;
}

static bool crosses(u64 va, u64 len) { return (va & ~PAGE_MASK) + len > PAGE_SIZE; }

// ---- written code --------------------------------------------------------------------------------------------------------

// The page at `at` is about to be written at offset off by translated code; n: 0, or 1 for the second page of an access. Drops TBs; leaves
// if the running one is among them.
static void code_written(struct vcpu *c, const struct page_at *at, u64 off, u64 len, unsigned n)
{
    __atomic_store_n(&c->store_page[n], at->page.v >> PAGE_SHIFT, __ATOMIC_SEQ_CST);
    if (!tb_page_has_code(c->tcg, at->page)) return;
    c->n_smc++;
    c->code_page = at->page;
    c->code_host = at->host;
    if (!tb_write_matters(c->tcg, gpa(at->page.v + off), len)) return;
    u64 running = c->in_guest && c->helper_ra ? c->helper_ra - 1 : 0;
    if (!tb_invalidate_phys(c->tcg, gpa(at->page.v + off), len, running)) return;
    vcpu_sync(c);
    c->one_insn = true;
    vcpu_leave(c);
}

// A page with code that is written again and again: where it is, without a walk. False: as usual.
static bool code_page_at(const struct vcpu *c, u64 va, unsigned mmu, struct page_at *at)
{
    unsigned i = tlb_index(va);
    const struct tlb_entry *e = &c->tlb[mmu][1][i];
    if (e->tag != tlb_code_tag(va) || e->tag == tlb_empty_tag(i) || !c->code_host || e->host != (u64)c->code_host) return false;
    if (!tb_page_has_code(c->tcg, c->code_page)) return false;        // no longer: then it may enter the TLB
    *at = (struct page_at){.page = c->code_page, .host = c->code_host};
    return true;
}

// A locked access over two pages is made on the bounce buffer: only while nobody else runs is it atomic.
static void need_alone(struct vcpu *c)
{
    if (!tcg_shared(c->tcg) || c->tcg->exclusive == c) return;
    vcpu_sync(c);
    c->one_insn = c->alone = true;
    vcpu_leave(c);
}

// ---- from emitted code -----------------------------------------------------------------------------------------------------

static void mmio_read(struct vcpu *c, struct gpa a, u8 *buf, u64 len)
{
    if (c->tcg->cfg.icount) icount_before_io(c);
    for (u64 n = 0; n < len;) {
        unsigned step = len - n >= 8 ? 8 : len - n >= 4 ? 4 : len - n >= 2 ? 2 : 1;
        u64 v = phys_mmio_read(c->phys, gpa(a.v + n), step);
        memcpy(buf + n, &v, step);
        n += step;
    }
    c->n_mmio++;
}

static void mmio_write(struct vcpu *c, struct gpa a, const u8 *buf, u64 len)
{
    if (c->tcg->cfg.icount) icount_before_io(c);
    for (u64 n = 0; n < len;) {
        unsigned step = len - n >= 8 ? 8 : len - n >= 4 ? 4 : len - n >= 2 ? 2 : 1;
        u64 v = 0;
        memcpy(&v, buf + n, step);
        phys_mmio_write(c->phys, gpa(a.v + n), v, step);
        n += step;
    }
    c->n_mmio++;
}

static u8 *slow_load(struct vcpu *c, u64 va, u64 desc)
{
    unsigned size = desc & 0xff, mmu = desc >> 8 & 0xff;
    u8 *buf = c->bounce + (va & 63);
    c->n_tlb_miss++;
    c->bounce_len = 0;
    if (crosses(va, size)) {
        mem_read(c, gva(va), buf, size, mmu);
        return buf;
    }
    struct page_at at;
    (void)page_find(c, va, ACCESS_READ, mmu, true, &at);
    if (at.host) return at.host + (va & ~PAGE_MASK);
    mmio_read(c, gpa(at.page.v | (va & ~PAGE_MASK)), buf, size);
    return buf;
}

static u8 *slow_store(struct vcpu *c, u64 va, u64 desc)
{
    unsigned size = desc & 0xff, mmu = desc >> 8 & 0xff;
    bool reads = desc >> 16 & 1, may_not = desc >> 17 & 1, locked = desc >> 18 & 1;
    u8 *buf = c->bounce + (va & 63);
    c->n_tlb_miss++;
    c->bounce_len = 0;
    struct page_at at;
    if (!code_page_at(c, va, mmu, &at)) (void)page_find(c, va, ACCESS_WRITE, mmu, true, &at);
    u64 first = min_u64(size, PAGE_SIZE - (va & ~PAGE_MASK));
    if (first < size) {
        struct page_at next;
        (void)page_find(c, va + first, ACCESS_WRITE, mmu, true, &next);
        if (locked) need_alone(c);
        if (next.host) code_written(c, &next, 0, size - first, 1);
        else if (c->tcg->cfg.icount) icount_before_io(c);
    }
    if (at.host) {
        code_written(c, &at, va & ~PAGE_MASK, first, 0);
        if (first == size) return at.host + (va & ~PAGE_MASK);
    } else if (c->tcg->cfg.icount) {
        icount_before_io(c);               // now: at the commit the instruction has been executed
    }
    if (reads || (may_not && at.host)) mem_read(c, gva(va), buf, size, mmu);
    c->bounce_len = size;
    c->bounce_va = va;
    c->bounce_mmu = (u8)mmu;
    return buf;
}

u8 *softmmu_slow_load(struct vcpu *c, u64 va, u64 desc)
{
    u8 was = profile_enter(&c->prof, PROF_SOFTMMU), *at = slow_load(c, va, desc);
    profile_leave(&c->prof, was);
    return at;
}

u8 *softmmu_slow_store(struct vcpu *c, u64 va, u64 desc)
{
    u8 was = profile_enter(&c->prof, PROF_SOFTMMU), *at = slow_store(c, va, desc);
    profile_leave(&c->prof, was);
    return at;
}

void softmmu_commit(struct vcpu *c)
{
    u8 was = profile_enter(&c->prof, PROF_SOFTMMU);
    u32 len = c->bounce_len;
    c->bounce_len = 0;
    mem_write(c, gva(c->bounce_va), c->bounce + (c->bounce_va & 63), len, c->bounce_mmu);
    profile_leave(&c->prof, was);
}

// ---- for C ---------------------------------------------------------------------------------------------------------------------

// A word is moved whole: other vCPUs look at it meanwhile (SDM 3A 8.1.1).
static void copy_whole(void *d, const void *s, u64 len)
{
    switch (len) {
    case 2: *(volatile u16_any *)d = *(const volatile u16_any *)s; break;
    case 4: *(volatile u32_any *)d = *(const volatile u32_any *)s; break;
    case 8: *(volatile u64_any *)d = *(const volatile u64_any *)s; break;
    default: memcpy(d, s, len);
    }
}

// Walks all pages of a..a+len-1, raising the first fault.
static void probe_all(struct vcpu *c, u64 va, u64 len, enum access acc, unsigned mmu)
{
    struct page_at at;
    for (u64 n = 0; n < len; n += PAGE_SIZE - ((va + n) & ~PAGE_MASK))
        if (!tlb_hit(c, va + n, 1, acc == ACCESS_WRITE, mmu)) (void)page_find(c, va + n, acc, mmu, true, &at);
}

static void piece_read(struct vcpu *c, u64 va, u8 *buf, u64 len, unsigned mmu)
{
    u8 *h = tlb_hit(c, va, len, false, mmu);
    struct page_at at;
    if (!h) {
        (void)page_find(c, va, ACCESS_READ, mmu, true, &at);
        if (at.host) h = at.host + (va & ~PAGE_MASK);
    }
    if (h) copy_whole(buf, h, len);
    else mmio_read(c, gpa(at.page.v | (va & ~PAGE_MASK)), buf, len);
}

static void piece_write(struct vcpu *c, u64 va, const u8 *buf, u64 len, unsigned mmu)
{
    u8 *h = tlb_hit(c, va, len, true, mmu);
    struct page_at at;
    if (!h) {
        (void)page_find(c, va, ACCESS_WRITE, mmu, true, &at);
        if (at.host) {
            copy_whole(at.host + (va & ~PAGE_MASK), buf, len);
            // Called by a helper in the middle of its work: the running TB finishes; a stale rest of it ends with this instruction's block.
            if (tb_page_has_code(c->tcg, at.page)) c->n_smc++;
            (void)tb_invalidate_phys(c->tcg, gpa(at.page.v | (va & ~PAGE_MASK)), len, 0);
            return;
        }
    }
    if (h) copy_whole(h, buf, len);
    else mmio_write(c, gpa(at.page.v | (va & ~PAGE_MASK)), buf, len);
}

void mem_read(struct vcpu *c, struct gva a, void *buf, u64 len, unsigned mmu)
{
    probe_all(c, a.v, len, ACCESS_READ, mmu);
    for (u64 n = 0, step; n < len; n += step) {
        step = min_u64(len - n, PAGE_SIZE - ((a.v + n) & ~PAGE_MASK));
        piece_read(c, a.v + n, (u8 *)buf + n, step, mmu);
    }
}

void mem_write(struct vcpu *c, struct gva a, const void *buf, u64 len, unsigned mmu)
{
    probe_all(c, a.v, len, ACCESS_WRITE, mmu);
    for (u64 n = 0, step; n < len; n += step) {
        step = min_u64(len - n, PAGE_SIZE - ((a.v + n) & ~PAGE_MASK));
        piece_write(c, a.v + n, (const u8 *)buf + n, step, mmu);
    }
}

u64 mem_ld(struct vcpu *c, struct gva a, unsigned size, unsigned mmu)
{
    u64 v = 0;
    u8 *h = tlb_hit(c, a.v, size, false, mmu);
    if (h && size == 8) return *(volatile u64_any *)h;
    if (h) copy_whole(&v, h, size);
    else mem_read(c, a, &v, size, mmu);
    return v;
}

void mem_st(struct vcpu *c, struct gva a, u64 val, unsigned size, unsigned mmu)
{
    u8 *h = tlb_hit(c, a.v, size, true, mmu);
    if (h) copy_whole(h, &val, size);
    else mem_write(c, a, &val, size, mmu);
}

u8 *mem_probe(struct vcpu *c, struct gva a, u64 len, enum access acc, unsigned mmu)
{
    bool write = acc == ACCESS_WRITE;
    u8 *h = tlb_hit(c, a.v, len, write, mmu);
    if (h) return h;
    if (crosses(a.v, len)) {
        probe_all(c, a.v, len, acc, mmu);
        return NULL;
    }
    struct page_at at;
    (void)page_find(c, a.v, acc, mmu, true, &at);
    if (!at.host || (write && tb_page_has_code(c->tcg, at.page))) return NULL;
    return at.host + (a.v & ~PAGE_MASK);
}

// ---- code fetch ----------------------------------------------------------------------------------------------------------------

static bool code_page(struct vcpu *c, u64 va, unsigned mmu, bool raise, u64 *page)
{
    unsigned i = xtlb_index(va);
    if (!c->xsig[mmu][i] || c->xtlb[mmu][i].va != (va & PAGE_MASK)) {
        struct page_at at;
        if (!page_find(c, va, ACCESS_EXEC, mmu, raise, &at)) return false;
    }
    *page = c->xtlb[mmu][i].page;
    return true;
}

bool mem_code_find(struct vcpu *c, struct gva a, unsigned mmu, struct gpa *out)
{
    u64 page;
    if (!code_page(c, a.v, mmu, false, &page)) return false;
    *out = gpa(page | (a.v & ~PAGE_MASK));
    return true;
}

struct gpa mem_code_gpa(struct vcpu *c, struct gva a, unsigned mmu)
{
    u64 page = 0;
    (void)code_page(c, a.v, mmu, true, &page);
    return gpa(page | (a.v & ~PAGE_MASK));
}

unsigned mem_fetch(struct vcpu *c, struct gva a, void *buf, unsigned len, unsigned mmu, bool raise)
{
    u64 page;
    if (!code_page(c, a.v, mmu, raise, &page)) return 0;
    if (c->tr->claiming) tb_page_claim(c, page >> PAGE_SHIFT);
    len = (unsigned)min_u64(len, PAGE_SIZE - (a.v & ~PAGE_MASK));
    u8 *h = phys_host(c->phys, gpa(page));
    if (h) {
        memcpy(buf, h + (a.v & ~PAGE_MASK), len);
        return len;
    }
    // Code in a device or nowhere: what the bus gives, as the processor would fetch it.
    mmio_read(c, gpa(page | (a.v & ~PAGE_MASK)), buf, len);
    return len;
}
