// The byte encoder. One function, as_op, knows prefixes, REX, ModRM and SIB; everything else calls it.
#include "tcg/host/asm.h"

#include "kernel/base/log.h"

void as_u8(struct as *as, u8 b)
{
    if (as->p >= as->end) {
        as->full = true;
        return;
    }
    *as->p++ = b;
}

void as_imm(struct as *as, s64 v, unsigned bytes)
{
    if ((u64)(as->end - as->p) < sizeof v) {               // the last bytes of the room: one by one
        for (unsigned i = 0; i < bytes; i++) as_u8(as, (u8)((u64)v >> (8 * i)));
        return;
    }
    *(u64_any *)as->p = (u64)v;                            // what follows overwrites the rest
    as->p += bytes;
}
void as_u16(struct as *as, u16 v) { as_imm(as, v, 2); }
void as_u32(struct as *as, u32 v) { as_imm(as, (s32)v, 4); }
void as_u64(struct as *as, u64 v) { as_imm(as, (s64)v, 8); }

static u8 lo3(u8 r) { return r & 7; }
static bool is_ext(u8 r) { return r != H_NONE && r >= 8; }

// ModRM, SIB and displacement (SDM 2 tables 2-2, 2-3).
static void put_modrm(struct as *as, u8 reg, const struct rm *m)
{
    u8 r = (u8)(lo3(reg) << 3);
    if (!m->mem) {
        as_u8(as, 0xc0 | r | lo3(m->reg));
        return;
    }
    u8 index = m->index == H_NONE ? 4 : lo3(m->index);
    ASSERT(m->index != H_RSP, "RSP as index%s", "");
    if (m->base == H_NONE) {                    // [disp32 + index]: mod 00, SIB with base 101
        as_u8(as, r | 4);
        as_u8(as, (u8)(m->scale << 6 | index << 3 | 5));
        as_u32(as, (u32)m->disp);
        return;
    }
    u8 mod = m->disp == 0 && lo3(m->base) != 5 ? 0 : fits_s8(m->disp) ? 0x40 : 0x80;
    if (m->index != H_NONE || lo3(m->base) == 4) {
        as_u8(as, mod | r | 4);
        as_u8(as, (u8)(m->scale << 6 | index << 3 | lo3(m->base)));
    } else {
        as_u8(as, mod | r | lo3(m->base));
    }
    if (mod) as_imm(as, m->disp, mod == 0x40 ? 1 : 4);
}

static u8 rex_bits(u8 reg, const struct rm *m, bool w)
{
    u8 b = m->mem ? is_ext(m->base) : is_ext(m->reg);
    u8 x = m->mem && is_ext(m->index);
    return (u8)(w << 3 | is_ext(reg) << 2 | x << 1 | b);
}

void as_op(struct as *as, struct enc e, u8 reg, struct rm rm)
{
    as->insns++;
    if (e.lock) as_u8(as, 0xf0);
    if (rm.mem && rm.gs) as_u8(as, 0x65);
    if (e.pp) as_u8(as, e.pp);
    u8 rex = rex_bits(reg, &rm, e.w);
    bool need = rex || (e.byte_reg && reg >= 4) || (e.byte_rm && !rm.mem && rm.reg >= 4);
    ASSERT(!e.no_rex || !rex, "high byte with REX, opcode %#x", e.opcode);
    if (need && !e.no_rex) as_u8(as, 0x40 | rex);
    if (e.map) as_u8(as, 0x0f);
    if (e.map >= 2) as_u8(as, e.map == 2 ? 0x38 : 0x3a);
    as_u8(as, e.opcode);
    put_modrm(as, reg, &rm);
}

void as_vex(struct as *as, u8 pp, u8 map, u8 opcode, bool w, bool l, u8 reg, u8 v, struct rm rm)
{
    as->insns++;
    u8 ppbits = pp == 0x66 ? 1 : pp == 0xf3 ? 2 : pp == 0xf2 ? 3 : 0;
    u8 rex = rex_bits(reg, &rm, w);
    if (rm.mem && rm.gs) as_u8(as, 0x65);
    as_u8(as, 0xc4);
    as_u8(as, (u8)((~rex & 7) << 5 | map));
    as_u8(as, (u8)(w << 7 | (~v & 15) << 3 | l << 2 | ppbits));
    as_u8(as, opcode);
    put_modrm(as, reg, &rm);
}

void as_mov_rr(struct as *as, u8 d, u8 s)
{
    if (d != s) as_op(as, (struct enc){.opcode = 0x8b, .w = true}, d, rm_reg(s));
}
void as_mov_rr32(struct as *as, u8 d, u8 s) { as_op(as, (struct enc){.opcode = 0x8b}, d, rm_reg(s)); }

void as_mov_ri(struct as *as, u8 d, u64 imm)
{
    if (imm <= 0xffffffff) {
        as->insns++;
        if (d >= 8) as_u8(as, 0x41);
        as_u8(as, 0xb8 | lo3(d));
        as_u32(as, (u32)imm);
    } else if (fits_s32((s64)imm)) {
        as_op(as, (struct enc){.opcode = 0xc7, .w = true}, 0, rm_reg(d));
        as_u32(as, (u32)imm);
    } else {
        as->insns++;
        as_u8(as, 0x48 | (d >= 8));
        as_u8(as, 0xb8 | lo3(d));
        as_u64(as, imm);
    }
}

void as_load(struct as *as, u8 d, struct rm m) { as_op(as, (struct enc){.opcode = 0x8b, .w = true}, d, m); }
void as_store(struct as *as, struct rm m, u8 s) { as_op(as, (struct enc){.opcode = 0x89, .w = true}, s, m); }

void as_alu_rm(struct as *as, unsigned op, unsigned size, u8 d, struct rm m)
{
    as_op(as, (struct enc){.opcode = (u8)(op << 3 | 2 | (size > 1)), .w = size == 8, .pp = size == 2 ? 0x66 : 0, .byte_reg = size == 1,
                           .byte_rm = size == 1}, d, m);
}

void as_alu_mi(struct as *as, unsigned op, unsigned size, struct rm m, s32 imm)
{
    bool short_imm = size == 1 || fits_s8(imm);
    as_op(as, (struct enc){.opcode = size == 1 ? 0x80 : short_imm ? 0x83 : 0x81, .w = size == 8, .pp = size == 2 ? 0x66 : 0, .byte_rm = size == 1},
          (u8)op, m);
    as_imm(as, imm, short_imm ? 1 : size == 2 ? 2 : 4);
}

void as_lea(struct as *as, unsigned size, u8 d, struct rm m)
{
    as_op(as, (struct enc){.opcode = 0x8d, .w = size == 8, .pp = size == 2 ? 0x66 : 0}, d, m);
}

void as_rorx(struct as *as, u8 d, u8 s, u8 count)
{
    as_vex(as, 0xf2, 3, 0xf0, true, false, d, 0, rm_reg(s));
    as_u8(as, count);
}

void as_push(struct as *as, u8 r)
{
    as->insns++;
    if (r >= 8) as_u8(as, 0x41);
    as_u8(as, 0x50 | lo3(r));
}

void as_pop(struct as *as, u8 r)
{
    as->insns++;
    if (r >= 8) as_u8(as, 0x41);
    as_u8(as, 0x58 | lo3(r));
}

void as_call_rm(struct as *as, struct rm m) { as_op(as, (struct enc){.opcode = 0xff}, 2, m); }

void as_patch(u8 *rel32, const u8 *dest)
{
    s64 d = dest - (rel32 + 4);
    ASSERT(fits_s32(d), "jump of %lld bytes", (long long)d);
    __atomic_store_n((s32 *)(void *)rel32, (s32)d, __ATOMIC_RELAXED);
}

static u8 *put_rel(struct as *as, const u8 *dest)
{
    u8 *at = as->p;
    as->insns++;
    as_u32(as, 0);
    if (dest && !as->full) as_patch(at, dest);
    return at;
}

u8 *as_jmp(struct as *as, const u8 *dest)
{
    as_u8(as, 0xe9);
    return put_rel(as, dest);
}

u8 *as_jcc(struct as *as, unsigned cc, const u8 *dest)
{
    as_u8(as, 0x0f);
    as_u8(as, (u8)(0x80 | cc));
    return put_rel(as, dest);
}

u8 *as_call(struct as *as, const u8 *dest)
{
    as_u8(as, 0xe8);
    return put_rel(as, dest);
}
