// What the instruction that faults says about the kind of its fault. Own core, on the way to raising a fault of a data access.
#pragma once

#include "tcg/guest/x86/cpu.h"

// True if an access to a linear address that is not canonical is a stack access: #SS(0) instead of #GP(0) (SDM 1 3.3.7.1).
bool x86_fault_is_stack(struct x86_cpu *c);
// #SS or #GP if an operand of the instruction reaches over the end of the lower half (64-bit code) or over 4 GiB of its segment, and the
// address that faulted, lin, is one of its bytes; -1 otherwise.
int x86_fault_over_end(struct x86_cpu *c, u64 lin);
// True if the instruction demands an alignment that its operand does not have: #GP(0), which goes before a page fault (SDM 3A table 6-2).
// `lin` is the address that faulted.
bool x86_fault_is_misaligned(struct x86_cpu *c, u64 lin);
// True if the instruction waits for x87 errors and one is pending: #MF, before its operand is looked at (SDM 1 8.7).
bool x86_fault_is_x87(struct x86_cpu *c);

// A near branch to pc faults itself (see xlate_branch.c).
static inline bool x86_bad_target(u64 pc, bool code64) { return code64 && (u64)((s64)(pc << 16) >> 16) != pc; }
