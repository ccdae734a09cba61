// Tests of the x86 guest's page walk, and of gate delivery and returns, over a small fake RAM.
//
// The paging test is exhaustive over the rights: every combination of entry bits, control bits, mmu mode and access is walked in each
// paging mode and compared with an oracle written from the text of SDM 3A 4.6, independent of paging.c's way of computing. Reserved bits,
// sizes, A/D, A20 and canonicality have rows of their own. The delivery tests run real gates, stacks and IRETs through the same fake
// memory.
// Build: with tcg/guest/x86/{seg,exception,farjump,paging,msr,cpuid,sysinsn,fpu,rep,cpu}.c and kernel/base/fmt.c.
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tcg/guest/x86/faultinsn.h"
#include "tcg/guest/x86/system.h"

enum { RAM_SIZE = 2 << 20 };
static u8 ram[RAM_SIZE] __attribute__((aligned(4096)));
static struct x86_cpu *cpu;
static jmp_buf out_of_guest;
static bool in_guest, reset_asked;
static unsigned passed, failed;
static struct region ram_region = {.size = RAM_SIZE, .kind = REGION_RAM, .host = ram};

static void check(bool ok, const char *what, unsigned long long got, unsigned long long want)
{
    if (ok) {
        passed++;
        return;
    }
    if (failed++ < 40) printf("FAIL %s: got %#llx, want %#llx\n", what, got, want);
}
static void check_eq(const char *what, u64 got, u64 want) { check(got == want, what, got, want); }

// ---- what the units under test call -----------------------------------------------------------------------------------

u8 *phys_host(struct phys *p, struct gpa a) { return a.v < RAM_SIZE ? ram + a.v : NULL; }
struct region *phys_find(struct phys *p, struct gpa a) { return a.v < RAM_SIZE ? &ram_region : NULL; }
u64 phys_port_read(struct phys *p, u16 port, unsigned size) { return 0; }
void phys_port_write(struct phys *p, u16 port, u64 val, unsigned size) {}
void vcpu_sync(struct vcpu *c) {}
const u8 *vcpu_code_now(struct vcpu *c) { return NULL; }
void vcpu_leave(struct vcpu *c)
{
    if (!in_guest) {
        printf("FAIL: left outside of a test\n");
        exit(1);
    }
    longjmp(out_of_guest, 1);
}
void vcpu_request_reset(struct vcpu *c) { reset_asked = true; }
unsigned vcpu_index(const struct vcpu *c) { return c->index; }
static struct { unsigned all, local, switched; u32 from, to; bool kept; } tlb;   // calls since the last look
void tlb_flush(struct vcpu *c) { tlb.all++; }
void tlb_flush_local(struct vcpu *c) { tlb.local++; }
void tlb_switch(struct vcpu *c, u32 from, u32 to, bool keep_to)
{
    tlb.switched++;
    tlb.from = from;
    tlb.to = to;
    tlb.kept = keep_to;
}
// Which instruction faulted is not known here: no code is run, so no access counts as a stack's, an x87 operand's or a misaligned one.
bool x86_fault_is_stack(struct x86_cpu *c) { return false; }
bool x86_fault_is_x87(struct x86_cpu *c) { return false; }
bool x86_fault_is_misaligned(struct x86_cpu *c, u64 lin) { return false; }
int x86_fault_over_end(struct x86_cpu *c, u64 lin) { return -1; }
void tlb_flush_page(struct vcpu *c, struct gva a) {}
void log_write(enum log_level lv, const char *fmt, ...) {}
unsigned trace_mask(void) { return 0; }
void trace_write(const char *fmt, ...) {}
void x86_translate(struct vcpu *v, struct ir_block *b, unsigned max_insns) {}
void x86_branched(struct vcpu *v, u64 from) {}

u8 *mem_probe(struct vcpu *c, struct gva a, u64 len, enum access acc, unsigned mmu)
{
    struct tlb_fill f;
    (void)x86_tlb_fill(c, a, acc, mmu, true, &f);
    if ((a.v & ~PAGE_MASK) + len > PAGE_SIZE) return NULL;
    u8 *h = phys_host(NULL, f.page);
    return h ? h + (a.v & ~PAGE_MASK) : NULL;
}
void mem_read(struct vcpu *c, struct gva a, void *buf, u64 len, unsigned mmu)
{
    for (u64 i = 0; i < len; i++) {
        u8 *h = mem_probe(c, gva(a.v + i), 1, ACCESS_READ, mmu);
        ((u8 *)buf)[i] = h ? *h : 0xff;
    }
}
void mem_write(struct vcpu *c, struct gva a, const void *buf, u64 len, unsigned mmu)
{
    for (u64 i = 0; i < len; i++) (void)mem_probe(c, gva(a.v + i), 1, ACCESS_WRITE, mmu);
    for (u64 i = 0; i < len; i++) {
        u8 *h = mem_probe(c, gva(a.v + i), 1, ACCESS_WRITE, mmu);
        if (h) *h = ((const u8 *)buf)[i];
    }
}
u64 mem_ld(struct vcpu *c, struct gva a, unsigned size, unsigned mmu)
{
    u64 v = 0;
    mem_read(c, a, &v, size, mmu);
    return v;
}
void mem_st(struct vcpu *c, struct gva a, u64 val, unsigned size, unsigned mmu) { mem_write(c, a, &val, size, mmu); }

// ---- the page walk -----------------------------------------------------------------------------------------------------

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX BIT(63)
enum { MODE_32, MODE_PAE, MODE_LONG };
enum { TABLES = 0x10000, PAGE = 0x40000 };

static void cpu_clear(void)
{
    memset(ram, 0, sizeof ram);
    memset(cpu, 0, sizeof *cpu);
    x86_cpu_reset(cpu, false);
}

static void paging_on(unsigned mode)
{
    cpu->cr0 = CR0_PG | CR0_PE | CR0_ET;
    cpu->cr4 = mode == MODE_32 ? CR4_PSE : CR4_PAE;
    cpu->efer = mode == MODE_LONG ? EFER_LME | EFER_LMA : 0;
    cpu->cr3 = TABLES;
}

static u8 *entry_at(unsigned mode, unsigned level) { return ram + TABLES + level * 0x1000; }

// Builds tables that map linear 0 by one entry per level (index 0 everywhere): level n's table is at TABLES + n pages, the leaf at `leaf`.
static void entry_set(unsigned mode, unsigned level, u64 val)
{
    if (mode == MODE_32) *(u32 *)entry_at(mode, level) = (u32)val;
    else *(u64 *)entry_at(mode, level) = val;
}
static u64 entry_get(unsigned mode, unsigned level)
{
    return mode == MODE_32 ? *(u32 *)entry_at(mode, level) : *(u64 *)entry_at(mode, level);
}
static unsigned levels_of(unsigned mode) { return mode == MODE_32 ? 2 : mode == MODE_PAE ? 3 : 4; }

struct outcome { bool ok; unsigned vec; u32 err; struct tlb_fill f; };

static struct outcome walk(u64 lin, enum access acc, unsigned mmu)
{
    struct outcome o = {0};
    in_guest = true;
    if (!setjmp(out_of_guest)) {
        (void)x86_tlb_fill(&cpu->v, gva(lin), acc, mmu, true, &o.f);
        o.ok = true;
    } else {
        o.vec = cpu->exc_vector;
        o.err = cpu->exc_error;
    }
    in_guest = false;
    cpu->v.exc_pending = false;
    return o;
}

// SDM 3A 4.6.1, in its own order. ur, uw, unx: rights over all levels.
static bool oracle(bool user_page, bool writable, bool nx, unsigned mmu, enum access acc, bool wp, bool smep, bool smap)
{
    if (mmu == 1) {
        if (!user_page) return false;
        if (acc == ACCESS_WRITE) return writable;
        return acc == ACCESS_READ || !nx;
    }
    if (acc == ACCESS_EXEC) return !nx && !(user_page && smep);
    bool smap_closed = user_page && smap && mmu == 0;
    if (smap_closed) return false;
    return acc == ACCESS_READ || writable || !wp;
}

// One combination: `up` are the rights of the first entry that has rights, `leaf` of the last (others grant everything).
static void rights_case(unsigned mode, u64 up, u64 leaf, unsigned ctl, unsigned mmu, enum access acc)
{
    unsigned n = levels_of(mode), first = mode == MODE_PAE;
    bool wp = ctl & 1, smep = ctl & 2, smap = ctl & 4, nxe = ctl & 8;
    if ((mode == MODE_32 || !nxe) && ((up | leaf) & NX)) return;
    paging_on(mode);
    cpu->cr0 |= wp ? CR0_WP : 0;
    cpu->cr4 |= (smep ? CR4_SMEP : 0) | (smap ? CR4_SMAP : 0);
    cpu->efer |= nxe ? EFER_NXE : 0;
    for (unsigned i = 0; i < n; i++) {
        u64 next = i == n - 1 ? PAGE : TABLES + (i + 1) * 0x1000, rights = i < first ? 0 : W | U;
        if (i == first) rights = up;
        if (i == n - 1) rights = leaf;
        entry_set(mode, i, next | P | rights);
    }
    bool want = oracle(up & leaf & U, up & leaf & W, (up | leaf) & NX, mmu, acc, wp, smep, smap);
    struct outcome o = walk(0x123, acc, mmu);
    check_eq("granted", o.ok, want);
    bool id = acc == ACCESS_EXEC && (smep || (nxe && mode != MODE_32));
    u32 err = 1 | (acc == ACCESS_WRITE ? 2 : 0) | (mmu == 1 ? 4 : 0) | (id ? 16 : 0);
    if (!want) {
        check_eq("error code", o.vec << 8 | o.err, EXC_PF << 8 | err);
        check_eq("CR2", cpu->cr2, 0x123);
    } else {
        check_eq("page", o.f.page.v, PAGE);
        check_eq("write right only when dirty", !!(o.f.prot & ACCESS_WRITE), acc == ACCESS_WRITE);
    }
    for (unsigned i = first; i < n; i++) {
        u64 ad = !want ? 0 : i == n - 1 && acc == ACCESS_WRITE ? A | D : A;
        check_eq("accessed and dirty", entry_get(mode, i) & (A | D), ad);
    }
}

static void test_rights(void)
{
    static const enum access accs[] = {ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC};
    static const u64 rights[] = {0, W, U, W | U, NX, NX | W, NX | U, NX | W | U};
    for (unsigned mode = MODE_32; mode <= MODE_LONG; mode++)
        for (unsigned up = 0; up < 8; up++)
            for (unsigned leaf = 0; leaf < 8; leaf++)
                for (unsigned ctl = 0; ctl < 16; ctl++)
                    for (unsigned mmu = 0; mmu < 3; mmu++)
                        for (unsigned a = 0; a < 3; a++) rights_case(mode, rights[up], rights[leaf], ctl, mmu, accs[a]);
}

// Not present and reserved at each level; entry n's content is given, those above it are plain pointers.
struct entry_row { unsigned mode, level; u64 val; u32 err; const char *what; };
static const struct entry_row entry_rows[] = {
    {MODE_32, 0, 0, 0, "PDE absent"},
    {MODE_32, 1, 0, 0, "PTE absent"},
    {MODE_32, 0, P | PS | BIT(21), 9, "4M page, bit 21"},
    {MODE_PAE, 0, 0, 0, "PDPTE absent"},
    {MODE_PAE, 0, P | W, 9, "PDPTE with R/W"},
    {MODE_PAE, 0, P | NX, 9, "PDPTE with NX"},
    {MODE_PAE, 1, P | BIT(52), 9, "PAE PDE, bit 52"},
    {MODE_PAE, 1, P | PS | BIT(13), 9, "PAE 2M page, bit 13"},
    {MODE_PAE, 2, P | BIT(X86_PHYS_BITS), 9, "PAE PTE beyond MAXPHYADDR"},
    {MODE_PAE, 2, P | NX, 9, "PAE PTE, NX without NXE"},
    {MODE_LONG, 0, 0, 0, "PML4E absent"},
    {MODE_LONG, 0, P | PS, 9, "PML4E with PS"},
    {MODE_LONG, 0, P | NX, 9, "PML4E, NX without NXE"},
    {MODE_LONG, 1, P | PS | BIT(13), 9, "1G page, bit 13"},
    {MODE_LONG, 1, P | PS | BIT(29), 9, "1G page, bit 29"},
    {MODE_LONG, 1, 0, 0, "PDPTE absent"},
    {MODE_LONG, 2, P | PS | BIT(20), 9, "2M page, bit 20"},
    {MODE_LONG, 2, P | BIT(51), 9, "PDE beyond MAXPHYADDR"},
    {MODE_LONG, 3, P | BIT(X86_PHYS_BITS), 9, "PTE beyond MAXPHYADDR"},
    {MODE_LONG, 3, 0, 0, "PTE absent"},
};

static void tables_plain(unsigned mode)
{
    unsigned n = levels_of(mode);
    for (unsigned i = 0; i < n; i++) {
        u64 rights = mode == MODE_PAE && i == 0 ? 0 : W | U;
        entry_set(mode, i, (i == n - 1 ? PAGE : TABLES + (i + 1) * 0x1000) | P | rights);
    }
}

static void test_entries(void)
{
    for (unsigned r = 0; r < ARRAY_SIZE(entry_rows); r++) {
        const struct entry_row *e = &entry_rows[r];
        cpu_clear();
        paging_on(e->mode);
        tables_plain(e->mode);
        entry_set(e->mode, e->level, e->val);
        struct outcome o = walk(0x7ff, ACCESS_WRITE, 1);
        check_eq(e->what, o.ok ? ~0ull : o.vec << 8 | o.err, EXC_PF << 8 | e->err | 2 | 4);
        for (unsigned i = 0; i < levels_of(e->mode); i++) check_eq("a faulting walk marks nothing", entry_get(e->mode, i) & A & ~e->val, 0);
    }
}

// Large pages: entry `level` is the leaf with frame `frame`; lin must come out as phys.
struct big_row { unsigned mode, level; u64 entry, lin, phys; };
static const struct big_row big_rows[] = {
    {MODE_32, 0, 0xc00000 | P | PS | W | U, 0x123456, 0xd23456},
    {MODE_32, 0, 0xc00000 | 5 << 13 | P | PS | W | U, 0x3fffff, 0x500ffffff},          // PSE-36: bits 20:13 are physical 39:32
    {MODE_PAE, 1, 0xe00000 | P | PS | W | U | BIT(12), 0x1fffff, 0xffffff},           // bit 12: PAT
    {MODE_LONG, 2, 0x12e00000 | P | PS | W | U, 0x1abcde, 0x12fabcde},
    {MODE_LONG, 1, 0x1c0000000 | P | PS | W | U, 0x3abcdef0, 0x1fabcdef0},
};

static void test_big(void)
{
    for (unsigned r = 0; r < ARRAY_SIZE(big_rows); r++) {
        const struct big_row *b = &big_rows[r];
        cpu_clear();
        paging_on(b->mode);
        tables_plain(b->mode);
        // the upper levels of these rows have index 0; the leaf's own index is 0 too
        entry_set(b->mode, b->level, b->entry);
        struct outcome o = walk(b->lin, ACCESS_WRITE, 1);
        check(o.ok && o.f.page_size > PAGE_SIZE, "big page", o.f.page_size, 0);
        check_eq("big page's address", o.f.page.v | (b->lin & 0xfff), b->phys);
        check_eq("big page's dirty bit", entry_get(b->mode, b->level) & (A | D), A | D);
    }
}

static void test_odd(void)
{
    cpu_clear();
    cpu->cr0 = CR0_PE;
    struct outcome o = walk(0x123456, ACCESS_WRITE, 0);
    check_eq("no paging", o.f.page.v, 0x123000);
    cpu->a20_mask = ~(1u << 20);
    check_eq("A20 masked", walk(0x123456, ACCESS_WRITE, 0).f.page.v, 0x23000);
    cpu_clear();
    paging_on(MODE_LONG);
    tables_plain(MODE_LONG);
    o = walk(0x800000000000, ACCESS_READ, 0);
    check_eq("non-canonical", o.ok ? ~0ull : o.vec << 8 | o.err, EXC_GP << 8);
    struct tlb_fill f;
    check_eq("non-canonical, quiet", x86_tlb_fill(&cpu->v, gva(0x800000000000), ACCESS_READ, 0, false, &f), false);
    cpu->cr4 |= CR4_PGE;
    entry_set(MODE_LONG, 3, PAGE | P | W | G | D);
    o = walk(0x10, ACCESS_READ, 0);
    check_eq("global, dirty page is writable at once", o.f.global << 8 | (o.f.prot & ACCESS_WRITE), 1 << 8 | ACCESS_WRITE);
    entry_set(MODE_LONG, 2, 0x7ffff000 | P | W | U);   // a table that is not in RAM
    o = walk(0x10, ACCESS_READ, 0);
    check_eq("table outside RAM", o.ok ? ~0ull : o.vec << 8 | o.err, EXC_PF << 8 | 9);
    cpu->cr4 &= ~(u64)CR4_PSE;
    paging_on(MODE_32);
    cpu->cr4 = 0;
    entry_set(MODE_32, 0, (TABLES + 0x1000) | P | W | U | PS);   // without CR4.PSE the bit is ignored
    entry_set(MODE_32, 1, PAGE | P | W | U);
    check_eq("PS without PSE", walk(0x10, ACCESS_READ, 0).f.page.v, PAGE);
}

// ---- delivery -----------------------------------------------------------------------------------------------------------

enum { GDT = 0x1000, IDT = 0x2000, TSS = 0x3000, KSTACK = 0x8000, USTACK = 0x9000, IST_STACK = 0xa000, PML4 = 0x10000 };

static void desc_put(unsigned sel, u32 base, u32 limit, u32 attr)   // attr as in struct segment
{
    u32 lo = (base << 16) | (limit & 0xffff), hi = (base & 0xff000000) | (base >> 16 & 0xff) | attr | (limit & 0xf0000);
    *(u64 *)(ram + GDT + (sel & ~7u)) = (u64)hi << 32 | lo;
}
static void gate_put(unsigned vec, u16 sel, u64 pc, unsigned type, unsigned dpl, unsigned ist, bool lma)
{
    u8 *g = ram + IDT + vec * (lma ? 16 : 8);
    *(u32 *)g = (pc & 0xffff) | (u32)sel << 16;
    *(u32 *)(g + 4) = (pc & 0xffff0000) | DESC_P | dpl << 13 | type << 8 | ist;
    if (lma) *(u64 *)(g + 8) = pc >> 32;
}

enum { CODE = DESC_P | DESC_S | DESC_CODE | DESC_R | DESC_G, DATA = DESC_P | DESC_S | DESC_W | DESC_G | DESC_B };
static u32 dpl_bits(unsigned d) { return d << 13; }

// Selectors: 08 kernel code, 10 kernel data, 18 user data, 20 user code (long: 64-bit), 28 TSS.
static void machine_set_up(bool lma)
{
    cpu_clear();
    u32 code = CODE | (lma ? DESC_L : DESC_B);
    desc_put(0x08, 0, 0xfffff, code);
    desc_put(0x10, 0, 0xfffff, DATA);
    desc_put(0x18, 0, 0xfffff, DATA | dpl_bits(3));
    desc_put(0x20, 0, 0xfffff, code | dpl_bits(3));
    cpu->gdtr.base = GDT;
    cpu->gdtr.limit = 0x3f;
    cpu->idtr.base = IDT;
    cpu->idtr.limit = 0xfff;
    x86_seg_set(cpu, SEG_TR, 0x28, TSS, 0xff, DESC_P | 11 << 8);
    if (lma) {
        *(u32 *)(ram + TSS + 4) = KSTACK, *(u32 *)(ram + TSS + 4 + 4) = (u64)KSTACK >> 32;
        *(u32 *)(ram + TSS + 0x24) = IST_STACK, *(u32 *)(ram + TSS + 0x24 + 4) = (u64)IST_STACK >> 32;
        *(u64 *)(ram + PML4) = (PML4 + 0x1000) | P | W | U;
        *(u64 *)(ram + PML4 + 0x1000) = P | W | U | PS;   // the first GiB as it is
        cpu->cr3 = PML4;
        cpu->cr4 = CR4_PAE;
        cpu->efer = EFER_LME | EFER_LMA | EFER_SCE;
        cpu->cr0 = CR0_PG | CR0_PE | CR0_ET;
    } else {
        *(u32 *)(ram + TSS + 4) = KSTACK;
        *(u16 *)(ram + TSS + 8) = 0x10;
        cpu->cr0 = CR0_PE | CR0_ET;
    }
}

static void run_at(unsigned cpl, u64 pc, u64 sp)
{
    struct x86_desc cs, ss;
    u16 cs_sel = cpl ? 0x23 : 0x08, ss_sel = cpl ? 0x1b : 0x10;
    (void)!x86_desc_read(cpu, cs_sel, &cs);
    (void)!x86_desc_read(cpu, ss_sel, &ss);
    x86_seg_from_desc(cpu, SEG_CS, cs_sel, &cs);
    x86_seg_from_desc(cpu, SEG_SS, ss_sel, &ss);
    cpu->v.pc = pc;
    cpu->v.regs[G_RSP] = sp;
    x86_set_eflags(cpu, 0x202 | EF_ZF | EF_CF);
}

// Runs fn as the loop would: exceptions raised are delivered until one sticks. Returns how many deliveries were tried.
static unsigned run_guest(u64 (*fn)(struct vcpu *, u64, u64, u64), u64 a, u64 b, u64 d)
{
    volatile unsigned n = 0;
    volatile bool ran = false;
    in_guest = true;
    (void)setjmp(out_of_guest);
    if (!ran) {
        ran = true;
        (void)fn(&cpu->v, a, b, d);
    }
    while (cpu->v.exc_pending && n < 8) {
        n++;
        x86_deliver_exception(&cpu->v);
    }
    in_guest = false;
    return n;
}

static u64 word(u64 at, unsigned size) { return size == 8 ? *(u64 *)(ram + at) : size == 4 ? *(u32 *)(ram + at) : *(u16 *)(ram + at); }

static void check_frame(const char *what, u64 sp, unsigned size, const u64 *want, unsigned n)
{
    char text[64];
    for (unsigned i = 0; i < n; i++) {
        snprintf(text, sizeof text, "%s, word %u", what, i);
        check_eq(text, word(sp + i * size, size), want[i]);
    }
}

static void test_long_mode(void)
{
    machine_set_up(true);
    gate_put(14, 0x08, 0xffff800000001234 & 0x00007fffffffffff, SYS_INT32, 0, 0, true);
    gate_put(3, 0x08, 0x5000, SYS_TRAP32, 3, 1, true);
    run_at(3, 0x4000, USTACK);
    check_eq("error raised", run_guest(x86_helper_raise, EXC_PF, 6, 0), 1);
    u64 pf[] = {6, 0x4000, 0x23, 0x202 | EF_ZF | EF_CF | EF_RF, USTACK, 0x1b};
    check_frame("#PF from user, long mode", KSTACK - 48, 8, pf, 6);
    check_eq("handler RSP", cpu->v.regs[G_RSP], KSTACK - 48);
    check_eq("handler CS, SS", (u64)cpu->seg[SEG_CS].sel << 16 | cpu->seg[SEG_SS].sel, 0x08 << 16);
    check_eq("handler IF", cpu->eflags & EF_IF, 0);
    check_eq("mode word", cpu->mode_word & (TBM_CPL | TBM_CODE64), TBM_CODE64);
    cpu->v.regs[G_RSP] += 8;
    check_eq("IRETQ", run_guest(x86_helper_iret, 0, 0, X86_INFO(0, 8, 8, 0, 2, 0)), 0);
    check_eq("back at", cpu->v.pc, 0x4000);
    check_eq("back in CS", cpu->seg[SEG_CS].sel, 0x23);
    check_eq("back on stack", cpu->v.regs[G_RSP], USTACK);
    check_eq("back with flags", x86_get_eflags(cpu), 0x202 | EF_ZF | EF_CF);
    check_eq("CPL 3", x86_cpl(cpu), 3);
    // INT 3 through an IST gate; its pc is the next one, IF stays (trap gate)
    (void)run_guest(x86_helper_int3, 0, 0x4001, 0);
    u64 bp[] = {0x4001, 0x23, 0x202 | EF_ZF | EF_CF, USTACK, 0x1b};
    check_frame("INT3 by IST", IST_STACK - 40, 8, bp, 5);
    check_eq("IF kept by a trap gate", cpu->eflags & EF_IF, EF_IF);
    // INT n through a gate of DPL 0: #GP(vector * 8 + 2) at the INT itself
    run_at(3, 0x4000, USTACK);
    gate_put(13, 0x08, 0x6000, SYS_INT32, 0, 0, true);
    check_eq("INT 14 from user", run_guest(x86_helper_int, 14, 0x4002, 0), 1);
    u64 gp[] = {14 * 8 + 2, 0x4000, 0x23};
    check_frame("#GP of INT 14", KSTACK - 48, 8, gp, 3);
}

static void test_nesting(void)
{
    machine_set_up(true);
    gate_put(8, 0x08, 0x7000, SYS_INT32, 0, 0, true);
    run_at(0, 0x4000, KSTACK - 0x100);
    check_eq("#GP without gate becomes #DF", run_guest(x86_helper_raise, EXC_GP, 0, 0), 2);
    check_eq("#DF handler", cpu->v.pc, 0x7000);
    check_eq("#DF error code", word(cpu->v.regs[G_RSP], 8), 0);
    *(u64 *)(ram + IDT + 8 * 16) = *(u64 *)(ram + IDT + 8 * 16 + 8) = 0;
    run_at(0, 0x4000, KSTACK - 0x100);
    reset_asked = false;
    (void)run_guest(x86_helper_raise, EXC_GP, 0, 0);
    check_eq("triple fault asks for reset", reset_asked, true);
    // A benign first exception: the second is delivered as it is.
    gate_put(11, 0x08, 0x7100, SYS_INT32, 0, 0, true);
    gate_put(3, 0x08, 0x7200, SYS_INT32, 3, 0, true);
    ram[IDT + 3 * 16 + 5] &= 0x7f;   // not present
    run_at(0, 0x4000, KSTACK - 0x100);
    (void)run_guest(x86_helper_int3, 0, 0x4001, 0);
    check_eq("#NP of INT3", cpu->v.pc, 0x7100);
    check_eq("#NP error code: gate 3, EXT clear", word(cpu->v.regs[G_RSP], 8), 3 * 8 + 2);
    check_eq("#NP at the INT3", word(cpu->v.regs[G_RSP] + 8, 8), 0x4000);
}

static void test_protected(void)
{
    machine_set_up(false);
    gate_put(0x80, 0x08, 0x5000, SYS_TRAP32, 3, 0, false);
    run_at(3, 0x4000, USTACK);
    (void)run_guest(x86_helper_int, 0x80, 0x4002, 0);
    u64 want[] = {0x4002, 0x23, 0x202 | EF_ZF | EF_CF, USTACK, 0x1b};
    check_frame("INT 80h, 32-bit", KSTACK - 20, 4, want, 5);
    check_eq("SS from the TSS", cpu->seg[SEG_SS].sel, 0x10);
    (void)run_guest(x86_helper_iret, 0, 0, X86_INFO(0, 4, 4, 0, 1, 0));
    check_eq("IRETD", (u64)cpu->seg[SEG_CS].sel << 32 | cpu->v.pc, 0x23ull << 32 | 0x4000 | 2);
    check_eq("IRETD's ESP", cpu->v.regs[G_RSP], USTACK);
    // VM86 and back: from CPL 0 by IRET, and an exception out of it
    run_at(0, 0x4000, KSTACK - 0x100);
    u32 frame[] = {0x100, 0x0700, EF_VM | 0x3202, 0x200, 0x0800, 0x11, 0x22, 0x33, 0x44};
    memcpy(ram + KSTACK - 0x100, frame, sizeof frame);
    (void)run_guest(x86_helper_iret, 0, 0, X86_INFO(0, 4, 4, 0, 1, 0));
    check_eq("in VM86", cpu->mode_word & (TBM_VM86 | TBM_CPL), TBM_VM86 | 3);
    check_eq("VM86 bases", cpu->seg_base[SEG_CS] << 32 | cpu->seg_base[SEG_DS], 0x7000ull << 32 | 0x220);
    gate_put(13, 0x08, 0x6000, SYS_INT32, 0, 0, false);
    (void)run_guest(x86_helper_raise, EXC_GP, 0, 0);
    u64 vm[] = {0, 0x100, 0x0700, EF_VM | EF_RF | 0x3202, 0x200, 0x0800, 0x11, 0x22, 0x33, 0x44};
    check_frame("#GP out of VM86", KSTACK - 40, 4, vm, 10);
    check_eq("out of VM86", cpu->eflags & EF_VM, 0);
}

static void test_real(void)
{
    cpu_clear();
    *(u32 *)(ram + 0x10 * 4) = 0xf0001234;
    x86_seg_set_real(cpu, SEG_SS, 0x100);
    x86_seg_set_real(cpu, SEG_CS, 0x700);
    cpu->v.pc = 0x20;
    cpu->v.regs[G_RSP] = 0xabcd0002;
    x86_set_eflags(cpu, 0x202);
    (void)run_guest(x86_helper_int, 0x10, 0x22, 0);
    // SP 2 wraps: the flags go to offset 0, CS and IP to the segment's end
    check_eq("real-mode flags", word(0x1000, 2), 0x202);
    check_eq("real-mode CS", word(0x1fffe - 0x10000 + 0x1000, 2), 0x700);
    check_eq("real-mode IP", word(0xfffc + 0x1000, 2), 0x22);
    check_eq("SP wraps, upper half kept", cpu->v.regs[G_RSP], 0xabcdfffc);
    check_eq("handler", cpu->seg_base[SEG_CS] + cpu->v.pc, 0xf0000 + 0x1234);
    (void)run_guest(x86_helper_iret, 0, 0, X86_INFO(0, 2, 2, 0, 1, 0));
    check_eq("real-mode IRET", cpu->seg_base[SEG_CS] + cpu->v.pc, 0x7022);
    check_eq("real-mode IRET's flags", x86_get_eflags(cpu), 0x202);
}

static void test_syscall(void)
{
    machine_set_up(true);
    run_at(3, 0x4000, USTACK);
    cpu->star = 0x0010000800000000;   // SYSRET: 10 + 16 = 20 code, 18 data
    cpu->lstar = 0x5000;
    cpu->fmask = EF_IF | EF_TF;
    (void)run_guest(x86_helper_syscall, 0x4002, 0, 0);
    check_eq("SYSCALL RIP", cpu->v.pc, 0x5000);
    check_eq("SYSCALL RCX, R11", cpu->v.regs[G_RCX] << 32 | cpu->v.regs[G_R11], 0x4002ull << 32 | 0x202 | EF_ZF | EF_CF);
    check_eq("SYSCALL CPL and IF", x86_cpl(cpu) | (cpu->eflags & EF_IF), 0);
    (void)run_guest(x86_helper_sysret, 0, 0, X86_INFO(0, 8, 8, 0, 3, 0));
    check_eq("SYSRET", (u64)cpu->seg[SEG_CS].sel << 32 | cpu->v.pc, 0x23ull << 32 | 0x4002);
    check_eq("SYSRET SS", cpu->seg[SEG_SS].sel, 0x1b);
    check_eq("SYSRET CPL and IF", x86_cpl(cpu) | (cpu->eflags & EF_IF), 3 | EF_IF);
}

// SDM 3A 4.10.1: when CR4.PCIDE may be set and cleared, and what MOV CR3 does with PCIDs.
static void test_pcid(void)
{
    machine_set_up(true);
    run_at(0, 0x4000, KSTACK);
    u64 cr3 = cpu->cr3 & ~0xfffull, cr4 = cpu->cr4;
    check_eq("CPUID offers PCID", cpu->id.f1_ecx >> 17 & 1, 1);
    cpu->cr3 = cr3 | 5;
    check_eq("PCIDE with a PCID in CR3: #GP", run_guest(x86_helper_write_cr, 4, cr4 | CR4_PCIDE, 0), 2);
    run_at(0, 0x4000, KSTACK);
    cpu->cr3 = cr3;
    check_eq("PCIDE", run_guest(x86_helper_write_cr, 4, cr4 | CR4_PCIDE, 0), 0);
    check_eq("PCIDE is set", cpu->cr4 & CR4_PCIDE, CR4_PCIDE);
    __builtin_memset(&tlb, 0, sizeof tlb);
    (void)run_guest(x86_helper_write_cr3, 0, cr3 | 7, 0);
    check_eq("CR3 with a PCID", cpu->cr3, cr3 | 7);
    check_eq("switch 0 to 7, forgetting", tlb.switched << 24 | tlb.from << 16 | tlb.to << 8 | tlb.kept, 1 << 24 | 7 << 8);
    (void)run_guest(x86_helper_write_cr3, 0, cr3 | BIT(63), 0);
    check_eq("bit 63 is not stored", cpu->cr3, cr3);
    check_eq("switch 7 to 0, keeping", tlb.from << 16 | tlb.to << 8 | tlb.kept, 7 << 16 | 1);
    check_eq("no flush beside", tlb.all + tlb.local, 0);
    (void)run_guest(x86_helper_write_cr, 4, cr4, 0);
    check_eq("PCIDE off flushes all", tlb.all, 1);
    check_eq("bit 63 without PCIDE: #GP", run_guest(x86_helper_write_cr3, 0, cr3 | BIT(63), 0), 2);
}

int main(void)
{
    cpu = aligned_alloc(4096, align_up(sizeof *cpu, 4096));
    cpu_clear();
    test_rights();
    test_entries();
    test_big();
    test_odd();
    test_long_mode();
    test_nesting();
    test_protected();
    test_real();
    test_syscall();
    test_pcid();
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
