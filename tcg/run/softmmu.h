// Guest memory as C code sees it: the slow half of the softmmu and its TLB. All on the vCPU's own core, BQL not held. A fault
// raises the guest's exception and does not return (vcpu_leave), so callers check first and commit after: probe, then change
// state.
#pragma once

#include "tcg/run/vcpu.h"

// Loads and stores of 1, 2, 4, 8 bytes at linear address a in mmu mode `mmu`; page crossing, MMIO and written code handled.
u64 mem_ld(struct vcpu *c, struct gva a, unsigned size, unsigned mmu);
void mem_st(struct vcpu *c, struct gva a, u64 val, unsigned size, unsigned mmu);
// Any length; all pages are checked before the first byte moves.
void mem_read(struct vcpu *c, struct gva a, void *buf, u64 len, unsigned mmu);
void mem_write(struct vcpu *c, struct gva a, const void *buf, u64 len, unsigned mmu);
// Raises the fault the access would; otherwise returns the host address of a if a..a+len-1 is plain RAM (or ROM for reads) in
// one page and, for writes, holds no translated code; NULL when only mem_ld/mem_st will do.
u8 *mem_probe(struct vcpu *c, struct gva a, u64 len, enum access acc, unsigned mmu);
// Instruction fetch of up to len bytes within one page; returns how many (0 only if raise is false and the page is not there).
unsigned mem_fetch(struct vcpu *c, struct gva a, void *buf, unsigned len, unsigned mmu, bool raise);
// Guest-physical address of the code byte at a (for TB keys); raises the fetch fault.
struct gpa mem_code_gpa(struct vcpu *c, struct gva a, unsigned mmu);
bool mem_code_find(struct vcpu *c, struct gva a, unsigned mmu, struct gpa *out);   // the same; false instead of the fault

void tlb_init(struct vcpu *c);                          // a vCPU that has not run yet: nothing is known
void tlb_flush(struct vcpu *c);                         // everything: all modes, code signatures, address spaces put aside
void tlb_flush_local(struct vcpu *c);                   // the same, but global translations stay
// The guest leaves address space `from` for `to` (numbers it gave them). What is known of `from` is put aside; of what was known of `to`
// the non-global part comes back (keep_to) or is forgotten.
void tlb_switch(struct vcpu *c, u32 from, u32 to, bool keep_to);
void tlb_forget(struct vcpu *c, u32 id);                // what was put aside for address space id
void tlb_forget_all(struct vcpu *c);
void tlb_flush_page(struct vcpu *c, struct gva a);      // invlpg
