// Encoding of x86-64 host instructions, byte by byte. Pure: writes at as->p, never past as->end (then sets full; the caller
// flushes the code cache and tries again). Source: SDM 2, chapter 2.
#pragma once

#include "kernel/base/bits.h"
#include "kernel/base/types.h"

enum { H_RAX, H_RCX, H_RDX, H_RBX, H_RSP, H_RBP, H_RSI, H_RDI, H_R8, H_R9, H_R10, H_R11, H_R12, H_R13, H_R14, H_R15, H_NONE = 0xff };

struct as { u8 *p, *end; bool full; u32 insns; /* instructions so far */ };

// An r/m operand: a register, or memory base + index << scale + disp, optionally GS-relative (then base is H_NONE).
struct rm { bool mem, gs; u8 reg, base, index, scale; s32 disp; };
static inline struct rm rm_reg(u8 r) { return (struct rm){.reg = r, .base = H_NONE, .index = H_NONE}; }
static inline struct rm rm_mem(u8 base, u8 index, u8 scale, s32 disp)
{
    return (struct rm){.mem = true, .base = base, .index = index, .scale = scale, .disp = disp};
}
static inline struct rm rm_gs(s32 disp) { return (struct rm){.mem = true, .gs = true, .base = H_NONE, .index = H_NONE, .disp = disp}; }
static inline struct rm rm_gs_idx(u8 index, u8 scale, s32 disp)
{
    return (struct rm){.mem = true, .gs = true, .base = H_NONE, .index = index, .scale = scale, .disp = disp};
}

// One legacy-encoded instruction up to the end of its ModRM/SIB/disp; immediates follow by as_imm. pp: 0, 0x66, 0xf3, 0xf2.
struct enc {
    u8 pp, map, opcode;
    bool w, lock;
    bool byte_reg, byte_rm;     // ModRM.reg / rm is an 8-bit register: 4..7 then mean SPL..DIL and need REX
    bool no_rex;                // 4..7 mean AH..BH
};
void as_u8(struct as *as, u8 b);
void as_u16(struct as *as, u16 v);
void as_u32(struct as *as, u32 v);
void as_u64(struct as *as, u64 v);
void as_imm(struct as *as, s64 v, unsigned bytes);
void as_op(struct as *as, struct enc e, u8 reg, struct rm rm);
void as_vex(struct as *as, u8 pp, u8 map, u8 opcode, bool w, bool l, u8 reg, u8 v, struct rm rm);

// Common instructions. 64-bit unless the name says otherwise.
void as_mov_rr(struct as *as, u8 d, u8 s);
void as_mov_rr32(struct as *as, u8 d, u8 s);
void as_mov_ri(struct as *as, u8 d, u64 imm);                  // shortest form
void as_load(struct as *as, u8 d, struct rm m);                // mov d, m
void as_store(struct as *as, struct rm m, u8 s);
void as_alu_rm(struct as *as, unsigned op, unsigned size, u8 d, struct rm m);   // op d, m; op: 0 add .. 7 cmp
void as_alu_mi(struct as *as, unsigned op, unsigned size, struct rm m, s32 imm);
void as_lea(struct as *as, unsigned size, u8 d, struct rm m);
void as_rorx(struct as *as, u8 d, u8 s, u8 count);             // BMI2; leaves the flags
void as_push(struct as *as, u8 r);
void as_pop(struct as *as, u8 r);
void as_call_rm(struct as *as, struct rm m);
// Jumps with rel32; return the place of the rel32, to be patched by as_patch. dest may be NULL.
u8 *as_jmp(struct as *as, const u8 *dest);
u8 *as_jcc(struct as *as, unsigned cc, const u8 *dest);
u8 *as_call(struct as *as, const u8 *dest);
void as_patch(u8 *rel32, const u8 *dest);
