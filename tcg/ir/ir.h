// The intermediate representation of one translation block: a flat array of ops in program order. Host-neutral in meaning, shaped
// for an x86-like host: two-operand forms, one memory operand per op with a full addressing mode, flags as one value. See ops.def
// for the meaning of each.
//
// Precise exceptions are a rule on the producer: within one guest instruction no global and no flag is changed before the last op
// that can fault (memory access, CALL, HOST that can fault), except by that op itself. Temporaries live within one guest
// instruction only.
//
// There are no branches inside a block but BR/BRCXZ side exits. A block may go on after a side exit (superblock).
#pragma once

#include "kernel/base/types.h"

struct vcpu;

enum ir_opc {
#define IR_OP(name, props, meaning) IR_##name,
#include "tcg/ir/ops.def"
#undef IR_OP
    IR_OPC_COUNT
};

// Operand: a register number or one of the special values.
enum {
    IR_G0 = 0,            // globals 0..31: vcpu.regs[]; x86: RAX RCX RDX RBX RSP RBP RSI RDI R8..R15
    IR_T0 = 32,           // temporaries 32..47
    IR_NTEMPS = 16,
    IR_MEM = 0xfd,        // the op's memory operand
    IR_IMM = 0xfe,        // the op's immediate
    IR_NONE = 0xff,
};

// Arithmetic flags, one bit each (any order of our own).
enum { FL_C = 1, FL_P = 2, FL_A = 4, FL_Z = 8, FL_S = 16, FL_O = 32, FL_ALL = 63 };

// Condition codes in x86's numbering (SDM 2 Appendix B.1.4.7): O NO B AE E NE BE A S NS P NP L GE LE G.
enum ir_cc { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A, CC_S, CC_NS, CC_P, CC_NP, CC_L, CC_GE, CC_LE, CC_G };
u8 ir_cc_flags(enum ir_cc cc);   // FL_* that the condition reads

// Effective address: [seg_slot] + base + (index << scale) + disp, wrapped to addr_size before the segment base is added.
struct ir_mem {
    u8 base, index;       // IR_NONE or a register (global or temporary)
    u8 scale;             // 0..3
    u8 addr_size;         // 8, 4 or 2 bytes
    s32 disp;             // sign-extended. A disp of 64 bits goes through a temporary
    // byte offset in the vCPU of the segment base to add (u64), 0: none. In 32-bit modes the sum wraps to 32 bits (seg_wrap)
    u32 seg_slot;
    u8 seg_wrap;          // 1: linear address truncated to 32 bits
    u8 mmu;               // mmu mode of the access
};

// A host instruction passed through. Register fields hold guest numbers; the emitter replaces general registers and the memory
// operand.
enum { HOST_LEGACY, HOST_VEX };
enum host_opnd { HO_NONE, HO_GPR, HO_VEC /* xmm/ymm/mm/st/k: same number on the host */, HO_MEM, HO_EXT /* reg field is an opcode extension */ };
struct ir_host {
    u8 enc;               // HOST_*
    u8 map;               // 0 one-byte, 1 0F, 2 0F38, 3 0F3A
    u8 opcode;
    u8 pp;                // 0, 0x66, 0xf3, 0xf2: mandatory prefix or, for general-register ops, operand-size prefix
    u8 w, l;              // REX.W/VEX.W, VEX.L
    u8 has_modrm;
    u8 reg_kind, reg;     // ModRM.reg: HO_GPR, HO_VEC, HO_EXT
    u8 rm_kind, rm;       // ModRM.rm: HO_GPR, HO_VEC, HO_MEM, or HO_EXT: number kept as it is (x87 st(i) forms)
    u8 v_kind, v;         // VEX.vvvv
    u8 opc_reg;           // 1: no ModRM, the register `rm` is in the opcode's low three bits (BSWAP)
    u8 gpr_size;          // operand size of the general registers: 1, 2, 4, 8
    u8 reg_rw, rm_rw, v_rw;   // for HO_GPR: bit 0 read, bit 1 written
    u8 imm_len;           // bytes of op.imm appended: 0, 1, 2, 4
    u8 is4_imm;           // unused registers in imm stay as they are
    u8 may_fault;         // can raise without memory: #DE, #MF, #XM
};

struct ir_op {
    u8 opc;
    u8 size;              // operand size, bytes: 1, 2, 4, 8; HOST: of the memory access, up to 64 (0: see mem_size)
    u8 size2;             // MOVZX/MOVSX: source size
    u8 cc;
    u8 d, a, b;           // operands
    u8 hi;                // size 1: bit 0/1/2: d/a/b is the high byte (AH CH DH BH) of global 0..3
    u8 fdef, fuse;        // FL_* defined, read
    u8 lock : 1;          // atomic read-modify-write
    u8 mem_rw : 2;        // what m does: 1 read, 2 written, 3 both
    u8 has_mem : 1;
    u8 fast, fast_size;   // CALL: IR_FAST_*, bytes of an element
    u8 live;              // filled by liveness: FL_* live after this op
    struct ir_mem mem;
    s64 imm;              // immediate; target pc of BR/GOTO/LEAVE; pc of INSN; third argument of CALL
    s64 imm_a;            // CALL: value of a when a is IR_IMM (b too: imm_b)
    s64 imm_b;
    union {
        struct ir_host host;
        void *fn;         // CALL: u64 fn(struct vcpu *c, u64 a, u64 b, u64 imm)
    };
};

// What fn does in its common case, which the host may do without calling it: global 1 elements of .fast_size bytes are copied from
// [global 6] to [global 7] upwards, or (STOS) become global 0; in mmu mode .mem.mmu. Then global 1 is 0, and the addresses used are past
// their elements.
enum { IR_FAST_NONE, IR_FAST_MOVS, IR_FAST_STOS };

enum { IR_MAX_OPS = 1024 };

struct ir_block {
    struct ir_op ops[IR_MAX_OPS];
    unsigned n;
    u64 pc;               // guest pc of the first instruction
    u64 cs_base;
    u32 mode;             // TB mode flags
    u8 mmu;               // mmu mode of its accesses
    unsigned n_insns;
    unsigned len;         // bytes of guest code covered
    u64 page[2];          // guest-physical pages covered; page[1] = ~0 when one
};

typedef u64 (*ir_helper)(struct vcpu *c, u64 a, u64 b, u64 d);

// Building: appends an op with everything unset, for the caller to fill. The producer stops before IR_MAX_OPS - 64.
struct ir_op *ir_new(struct ir_block *b, enum ir_opc opc, unsigned size);
const char *ir_opc_name(enum ir_opc opc);
u32 ir_opc_props(enum ir_opc opc);
enum { IRP_D = 1, IRP_A = 2, IRP_B = 4, IRP_X = 8, IRP_S = 16, IRP_C = 32 };
// Registers read and written by an op: bit n for operand number n (globals 0..31, temporaries 32..47).
u64 ir_reads(const struct ir_op *o);
u64 ir_writes(const struct ir_op *o);
// Can this op raise a guest exception?
bool ir_may_fault(const struct ir_op *o);
// Checks the block against the rules above and ops.def; panics with the op (debug builds run it after each pass).
void ir_verify(const struct ir_block *b);
// Fills .live and removes flag definitions nobody can see; turns CMP/TEST with dead flags into nothing.
void ir_optimise(struct ir_block *b);
void ir_dump(const struct ir_block *b);   // to the trace, -d op
