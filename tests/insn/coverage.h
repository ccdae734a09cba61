// Which lines of insn.def the rows reach.
#pragma once

#include "kernel/base/types.h"
#include "tcg/guest/x86/insn.h"

// Decodes code one instruction after another and marks their lines.
void coverage_mark(const u8 *code, u64 len, unsigned bits);
// False if some instruction of the code is not among what the guest's CPUID offers: Cupel then gives #UD where the CPU may not.
bool coverage_offered(const u8 *code, u64 len, unsigned bits);
// Size of the code that follows i: a row changes it by direct far jumps.
unsigned coverage_bits_after(const struct x86_insn *i, unsigned bits);
// Lines that user mode can run and no row reached are failures; counts each line as one test.
void coverage_report(unsigned *passed, unsigned *failed);
