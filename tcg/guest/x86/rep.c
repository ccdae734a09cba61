// String instructions and port I/O.
//
// REP loops run in chunks. A chunk stays within one page on each side, so that one probe checks it all; if both sides are plain RAM the
// host's own string instruction moves it (element by element in its meaning, so overlap is exact). What is not plain RAM (MMIO, pages with
// translated code, elements across a page) goes one element at a time through mem_ld/mem_st.
// After every chunk the registers say how far it got, so a fault in the next one is precise, and exit_request is looked at: if set, the
// instruction is left with pc at itself, to be resumed after the interrupt (SDM 2, REP).
#include "tcg/guest/x86/system.h"

struct str {
    struct x86_cpu *c;
    unsigned size, asize, rep, seg, mmu;
    u64 mask;           // of addresses and of the count
    bool down;
    u64 count;          // elements to go
};

static void str_begin(struct str *s, struct x86_cpu *c, u64 d)
{
    s->c = c;
    s->size = x86_info_opsize(d);
    s->asize = x86_info_addrsize(d);
    s->rep = x86_info_rep(d);
    s->seg = x86_info_seg(d);
    s->mmu = x86_mmu(c);
    s->mask = bits_zext(~0ull, s->asize);
    s->down = c->eflags & EF_DF;
    s->count = s->rep ? c->v.regs[G_RCX] & s->mask : 1;
}

static struct gva str_src(const struct str *s) { return x86_linear_at(s->c, s->seg, s->c->v.regs[G_RSI] & s->mask); }
static struct gva str_dst(const struct str *s) { return x86_linear_at(s->c, SEG_ES, s->c->v.regs[G_RDI] & s->mask); }

// Elements from register r on that lie in one page of linear address a and do not wrap the address size. 0: the first one crosses.
static u64 str_room(const struct str *s, unsigned r, struct gva a)
{
    u64 off = s->c->v.regs[r] & s->mask, in_page = a.v & ~PAGE_MASK;
    if (in_page + s->size > PAGE_SIZE || (off + s->size - 1) > s->mask) return 0;
    if (s->down) return min_u64(in_page, off) / s->size + 1;
    u64 n = (PAGE_SIZE - in_page) / s->size;
    if (s->mask - off < PAGE_SIZE) n = min_u64(n, (s->mask - off + 1) / s->size);
    return n;
}

static void str_move_reg(const struct str *s, unsigned r, u64 n)
{
    u64 bytes = n * s->size, old = s->c->v.regs[r];
    x86_set_reg(s->c, r, s->down ? old - bytes : old + bytes, s->asize);
}

static void str_count(struct str *s, u64 n)
{
    s->count -= n;
    if (s->rep) x86_set_reg(s->c, G_RCX, s->count, s->asize);
}

// Lets an interrupt in between chunks; returns if there is none. Under icount no time passes within an instruction, so interrupts wait
// for its end, and only what ends the run or stops it does not.
static void str_pause(struct str *s)
{
    if (!s->count || !__atomic_load_n(&s->c->v.exit_request, __ATOMIC_RELAXED)) return;
    u32 ev = __atomic_load_n(&s->c->v.posted_events, __ATOMIC_RELAXED);
    if (s->c->virtual_ns && !(ev & (VCPU_EV_STOP | VCPU_EV_RESET | VCPU_EV_SHUTDOWN))) return;
    vcpu_sync(&s->c->v);
    vcpu_leave(&s->c->v);
}

// Downwards the first element of a run is its last in memory: it must be the one whose fault is seen.
static void probe_first(const struct str *s, struct gva a, enum access acc)
{
    if (s->down) (void)mem_probe(&s->c->v, a, s->size, acc, s->mmu);
}

// Start address of a run of n elements that begins at a and goes up or down.
static struct gva run_start(const struct str *s, struct gva a, u64 n) { return gva(s->down ? a.v - (n - 1) * s->size : a.v); }

// ---- MOVS, STOS, LODS ---------------------------------------------------------------------------------------------------

static void host_movs(u8 *d, const u8 *s, u64 n, unsigned size)
{
    switch (size) {
    case 1: __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); break;
    case 2: __asm__ volatile("rep movsw" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); break;
    case 4: __asm__ volatile("rep movsl" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); break;
    default: __asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); break;
    }
}

static void host_stos(u8 *d, u64 val, u64 n, unsigned size)
{
    switch (size) {
    case 1: __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(val) : "memory"); break;
    case 2: __asm__ volatile("rep stosw" : "+D"(d), "+c"(n) : "a"(val) : "memory"); break;
    case 4: __asm__ volatile("rep stosl" : "+D"(d), "+c"(n) : "a"(val) : "memory"); break;
    default: __asm__ volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(val) : "memory"); break;
    }
}

static u64 host_ld(const u8 *p, unsigned size)
{
    return size == 1 ? *p : size == 2 ? *(const u16_any *)p : size == 4 ? *(const u32_any *)p : *(const u64_any *)p;
}
// volatile: the compiler must not make a libc call of a loop over this.
static void host_st(u8 *p, u64 v, unsigned size)
{
    if (size == 1) *(volatile u8 *)p = v;
    else if (size == 2) *(volatile u16_any *)p = v;
    else if (size == 4) *(volatile u32_any *)p = v;
    else *(volatile u64_any *)p = v;
}

// n elements downwards from the last ones at d and s. A loop, not STD; REP MOVS: an interrupt handler must not find DF set.
static void host_movs_down(u8 *d, const u8 *s, u64 n, unsigned size)
{
    for (; n; n--, d -= size, s -= size) host_st(d, host_ld(s, size), size);
}

static u64 movs_chunk(struct str *s)
{
    struct gva src = str_src(s), dst = str_dst(s);
    u64 n = min_u64(s->count, min_u64(str_room(s, G_RSI, src), str_room(s, G_RDI, dst)));
    if (n) {
        probe_first(s, src, ACCESS_READ);
        probe_first(s, dst, ACCESS_WRITE);
        u8 *from = mem_probe(&s->c->v, run_start(s, src, n), n * s->size, ACCESS_READ, s->mmu);
        u8 *to = mem_probe(&s->c->v, run_start(s, dst, n), n * s->size, ACCESS_WRITE, s->mmu);
        if (from && to) {
            u64 last = (n - 1) * s->size;
            if (s->down) host_movs_down(to + last, from + last, n, s->size);
            else host_movs(to, from, n, s->size);
            return n;
        }
    }
    mem_st(&s->c->v, dst, mem_ld(&s->c->v, src, s->size, s->mmu), s->size, s->mmu);
    return 1;
}

X86_HELPER(movs)
{
    struct str s;
    str_begin(&s, x86(c), d);
    while (s.count) {
        u64 n = movs_chunk(&s);
        str_move_reg(&s, G_RSI, n);
        str_move_reg(&s, G_RDI, n);
        str_count(&s, n);
        str_pause(&s);
    }
    return 0;
}

static u64 stos_chunk(struct str *s)
{
    struct gva dst = str_dst(s);
    u64 n = min_u64(s->count, str_room(s, G_RDI, dst)), val = s->c->v.regs[G_RAX];
    if (n) {
        probe_first(s, dst, ACCESS_WRITE);
        u8 *to = mem_probe(&s->c->v, run_start(s, dst, n), n * s->size, ACCESS_WRITE, s->mmu);
        if (to) {
            host_stos(to, val, n, s->size);
            return n;
        }
    }
    mem_st(&s->c->v, dst, bits_zext(val, s->size), s->size, s->mmu);
    return 1;
}

X86_HELPER(stos)
{
    struct str s;
    str_begin(&s, x86(c), d);
    while (s.count) {
        u64 n = stos_chunk(&s);
        str_move_reg(&s, G_RDI, n);
        str_count(&s, n);
        str_pause(&s);
    }
    return 0;
}

X86_HELPER(lods)
{
    struct str s;
    str_begin(&s, x86(c), d);
    while (s.count) {
        x86_set_reg(s.c, G_RAX, mem_ld(c, str_src(&s), s.size, s.mmu), s.size);
        str_move_reg(&s, G_RSI, 1);
        str_count(&s, 1);
        str_pause(&s);
    }
    return 0;
}

// ---- SCAS, CMPS -----------------------------------------------------------------------------------------------------------
//
// Flags are set once at the end, from the last pair: a fault on the way leaves them as they were before the instruction, as the manual
// asks.

static u16 compare_flags(u64 a, u64 b, unsigned size)
{
    unsigned sh = 64 - size * 8;
    u16 cc;
    u8 of;
    // In the top bits C, Z, S and O come out right for any size; A and P belong to the low byte.
    __asm__("cmp %3, %2\n\tlahf\n\tseto %1" : "=&a"(cc), "=&q"(of) : "r"(a << sh), "r"(b << sh) : "cc");
    u8 ah = cc >> 8 & ~(EF_AF | EF_PF), diff = a - b;
    ah |= ((a ^ b ^ diff) & 0x10) | (__builtin_parity(diff) ? 0 : EF_PF);
    return ah << 8 | of;
}

// Does REPE/REPNE go on after comparing a with b?
static bool repeat_goes_on(const struct str *s, u64 a, u64 b) { return (s->rep == 1) == (a == b); }

// One run of elements; n of them may be compared. Returns how many were, and the last pair.
static u64 scan_run(const struct str *s, const u8 *p, const u8 *q, u64 fixed, u64 n, u64 *a, u64 *b)
{
    s64 step = s->down ? -(s64)s->size : (s64)s->size;
    u64 i = 0;
    while (i < n) {
        *a = q ? host_ld(q, s->size) : fixed;
        *b = host_ld(p, s->size);
        i++;
        p += step;
        if (q) q += step;
        if (s->rep && !repeat_goes_on(s, *a, *b)) break;
    }
    return i;
}

static u64 scas_chunk(struct str *s, u64 *a, u64 *b)
{
    struct gva dst = str_dst(s);
    u64 acc = bits_zext(s->c->v.regs[G_RAX], s->size);
    u64 n = min_u64(s->count, str_room(s, G_RDI, dst));
    // Only as far as needed may be touched: a probe of the whole run is right, since it lies in one page.
    u8 *p = n ? mem_probe(&s->c->v, dst, s->size, ACCESS_READ, s->mmu) : NULL;
    if (p) return scan_run(s, p, NULL, acc, n, a, b);
    *a = acc;
    *b = mem_ld(&s->c->v, dst, s->size, s->mmu);
    return 1;
}

static u64 cmps_chunk(struct str *s, u64 *a, u64 *b)
{
    struct gva src = str_src(s), dst = str_dst(s);
    u64 n = min_u64(s->count, min_u64(str_room(s, G_RSI, src), str_room(s, G_RDI, dst)));
    if (n) {
        // The destination first: with both pages absent, processors name it in CR2 (tests/insn).
        u8 *p = mem_probe(&s->c->v, dst, s->size, ACCESS_READ, s->mmu);
        u8 *q = mem_probe(&s->c->v, src, s->size, ACCESS_READ, s->mmu);
        if (p && q) return scan_run(s, p, q, 0, n, a, b);
    }
    *b = mem_ld(&s->c->v, dst, s->size, s->mmu);
    *a = mem_ld(&s->c->v, src, s->size, s->mmu);
    return 1;
}

static void compare_loop(struct str *s, bool cmps)
{
    u64 a = 0, b = 0;
    if (!s->count) return;
    for (;;) {
        u64 n = cmps ? cmps_chunk(s, &a, &b) : scas_chunk(s, &a, &b);
        if (cmps) str_move_reg(s, G_RSI, n);
        str_move_reg(s, G_RDI, n);
        str_count(s, n);
        if (!s->count || !repeat_goes_on(s, a, b)) break;
        str_pause(s);
    }
    s->c->v.cc = compare_flags(a, b, s->size);
}

X86_HELPER(scas)
{
    struct str s;
    str_begin(&s, x86(c), d);
    compare_loop(&s, false);
    return 0;
}

X86_HELPER(cmps)
{
    struct str s;
    str_begin(&s, x86(c), d);
    compare_loop(&s, true);
    return 0;
}

// ---- ports ------------------------------------------------------------------------------------------------------------------

// SDM 1 18.5: CPL <= IOPL, or the TSS's permission bits of all the ports are clear.
static void port_check(struct x86_cpu *c, u16 port, unsigned size)
{
    if (!x86_protected(c) || (!x86_vm86(c) && x86_cpl(c) <= x86_iopl(c))) return;
    const struct segment *tr = &c->seg[SEG_TR];
    if (!(tr->attr & DESC_P) || !(tr->attr & 0x800) || tr->limit < 103) x86_raise(c, EXC_GP, 0);
    u32 map = mem_ld(&c->v, gva(tr->base + 102), 2, 0) + port / 8;
    if (map + 1 > tr->limit) x86_raise(c, EXC_GP, 0);
    u32 bits = mem_ld(&c->v, gva(tr->base + map), 2, 0);
    if (bits >> (port & 7) & ((1u << size) - 1)) x86_raise(c, EXC_GP, 0);
}

X86_HELPER(in)
{
    unsigned size = x86_info_opsize(d);
    port_check(x86(c), a, size);
    return bits_zext(phys_port_read(c->phys, a, size), size);
}

X86_HELPER(out)
{
    unsigned size = x86_info_opsize(d);
    port_check(x86(c), a, size);
    phys_port_write(c->phys, a, bits_zext(b, size), size);
    return 0;
}

// The destination is probed before the port is read: reading a port cannot be taken back. A destination that is MMIO or holds code is
// stored to after the read; the probe has shown that the store cannot fault.
X86_HELPER(ins)
{
    struct str s;
    str_begin(&s, x86(c), d);
    u16 port = c->regs[G_RDX];
    if (s.count) port_check(s.c, port, s.size);
    while (s.count) {
        struct gva dst = str_dst(&s);
        for (unsigned i = 0; i < s.size; i += s.size - 1 ? s.size - 1 : 1) (void)mem_probe(c, gva(dst.v + i), 1, ACCESS_WRITE, s.mmu);
        u64 val = phys_port_read(c->phys, port, s.size);
        mem_st(c, dst, val, s.size, s.mmu);
        str_move_reg(&s, G_RDI, 1);
        str_count(&s, 1);
        str_pause(&s);
    }
    return 0;
}

X86_HELPER(outs)
{
    struct str s;
    str_begin(&s, x86(c), d);
    u16 port = c->regs[G_RDX];
    if (s.count) port_check(s.c, port, s.size);
    while (s.count) {
        u64 val = mem_ld(c, str_src(&s), s.size, s.mmu);
        phys_port_write(c->phys, port, val, s.size);
        str_move_reg(&s, G_RSI, 1);
        str_count(&s, 1);
        str_pause(&s);
    }
    return 0;
}
