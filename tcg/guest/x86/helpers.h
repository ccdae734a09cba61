// Helpers: the instructions whose meaning is written in C. Translated code reaches them by IR_CALL, all with one signature:
//     u64 x86_helper_<name>(struct vcpu *c, u64 a, u64 b, u64 d)
//
// Rules of use, for the translator:
// - d is a constant. Most helpers want the info word there (X86_INFO below): what the encoding said, and the instruction's length, from
//   which the helper finds the next pc when it needs it. Arguments not named in a helper's line are ignored.
// - "ea" is an effective address: base + index + disp (RIP-relative: the sum), without segment. It need not be truncated: helpers wrap it
//   to the info word's address size and add the base of the info word's segment.
// - Registers and arithmetic flags are in the vCPU during a CALL; a helper may change both. Marks:
//     [fr]     reads arithmetic flags (fuse = FL_ALL)
//     [fw]     writes them (fdef = FL_ALL; if not all change, the helper reads the rest: fuse too)
//     [fetch]  ends the block: emit xlate_end_fetch (the page tables or the code may have changed)
//     [leave]  ends the block: emit LEAVE with the next pc (the mode word, the page tables or the chance of an interrupt changed)
//     [resume] ends the block: emit RESUME with the result; the helper has set c->pc, and x86_resume says where that is
//     [leaver] ends the block: emit LEAVER, the helper has set c->pc (or never returns)
// - Unmarked helpers change no mode. Any helper may raise (never returns then), and then has changed nothing but what the manual says.
// - IA_PRIV is the translator's to check (TBM_CPL); the helpers check again, so forgetting it is not a hole.
// - mmu mode, stack width, CPL, segment bases: taken from the vCPU, not from arguments.
#pragma once

#include "tcg/run/vcpu.h"

// The info word. seg: SEG_*. opsize, addrsize: 1 (opsize only), 2, 4, 8. rep: 0 none, 1 F3, 2 F2. len: instruction length. extra: see the
// helper.
#define X86_INFO(seg, opsize, addrsize, rep, len, extra) \
    ((u64)(seg) | (u64)(opsize) << 4 | (u64)(addrsize) << 8 | (u64)(rep) << 12 | (u64)(len) << 16 | (u64)(extra) << 24)
static inline unsigned x86_info_seg(u64 d) { return d & 15; }
static inline unsigned x86_info_opsize(u64 d) { return d >> 4 & 15; }
static inline unsigned x86_info_addrsize(u64 d) { return d >> 8 & 15; }
static inline unsigned x86_info_rep(u64 d) { return d >> 12 & 3; }
static inline unsigned x86_info_len(u64 d) { return d >> 16 & 0xff; }
static inline unsigned x86_info_extra(u64 d) { return d >> 24 & 0xffff; }

#define X86_HELPER(name) u64 x86_helper_##name(struct vcpu *c, u64 a, u64 b, u64 d)

// ---- exceptions and debug ----
X86_HELPER(raise);        // a vector, b error code or -1: fault at this instruction. [leaver]
X86_HELPER(ud);           // #UD. [leaver]
X86_HELPER(step_begin);   // TBM_TF: a one-instruction block starts with it (after INSN). Raises #DB for the instruction stepped before,
                          // or notes that this one is being stepped; the trap comes whichever way the block is left.
X86_HELPER(bp_check);     // TBM_HWBP: a = pc, before every instruction. #DB if an armed DR0..3 names it and RF is clear; clears RF
X86_HELPER(inhibit_done); // TBM_INHIBIT: the block holds one instruction and starts with it (after INSN): ends the shadow of STI / MOV SS
X86_HELPER(fwait);        // #NM if CR0.MP and CR0.TS; then emit the host's FWAIT

// ---- segments (seg.c) ----
X86_HELPER(load_seg);     // a selector, b SEG_* (not CS). POP seg: load the stack word to a temporary, call, then move RSP.
                          // [leave] unless 64-bit code and not SS
X86_HELPER(get_seg);      // b SEG_* -> selector (MOV from / PUSH of segment registers)
X86_HELPER(lseg);         // LDS LES LFS LGS LSS: a ea, b GPR number, info(seg, opsize, addrsize), extra = SEG_* to load. [leave]
X86_HELPER(lldt);         // a selector
X86_HELPER(ltr);          // a selector
X86_HELPER(sldt);         // -> selector (UMIP checked)
X86_HELPER(str);          // -> selector (UMIP checked)
X86_HELPER(verr);         // a selector; ZF. [fw]
X86_HELPER(verw);         // a selector; ZF. [fw]
X86_HELPER(lar);          // a selector, b GPR number (the helper writes it), info(opsize); ZF. [fw]
X86_HELPER(lsl);          // as lar. [fw]
// a ea (or GPR number if extra = 1), b source selector, info(seg, addrsize, extra); writes the destination, ZF. [fw]
X86_HELPER(arpl);
X86_HELPER(rdfsgsbase);   // a SEG_FS or SEG_GS, info(opsize) -> base. #UD without CR4.FSGSBASE
X86_HELPER(wrfsgsbase);   // a SEG_FS or SEG_GS, b value, info(opsize)
X86_HELPER(swapgs);       // #UD outside 64-bit mode is the translator's

// ---- far control flow (farjump.c) ----
X86_HELPER(jmpf);         // a selector, b offset, info(opsize, len). [resume]
X86_HELPER(jmpf_mem);     // a ea of the far pointer, info(seg, opsize, addrsize, len). [resume]
X86_HELPER(callf);        // as jmpf. [resume]
X86_HELPER(callf_mem);    // as jmpf_mem. [resume]
X86_HELPER(retf);         // a bytes to release (0 for CB), info(opsize). [resume]
X86_HELPER(iret);         // info(opsize). [fr] [fw] [resume]
X86_HELPER(int);          // a vector, b next pc: INT n. [fr] [resume]
X86_HELPER(int3);         // b next pc. [fr] [resume]
X86_HELPER(into);         // b next pc: traps if OF. [fr]
X86_HELPER(icebp);        // b next pc: INT1 (F1). [fr] [leaver]
X86_HELPER(syscall);      // a next pc. [fr] [resume]
X86_HELPER(sysret);       // info(opsize): 8 = REX.W. [fw] [resume]
X86_HELPER(sysenter);     // [resume]
X86_HELPER(sysexit);      // info(opsize). [resume]

// ---- flags and interrupts (sysinsn.c) ----
X86_HELPER(cli);
X86_HELPER(sti);          // [leave]
X86_HELPER(pushf);        // info(opsize): the whole instruction. [fr]
X86_HELPER(popf);         // info(opsize): the whole instruction. [fr] [fw] [leave]
X86_HELPER(cld);          // [leave]
X86_HELPER(std);          // [leave]
X86_HELPER(stac);         // [leave]
X86_HELPER(clac);         // [leave]
X86_HELPER(hlt);          // b next pc. [leaver]
X86_HELPER(mwait);        // b next pc: as HLT. [leaver]
X86_HELPER(monitor);      // checks only
X86_HELPER(pause);        // only where vCPUs share cores (vcpu.crowded): gives the core away now and then. [leave]

// ---- system registers (sysinsn.c, msr.c, cpuid.c) ----
X86_HELPER(cpuid);        // [fetch]: serialises
X86_HELPER(rdtsc);        // writes RAX, RDX
X86_HELPER(rdtscp);
X86_HELPER(random);       // [fw] the next number of the vCPU's seeded generator
X86_HELPER(rdpid);        // -> value
X86_HELPER(rdpmc);
X86_HELPER(rdmsr);
X86_HELPER(wrmsr);        // d next pc. [resume]
X86_HELPER(read_cr);      // a CR number -> value
X86_HELPER(write_cr);     // a CR number but 3, b value, d next pc. [resume] (CR8 too: it may open the way for an interrupt)
X86_HELPER(write_cr3);    // b value. [fetch]
X86_HELPER(read_dr);      // a DR number -> value
X86_HELPER(write_dr);     // a DR number, b value, d next pc. [resume]
X86_HELPER(smsw);         // -> CR0, all of it; the translator truncates (UMIP checked)
X86_HELPER(lmsw);         // a value. [leave]
X86_HELPER(clts);         // d next pc. [resume]
X86_HELPER(lgdt);         // a ea, info(seg, opsize, addrsize)
X86_HELPER(lidt);         // as lgdt
X86_HELPER(sgdt);         // as lgdt (UMIP checked)
X86_HELPER(sidt);         // as lgdt (UMIP checked)
X86_HELPER(invlpg);       // a ea, info(seg, addrsize). [fetch]
X86_HELPER(wbinvd);       // INVD too: checks CPL only
X86_HELPER(bound);        // a ea, b index value, info(seg, opsize, addrsize)
X86_HELPER(enter);        // a size, b level (any, 0 too), info(opsize)
X86_HELPER(pusha);        // info(opsize)
X86_HELPER(popa);         // info(opsize)
X86_HELPER(daa);          // BCD: RAX and flags. [fr] [fw]
X86_HELPER(das);
X86_HELPER(aaa);
X86_HELPER(aas);
X86_HELPER(aam);          // a immediate
X86_HELPER(aad);          // a immediate

// ---- strings and ports (rep.c). With rep = 0 one step. They update RSI, RDI, RCX (and RAX, flags) themselves ----
X86_HELPER(movs);         // info(seg of the source, opsize, addrsize, rep)
X86_HELPER(stos);         // info(opsize, addrsize, rep)
X86_HELPER(lods);         // info(seg, opsize, addrsize, rep)
X86_HELPER(scas);         // info(opsize, addrsize, rep). [fr] [fw]
X86_HELPER(cmps);         // info(seg, opsize, addrsize, rep). [fr] [fw]
X86_HELPER(ins);          // info(opsize, addrsize, rep)
X86_HELPER(outs);         // info(seg, opsize, addrsize, rep)
X86_HELPER(in);           // a port, info(opsize) -> value, zero-extended; a write to AL/AX/EAX is the translator's. [leave] is wise
X86_HELPER(out);          // a port, b value, info(opsize). [leave]

// ---- vector and x87 state (fpu.c). #NM / #UD by the mode word are the translator's, except CR4.OSXSAVE for XSAVE and XGETBV ----
X86_HELPER(fxsave);       // a ea, info(seg, opsize 8 = REX.W, addrsize)
X86_HELPER(fxrstor);
X86_HELPER(xsave);        // as fxsave; mask in EDX:EAX
X86_HELPER(xsaveopt);
X86_HELPER(xsavec);
X86_HELPER(xrstor);
X86_HELPER(xgetbv);       // writes RAX, RDX
X86_HELPER(xsetbv);       // [leave]
X86_HELPER(fldenv);       // a ea, info(seg, opsize 2 or 4 (8 counts as 4), addrsize)
X86_HELPER(fstenv);
X86_HELPER(fsave);        // FNSAVE: stores, then FNINIT
X86_HELPER(frstor);
// MASKMOVDQU / MASKMOVQ: a ea (rDI), b = source register | mask register << 8, info(seg, addrsize), extra = 8 (mm) or 16 (xmm)
X86_HELPER(maskmov);
// VMASKMOVPS/PD, VPMASKMOVD/Q: a ea, b = register loaded or stored | mask register << 8, info(seg, opsize = element 4 or 8, addrsize),
// extra = vector length 16 or 32
X86_HELPER(vmaskmov_load);
X86_HELPER(vmaskmov_store);
// VGATHER*/VPGATHER*: a = base + disp (0 base if none), b = destination | index register << 8 | mask register << 16,
// info(seg, opsize = element size 4 or 8, addrsize), extra = vector length 16/32 | scale (0..3) << 8 | index element size (4 or 8) << 12
X86_HELPER(gather);
