// Where things of the vCPU are, GS-relative, and which host register holds which guest global. One table, used by everything in
// tcg/host/.
//
// x86 pinning for mmu=soft: RAX..RDI, RBP and R8-R11 in their namesakes, so that fixed-register instructions (shl cl, div, rep
// movs, cmpxchg) need no moves; guest RSP in R15; R12-R14 scratch; guest R12-R15 in the vCPU. Host RSP is the emulator's stack.
#pragma once

#include "tcg/host/asm.h"
#include "tcg/ir/ir.h"
#include "tcg/run/tcg.h"

#define ENV(field) ((s32)offsetof(struct vcpu, field))

static inline u8 host_of(u8 g)
{
    static const u8 map[16] = {H_RAX, H_RCX, H_RDX, H_RBX, H_R15, H_RBP, H_RSI, H_RDI,
                               H_R8, H_R9, H_R10, H_R11, H_NONE, H_NONE, H_NONE, H_NONE};
    return g < 16 ? map[g] : H_NONE;
}
static inline struct rm env_reg(u8 g) { return rm_gs(ENV(regs) + 8 * g); }
static inline s32 env_tlb(unsigned mmu, bool write) { return ENV(tlb) + (s32)((mmu * 2 + write) * sizeof(struct tlb_entry) * TLB_SIZE); }
static inline s32 env_jc(unsigned jc_class) { return ENV(jc) + (s32)(jc_class * sizeof(struct jump_cache)); }

enum { JC_SHIFT = 4, JC_HOST = 8 };     // jump cache: log2 of an entry's size, the host address within it
_Static_assert(sizeof(((struct jump_cache *)0)->at[0]) == 1 << JC_SHIFT && offsetof(struct jump_cache, at[0].host) == JC_HOST, "jump cache");
_Static_assert(JC_BITS + JC_SHIFT <= 31, "the index is computed in 32 bits");
_Static_assert(sizeof(struct tlb_entry) == 16, "the lookup scales by 16");
_Static_assert(PAGE_SHIFT - 4 == 8, "rorx by 8 brings the page number to the entry's scale");
enum { TLB_HOST = 8 };
_Static_assert(offsetof(struct tlb_entry, host) == TLB_HOST, "tag, then host");
_Static_assert(offsetof(struct vcpu, cc) % 2 == 0 && sizeof(((struct vcpu *)0)->cc) == 2, "cc is stored as 16 bits");

// Flags between EFLAGS and vcpu.cc, by way of RAX; `keep` is a scratch register that carries RAX meanwhile. The flags stay as
// they are on saving.
void host_flags_save(struct as *as, u8 keep);
void host_flags_restore(struct as *as, u8 keep);
