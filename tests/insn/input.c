// Initial states: edge values where arithmetic breaks, pointers where memory accesses break, floating-point numbers of every class.
#include <stdlib.h>
#include <string.h>

#include "tests/insn/state.h"

const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};

u64 rng_next(struct rng *r)
{
    u64 z = (r->s += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static const u64 edges[] = {
    0, 1, 2, 3, 7, 8, 0xf, 0x10, 0x1f, 0x20, 0x3f, 0x40, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000,
    0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff,
    0xfffffffffffffffe, 0xffffffff80000000, 0xffffffff7fffffff, 0x5555555555555555, 0xaaaaaaaaaaaaaaaa, 0xffffffffffffff80, 0xffffffffffff8000,
};

static u64 value(struct rng *r)
{
    switch (rng_below(r, 4)) {
    case 0: return rng_next(r);
    case 1: return rng_next(r) >> rng_below(r, 64);
    default: return edges[rng_below(r, ARRAY_SIZE(edges))];
    }
}

enum { MARGIN = 0x800 };   // distance from the window's ends that displacements of tests may use

static u64 pointer_valid(struct rng *r)
{
    u64 page = DATA_BASE + PAGE_SIZE * (1 + rng_below(r, DATA_SIZE / PAGE_SIZE - 2));
    switch (rng_below(r, 4)) {
    case 0: return page + 64 * rng_below(r, 32);
    case 1: return page - rng_below(r, 64);
    case 2: return page + rng_below(r, PAGE_SIZE - MARGIN);
    default: return page + 16 * rng_below(r, 128);
    }
}

static u64 pointer_end(struct rng *r)
{
    return DATA_BASE + DATA_SIZE - 70 + rng_below(r, 80);
}

static u64 pointer(struct rng *r, unsigned bits, unsigned index)
{
    switch (index % 8) {
    case 4: return DATA_BASE + DATA_SIZE - 1 - rng_below(r, 16);
    case 5: return DATA_BASE + DATA_SIZE + rng_below(r, 512);
    case 6: return pointer_end(r);
    case 7:
        if (rng_below(r, 2)) return pointer_valid(r);
        return bits == 64 ? 0x8000000000000000ull | rng_next(r) >> 8 : 0x80000000 | rng_next(r) >> 34;
    default: return pointer_valid(r);
    }
}

static u64 by_spec(const char *s, size_t len, unsigned bits, unsigned index, struct rng *r)
{
    if (len == 2 && !memcmp(s, "pv", 2)) return pointer_valid(r);
    if (len == 2 && !memcmp(s, "pe", 2)) return pointer_end(r);
    if (len == 2 && !memcmp(s, "pa", 2)) return DATA_BASE + PAGE_SIZE + 64 * rng_below(r, 256);
    if (len == 1 && *s == 'p') return pointer(r, bits, index);
    if (len == 1 && *s == 'c') return rng_below(r, 41);
    if (len == 1 && *s == 's') return rng_below(r, 64) - 32;
    if (len == 1 && *s == 'e') return value(r);
    return strtoull(s, NULL, 0);
}

// ---- floating point ----
static u64 any_double(struct rng *r, bool sane)
{
    u64 sign = rng_next(r) & 1ull << 63, frac = rng_next(r) >> 12;
    if (sane || rng_below(r, 3) == 0) return sign | (1023 - 20 + rng_below(r, 50)) << 52 | (rng_below(r, 2) ? frac : frac & 0xffff000000000);
    switch (rng_below(r, 7)) {
    case 0: return sign;
    case 1: return sign | 0x7ffull << 52;
    case 2: return sign | 0x7ffull << 52 | frac | 1;
    case 3: return sign | frac;
    case 4: return sign | rng_below(r, 4) << 52 | frac;
    case 5: return sign | (2046 - rng_below(r, 4)) << 52 | frac;
    default: return rng_next(r);
    }
}

static u32 any_float(struct rng *r, bool sane)
{
    u32 sign = (u32)rng_next(r) & 1u << 31, frac = (u32)rng_next(r) >> 9;
    if (sane || rng_below(r, 3) == 0) return sign | (u32)(127 - 12 + rng_below(r, 40)) << 23 | frac;
    switch (rng_below(r, 7)) {
    case 0: return sign;
    case 1: return sign | 0xffu << 23;
    case 2: return sign | 0xffu << 23 | frac | 1;
    case 3: return sign | frac;
    case 4: return sign | (u32)rng_below(r, 4) << 23 | frac;
    case 5: return sign | (u32)(254 - rng_below(r, 4)) << 23 | frac;
    default: return (u32)rng_next(r);
    }
}

static void vector(u8 *p, struct rng *r, bool sane)
{
    u64 v[2];
    unsigned kind = (unsigned)rng_below(r, 4);
    for (int i = 0; i < 2; i++)
        v[i] = kind == 0 ? any_double(r, sane)
             : kind == 1 ? (u64)any_float(r, sane) << 32 | any_float(r, sane)
             : kind == 2 && !sane ? rng_next(r) : sane ? any_double(r, true) : value(r) ^ value(r) << 32;
    memcpy(p, v, 16);
}

static void st_reg(u8 *p, struct rng *r)
{
    u64 m = rng_next(r) | 1ull << 63;
    u16 se = (u16)((rng_next(r) & 0x8000) | (16383 - 20 + rng_below(r, 60)));
    switch (rng_below(r, 10)) {
    case 0: m = 0; se &= 0x8000; break;
    case 1: m = 1ull << 63; se |= 0x7fff; break;
    case 2: se |= 0x7fff; break;
    case 3: se &= 0x8000; m &= ~(1ull << 63); break;
    case 4: se = (u16)rng_next(r); break;
    case 5: m = rng_next(r); break;
    case 6: m = 1ull << 63; break;
    default: break;
    }
    memcpy(p, &m, 8);
    memcpy(p + 8, &se, 2);
}

static void make_fpu(u8 *x, bool fpx, bool fp0, bool sane, unsigned index, struct rng *r)
{
    memset(x, 0, XS_SIZE);
    bool unmask = fpx ? rng_below(r, 2) : index % 8 == 7;
    bool odd = index % 4 >= 2;
    u16 fcw = 0x37f, fsw = 0;
    u8 ftw = 0;
    u32 mxcsr = 0x1f80;
    if (!sane && odd) mxcsr |= (u32)rng_below(r, 4) << 13 | (rng_below(r, 4) == 0 ? 0x8000 : 0) | (rng_below(r, 4) == 0 ? 0x40 : 0);
    if (!sane && unmask) mxcsr &= ~(u32)(rng_next(r) & 0x1f80);
    if (!sane && !unmask) mxcsr |= (u32)rng_next(r) & 0x3f;
    if (!fp0) {
        if (odd) fcw = (u16)(0x7f | rng_below(r, 4) << 10 | (rng_below(r, 3) ? 3 : rng_below(r, 2) * 2) << 8);
        if (unmask) fcw &= (u16)~(rng_next(r) & 0x3f);
        fsw = (u16)(rng_next(r) & 0x7f00);
        if (rng_below(r, 4) == 0) fsw &= 0x4700;
        ftw = rng_below(r, 3) ? 0xff : (u8)rng_next(r);
    }
    memcpy(x, &fcw, 2);
    memcpy(x + 2, &fsw, 2);
    x[4] = ftw;
    memcpy(x + 24, &mxcsr, 4);
    u32 mask = 0xffff;
    memcpy(x + 28, &mask, 4);
    for (int i = 0; i < 8; i++) st_reg(x + 32 + 16 * i, r);
    for (int i = 0; i < 16; i++) {
        vector(x + 160 + 16 * i, r, sane);
        vector(x + XS_YMM + 16 * i, r, sane);
    }
    x[XS_LEGACY] = 7;   // XSTATE_BV
}

// ---- options ----
bool option_set(const char *opts, const char *name)
{
    size_t len = strlen(name);
    for (const char *p = opts; (p = strstr(p, name)); p += len)
        if ((p == opts || p[-1] == ' ') && (p[len] == 0 || p[len] == ' ')) return true;
    return false;
}

unsigned input_count(const char *opts, unsigned dflt)
{
    const char *p = strstr(opts, " n=");
    if (!strncmp(opts, "n=", 2)) p = opts - 1;
    return p ? (unsigned)atoi(p + 3) : dflt;
}

static bool names_gpr(const char *s, size_t len, unsigned bits, int i)
{
    const char *name = gpr_names[i];
    if (strlen(name) != len || memcmp(name + 1, s + 1, len - 1)) return false;
    return *s == *name || (bits == 32 && i < 8 && *s == 'e');
}

static void make_segments(struct insn_state *in, unsigned bits)
{
    static const u16 seg64[6] = {0, SEL_CODE64, SEL_DATA, 0, 0, 0}, seg32[6] = {SEL_DATA, SEL_CODE32, SEL_DATA, SEL_DATA, SEL_L_FS, SEL_L_GS};
    memcpy(in->seg, bits == 64 ? seg64 : seg32, sizeof in->seg);
    in->fs_base = FS_BASE;
    in->gs_base = GS_BASE;
}

void input_make(struct insn_state *in, const char *opts, unsigned bits, unsigned index, struct rng *r)
{
    memset(in, 0, sizeof *in);
    for (int i = 0; i < 16; i++) in->gpr[i] = value(r);
    in->gpr[4] = STACK_BASE + STACK_SIZE / 2 - 8 * rng_below(r, 32);
    in->rflags = 0x202 | (rng_next(r) & 0x8d5);
    if (option_set(opts, "df") && rng_below(r, 2)) in->rflags |= 0x400;
    make_segments(in, bits);
    make_fpu(in->xsave, option_set(opts, "fpx"), option_set(opts, "fp0"), option_set(opts, "sane"), index, r);
    for (const char *p = opts; *p; ) {
        size_t len = strcspn(p, " ");
        const char *eq = memchr(p, '=', len);
        for (int i = 0; eq && i < 16; i++)
            if (names_gpr(p, (size_t)(eq - p), bits, i)) in->gpr[i] = by_spec(eq + 1, len - (size_t)(eq + 1 - p), bits, index, r);
        p += len;
        p += strspn(p, " ");
    }
    for (int i = 0; i < 16 && bits == 32; i++) in->gpr[i] = i < 8 ? (u32)in->gpr[i] : 0;
}

void input_memory(struct insn_memory *m, struct rng *r)
{
    for (unsigned i = 0; i < DATA_SIZE; i += 16) {
        if (i / 16 % 4 == 3) st_reg(m->data + i, r);
        else vector(m->data + i, r, i / 512 % 2);
    }
    for (unsigned i = 0; i < STACK_SIZE; i += 8) {
        u64 v = value(r);
        memcpy(m->stack + i, &v, 8);
    }
}
