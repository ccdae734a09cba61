// The page walk (SDM 3A chapter 4): no paging, 32-bit (2 levels), PAE (3) and 4-level paging, described by one table of formats.
//
// Order of events: read the entries top down, collecting rights; not-present or reserved bits fault at once; rights are checked at the
// leaf; only then are accessed and dirty bits set, each by compare-and-swap against the entry that was read, and the walk starts over if
// another core changed it meanwhile. So a walk that faults leaves memory alone.
//
// Dirty: a clean page is entered into the TLB without the write right, so that the first store walks again and sets D.
// SDM-DIFF: PAE's four PDPTEs are read at each walk, as AMD does; Intel keeps them in registers from MOV CR3 on (whose checks write_cr
// makes). Page tables outside RAM read as all ones, which is a reserved-bit fault.
#include "tcg/guest/x86/faultinsn.h"
#include "tcg/guest/x86/system.h"

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40, PTE_PS = 0x80, PTE_G = 0x100 };
#define PTE_NX BIT(63)
enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };

struct walk_entry { struct gpa addr; u8 *host; u64 val; };
struct walk {
    struct x86_cpu *c;
    u64 lin;
    struct walk_entry e[4];
    unsigned n;            // entries read
    unsigned entry_size;   // 4 or 8
    unsigned page_bits;    // log2 of the page the leaf maps
    bool rights_at[4];     // the entry has R/W, U/S and A (PAE's PDPTE has none)
    u64 all, any;          // AND and OR of the entries that have
    u64 phys;              // physical address of lin
};

static u64 a20(const struct x86_cpu *c, u64 pa) { return pa & (0xffffffff00000000ull | c->a20_mask); }

// Reads the next entry of the walk; false when it is not present.
static inline bool walk_read(struct walk *w, u64 table, u64 index, unsigned size, bool rights)
{
    w->rights_at[w->n] = rights;
    struct walk_entry *e = &w->e[w->n++];
    u64 val;
    e->addr = gpa(a20(w->c, table + index * size));
    e->host = phys_host(w->c->v.phys, e->addr);
    if (!e->host) val = ~0ull;
    else if (size == 8) val = __atomic_load_n((u64 *)e->host, __ATOMIC_RELAXED);
    else val = __atomic_load_n((u32 *)e->host, __ATOMIC_RELAXED);
    e->val = val;
    if (rights) {
        w->all &= val;
        w->any |= val;
    }
    return val & PTE_P;
}

enum walk_result { WALK_OK, WALK_NOT_PRESENT, WALK_RESERVED };

// Physical-address bits the guest's CPU does not have, within an 8-byte entry.
#define PHYS_RESERVED ((BIT(52) - 1) & ~(BIT(X86_PHYS_BITS) - 1))
#define PHYS_FRAME ((BIT(X86_PHYS_BITS) - 1) & PAGE_MASK)

static enum walk_result walk_32(struct walk *w)
{
    struct x86_cpu *c = w->c;
    w->entry_size = 4;
    if (!walk_read(w, c->cr3 & 0xfffff000, w->lin >> 22 & 0x3ff, 4, true)) return WALK_NOT_PRESENT;
    u64 pde = w->e[0].val;
    if ((pde & PTE_PS) && (c->cr4 & CR4_PSE)) {   // 4 MiB; bits 20:13 are physical 39:32 (PSE-36)
        w->page_bits = 22;
        if (pde & BIT(21) || !w->e[0].host) return WALK_RESERVED;
        w->phys = (pde & 0xffc00000) | (pde >> 13 & 0xff) << 32 | (w->lin & 0x3fffff);
        return WALK_OK;
    }
    if (!walk_read(w, pde & 0xfffff000, w->lin >> 12 & 0x3ff, 4, true)) return WALK_NOT_PRESENT;
    w->page_bits = 12;
    if (!w->e[0].host || !w->e[1].host) return WALK_RESERVED;
    w->phys = (w->e[1].val & 0xfffff000) | (w->lin & 0xfff);
    return WALK_OK;
}

// 8-byte formats. levels: 3 PAE, 4 long mode.
static enum walk_result walk_64(struct walk *w, unsigned levels)
{
    struct x86_cpu *c = w->c;
    bool pae = levels == 3;
    u64 reserved = PHYS_RESERVED | (c->efer & EFER_NXE ? 0 : PTE_NX);
    if (pae) reserved |= BIT(63) - BIT(52);   // PAE: 62:52 are reserved, 4-level ignores them
    u64 table = pae ? c->cr3 & 0xffffffe0 : c->cr3 & PHYS_FRAME;
    w->entry_size = 8;
    for (unsigned i = 0; i < levels; i++) {
        unsigned bits = 12 + 9 * (levels - 1 - i);   // log2 of what one entry maps
        bool pdpte = pae && i == 0;
        if (!walk_read(w, table, w->lin >> bits & (pdpte ? 3 : 0x1ff), 8, !pdpte)) return WALK_NOT_PRESENT;
        u64 e = w->e[i].val;
        bool ps = (e & PTE_PS) && bits > 12;
        if (e & (pdpte ? reserved | PTE_NX | 0x1e6 : reserved)) return WALK_RESERVED;
        if (ps && bits > 30) return WALK_RESERVED;
        table = e & PHYS_FRAME;
        if (bits == 12 || ps) {
            w->page_bits = bits;
            u64 in_page = BIT(bits) - 1;
            if (bits > 12 && (e & in_page & PHYS_FRAME & ~BIT(12))) return WALK_RESERVED;   // bit 12 is PAT in a large page
            w->phys = (table & ~in_page) | (w->lin & in_page);
            return WALK_OK;
        }
    }
    return WALK_NOT_PRESENT;   // not reached: the last level returns
}

// Sets A (and D in the leaf) where clear. False: an entry changed since it was read.
static bool walk_mark(struct walk *w, bool dirty)
{
    if ((w->all & PTE_A) && (!dirty || (w->e[w->n - 1].val & PTE_D))) return true;
    for (unsigned i = 0; i < w->n; i++) {
        struct walk_entry *e = &w->e[i];
        u64 want = e->val | (w->rights_at[i] ? PTE_A : 0) | (i == w->n - 1 && dirty ? PTE_D : 0);
        if (want == e->val) continue;
        const struct region *r = phys_find(w->c->v.phys, e->addr);
        if (!r || r->kind != REGION_RAM) continue;   // a table in ROM keeps its bits
        if (w->entry_size == 8) {
            u64 old = e->val;
            if (!__atomic_compare_exchange_n((u64 *)e->host, &old, want, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return false;
        } else {
            u32 old = (u32)e->val;
            if (!__atomic_compare_exchange_n((u32 *)e->host, &old, (u32)want, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return false;
        }
        e->val = want;
    }
    return true;
}

// Rights of the page for mmu mode `mmu` (SDM 3A 4.6), from the AND of the entries' R/W and U/S and the OR of their NX.
static unsigned walk_rights(const struct walk *w, unsigned mmu)
{
    const struct x86_cpu *c = w->c;
    bool user_page = w->all & PTE_U, writable = w->all & PTE_W, nx = w->entry_size == 8 && (w->any & PTE_NX);
    unsigned prot = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC;
    if (nx) prot &= ~(unsigned)ACCESS_EXEC;
    if (mmu == 1) {
        if (!user_page) return 0;
        if (!writable) prot &= ~(unsigned)ACCESS_WRITE;
        return prot;
    }
    if (!writable && (c->cr0 & CR0_WP)) prot &= ~(unsigned)ACCESS_WRITE;
    if (user_page && (c->cr4 & CR4_SMEP)) prot &= ~(unsigned)ACCESS_EXEC;
    if (user_page && (c->cr4 & CR4_SMAP) && mmu == 0) prot &= ~(unsigned)(ACCESS_READ | ACCESS_WRITE);
    return prot;
}

// The last page below the hole, or below 4 GiB: only there operands can reach over the end.
static bool is_last_page(const struct x86_cpu *c, u64 lin)
{
    return x86_code64(c) ? lin >> PAGE_SHIFT == 0x7ffffffff : lin >> PAGE_SHIFT == 0xfffff;
}

static bool page_fault(struct x86_cpu *c, u64 lin, enum access acc, unsigned mmu, u32 why, bool raise)
{
    if (!raise) return false;
    if (acc != ACCESS_EXEC && x86_fault_is_x87(c)) x86_raise(c, EXC_MF, -1);
    if (acc != ACCESS_EXEC && x86_fault_is_misaligned(c, lin)) x86_raise(c, EXC_GP, 0);
    int over = acc != ACCESS_EXEC && is_last_page(c, lin) ? x86_fault_over_end(c, lin) : -1;
    if (over >= 0) x86_raise(c, (unsigned)over, 0);
    bool id = (c->cr4 & CR4_SMEP) || ((c->cr4 & CR4_PAE) && (c->efer & EFER_NXE));
    u32 err = why | (acc == ACCESS_WRITE ? PF_W : 0) | (mmu == 1 ? PF_U : 0) | (acc == ACCESS_EXEC && id ? PF_I : 0);
    c->cr2 = lin;
    x86_raise(c, EXC_PF, err);
}

static void fill_unpaged(struct x86_cpu *c, u64 lin, struct tlb_fill *out)
{
    *out = (struct tlb_fill){.page = gpa(a20(c, lin & PAGE_MASK)), .prot = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC};
}

bool x86_tlb_fill(struct vcpu *v, struct gva a, enum access acc, unsigned mmu, bool raise, struct tlb_fill *out)
{
    struct x86_cpu *c = x86(v);
    if (!(c->cr0 & CR0_PG)) {
        fill_unpaged(c, a.v, out);
        return true;
    }
    bool lma = x86_long_mode(c);
    if (lma && !x86_canonical(a.v)) {
        if (raise && acc != ACCESS_EXEC && x86_fault_is_x87(c)) x86_raise(c, EXC_MF, -1);
        if (raise) x86_raise(c, acc != ACCESS_EXEC && x86_fault_is_stack(c) && !x86_fault_is_misaligned(c, a.v) ? EXC_SS : EXC_GP, 0);
        return false;
    }
    // Outside 64-bit code an access that began below 4 GiB goes on at 0, unless its offset itself reaches over the end. Not for the TLB,
    // whose tags are what they are.
    bool wrapped = a.v >> 32 && !x86_code64(c) && (mmu == 1 || !lma);
    if (wrapped) {
        if (raise && acc != ACCESS_EXEC && x86_fault_is_misaligned(c, a.v)) x86_raise(c, EXC_GP, 0);
        int over = raise && acc != ACCESS_EXEC ? x86_fault_over_end(c, a.v) : -1;
        if (over >= 0) x86_raise(c, (unsigned)over, 0);
        a.v = (u32)a.v;
    }
    struct walk w;
    do {
        w.c = c;
        w.lin = a.v;
        w.n = 0;
        w.all = ~0ull;
        w.any = 0;
        enum walk_result r = lma ? walk_64(&w, 4) : c->cr4 & CR4_PAE ? walk_64(&w, 3) : walk_32(&w);
        if (r == WALK_NOT_PRESENT) return page_fault(c, a.v, acc, mmu, 0, raise);
        if (r == WALK_RESERVED) return page_fault(c, a.v, acc, mmu, PF_P | PF_RSVD, raise);
        out->prot = walk_rights(&w, mmu);
        if (!(out->prot & acc)) return page_fault(c, a.v, acc, mmu, PF_P, raise);
    } while (!walk_mark(&w, acc == ACCESS_WRITE));
    u64 leaf = w.e[w.n - 1].val;
    if (!(leaf & PTE_D)) out->prot &= ~(unsigned)ACCESS_WRITE;
    if (wrapped) out->prot = 0;
    out->page = gpa(a20(c, w.phys) & PAGE_MASK);
    out->page_size = 1ull << w.page_bits;
    out->global = (leaf & PTE_G) && (c->cr4 & CR4_PGE);
    return true;
}
