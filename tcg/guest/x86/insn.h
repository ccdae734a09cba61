// Decoded x86 instructions. Decoding is pure: bytes and mode in, struct out. The table behind it is insn.def: one line per
// encoding in the manual's operand letters and order (SDM 2 Appendix A), from which come decode arrays, flag liveness, CPUID mask
// and the list of what to test.
#pragma once

#include "kernel/base/types.h"
#include "tcg/guest/x86/feature.h"

enum decode_result { DECODE_OK, DECODE_UD, DECODE_PARTIAL /* bytes ran out */, DECODE_TOO_LONG /* over 15 bytes: #GP */ };

struct xlate;
struct x86_insn;

// Operand letters of SDM 2 Appendix A.2.1. Size letters (A.2.2) follow in the kind.
enum opnd_addr { OA_NONE, OA_E, OA_G, OA_M, OA_I, OA_J, OA_O, OA_X, OA_Y, OA_C, OA_D, OA_S, OA_A, OA_F,
                 OA_V, OA_W, OA_H, OA_U, OA_L, OA_P, OA_Q, OA_N, OA_B /* GPR by VEX.vvvv */, OA_R /* GPR by rm, register only */,
                 OA_REG /* fixed or opcode-coded general register; number in .reg, 0xff: opcode low bits */,
                 OA_SEGREG, OA_1, OA_CL, OA_DX, OA_ST, OA_STI };
enum opnd_size { OS_NONE, OS_b, OS_w, OS_d, OS_q, OS_v /* 2 4 8 by operand size */, OS_z /* 2 4 */, OS_y /* 4 8 */, OS_p, OS_s, OS_dq, OS_qq,
                 OS_x /* 16 or 32 by VEX.L */, OS_ss, OS_sd, OS_ps, OS_pd, OS_t /* 80 bits */, OS_a, OS_other,
                 // beyond the manual's letters:
                 OS_sb /* immediate byte, sign-extended */, OS_xh, OS_xq, OS_xe /* half, quarter, eighth of x */,
                 OS_dup /* MOVDDUP: 8 or 32 */, OS_db, OS_dw, OS_vw /* register of size d, d, v; memory b, w, w */,
                 OS_m /* 8 in 64-bit mode, else 4 */, OS_n /* address only, no access */,
                 OS_env, OS_sav, OS_fx /* FSTENV, FSAVE, FXSAVE areas */, OS_xs /* XSAVE area */, OS_cl /* cache line */ };
struct insn_opnd { u8 addr, size, reg, rw /* bit 0 read, bit 1 written */; };

enum insn_attr {
    IA_PRIV = 1,         // CPL 0 only: #GP
    IA_NO64 = 2,         // invalid in 64-bit mode
    IA_ONLY64 = 4,       // invalid outside it
    IA_LOCK = 8,         // LOCK allowed when the destination is memory
    IA_REP = 16,         // REP prefixes mean repetition
    IA_DEF64 = 32,       // 64-bit mode: operand size 64 by default, 32 not encodable (push, pop)
    IA_FORCE64 = 64,     // 64-bit mode: always 64 (near branches)
    IA_PE = 128,         // protected mode only, else #UD
    IA_TODO = 256,       // decoded, not translated yet: the guest gets #UD and the log says so once
    IA_FAULT = 512,      // can raise #DE, #MF or #XM besides what its memory access raises
    // State used, for the checks of CR0.EM/TS, CR4.OSFXSR, CR4.OSXSAVE and XCR0 (SDM 3A 2.5, 13.1; SDM 2 2.4). MMX and SSE
    // together occur
    IA_X87 = 1024, IA_MMX = 2048, IA_SSE = 4096, IA_AVX = 8192,
    IA_VSIB = 16384,     // index is a vector register
};

// A line of insn.def.
struct insn_desc {
    const char *name;             // manual's mnemonic, lower case
    struct insn_opnd opnd[4];
    u8 flags_read, flags_written; // FL_* (tcg/ir/ir.h); written includes "undefined" ones
    u16 attr;                     // IA_*
    u8 feature;                   // enum x86_feature: the CPUID bit that offers it
    bool (*xlate)(struct xlate *x, const struct x86_insn *i);   // translation; false: #UD
};

struct x86_insn {
    const struct insn_desc *desc;
    u8 len;                       // bytes
    u8 map;                       // 0 one-byte, 1 0F, 2 0F38, 3 0F3A
    u8 opcode;
    u8 vex;                       // 0 legacy, 1 VEX
    u8 vex_l, vex_v;              // VEX.L; vvvv (already inverted)
    u8 pp;                        // mandatory prefix: 0, 0x66, 0xf3, 0xf2 (last of F2/F3 wins over 66); 0 where the line says ANY or NF3
    u8 rep;                       // 0, 0xf2, 0xf3 as seen
    bool lock, opsize_pfx, addrsize_pfx;
    u8 seg;                       // SEG_* after override and defaults (BP/SP base: SS); 64-bit mode: only FS/GS overrides count
    bool seg_override;
    u8 bits;                      // code size: 64, 32, 16
    u8 rex;                       // 0 or 0x40..0x4f
    bool rex_w;                   // REX.W or VEX.W as encoded (VEX.W also outside 64-bit mode, where it does not widen general registers)
    u8 opsize;                    // effective operand size: 2, 4, 8 (64-bit defaults of push/pop/near branch applied)
    u8 addrsize;                  // 2, 4, 8
    bool has_modrm;
    u8 modrm, mod, reg, rm;       // reg, rm extended by REX/VEX bits where the register file has 16 (not Sreg, MMX, ST);
                                  // without ModRM, rm is the opcode's register
    bool is_mem;                  // ModRM names memory, or a moffs operand (O): then disp is the offset and base, index are none
    u8 base, index, scale;        // GPR numbers, 0xff none; scale 0..3
    bool rip_rel;                 // disp is relative to the next instruction
    s64 disp;
    s64 imm;                      // sign-extended as the manual says; far pointer: offset
    s64 imm2;                     // ENTER's level, far pointer's selector
    u8 imm_len;                   // bytes of imm in the code
};

// Bytes of ModRM or moffs memory that the instruction accesses, 0: none, or not known from the code (XSAVE). *rw (may be NULL):
// bit 0 read, bit 1 written.
unsigned x86_mem_size(const struct x86_insn *i, unsigned *rw);
// Bytes of one operand: of its memory form if `mem`, else of its register form. 0 as above.
unsigned x86_opnd_size(const struct x86_insn *i, const struct insn_opnd *o, bool mem);

// mode: 64, 32 or 16 (code segment size). bytes: at least `avail` readable. Interrupts on or off, any core.
enum decode_result x86_decode(const u8 *bytes, unsigned avail, unsigned mode, struct x86_insn *out) MUST_CHECK;
