// What the C files of the x86 system semantics share among themselves: descriptors, the stack of a far transfer, linear addresses, copies.
// All on the vCPU's own core, BQL not held, outside interrupt context. Functions that touch guest memory may raise and then do not return.
#pragma once

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "tcg/guest/x86/cpu.h"
#include "tcg/guest/x86/helpers.h"
#include "tcg/run/softmmu.h"

// Descriptor bits, second dword (SDM 3A 3.4.5); struct segment.attr holds them in place.
enum { DESC_A = 1 << 8, DESC_W = 1 << 9, DESC_R = 1 << 9, DESC_C = 1 << 10, DESC_E = 1 << 10, DESC_CODE = 1 << 11, DESC_S = 1 << 12,
       DESC_P = 1 << 15, DESC_L = 1 << 21, DESC_B = 1 << 22, DESC_G = 1 << 23, DESC_ATTR = 0xf0ff00 };
enum { SYS_TSS16 = 1, SYS_LDT = 2, SYS_TSS16_BUSY = 3, SYS_CALL16 = 4, SYS_TASK_GATE = 5, SYS_INT16 = 6, SYS_TRAP16 = 7, SYS_TSS32 = 9,
       SYS_TSS32_BUSY = 11, SYS_CALL32 = 12, SYS_INT32 = 14, SYS_TRAP32 = 15 };
struct x86_desc { u32 lo, hi; u64 addr; };   // addr: linear address of the descriptor
static inline unsigned desc_dpl(const struct x86_desc *d) { return d->hi >> 13 & 3; }
static inline unsigned desc_type(const struct x86_desc *d) { return d->hi >> 8 & 15; }
static inline u32 desc_base(const struct x86_desc *d) { return d->lo >> 16 | (d->hi & 0xff) << 16 | (d->hi & 0xff000000); }
static inline u32 desc_limit(const struct x86_desc *d)
{
    u32 l = (d->lo & 0xffff) | (d->hi & 0xf0000);
    return d->hi & DESC_G ? l << 12 | 0xfff : l;
}

// Reads the descriptor `sel` names; false when its table ends before it. Does not check for null selectors.
bool x86_desc_read(struct x86_cpu *c, u16 sel, struct x86_desc *out) MUST_CHECK;
// Sets the descriptor's accessed bit in memory if it is clear (and in d).
void x86_desc_access(struct x86_cpu *c, struct x86_desc *d);
// Plain assignments to a segment register: raw, from a descriptor, and as real / VM86 mode do. The caller calls x86_update_mode at the end.
void x86_seg_set(struct x86_cpu *c, unsigned seg, u16 sel, u64 base, u32 limit, u32 attr);
void x86_seg_from_desc(struct x86_cpu *c, unsigned seg, u16 sel, const struct x86_desc *d);
void x86_seg_set_real(struct x86_cpu *c, unsigned seg, u16 sel);
void x86_seg_set_vm86(struct x86_cpu *c, unsigned seg, u16 sel);
// Loads ES, SS, DS, FS or GS with all of the checks of the current mode.
void x86_seg_load(struct x86_cpu *c, unsigned seg, u16 sel);
// Checks a descriptor for SS at privilege `cpl` and reads it: faults with `bad` (#TS or #GP) or #SS if not present.
void x86_ss_check(struct x86_cpu *c, u16 sel, unsigned cpl, unsigned bad, unsigned ext, struct x86_desc *out);
// The stack for privilege `cpl` from the TSS (SDM 3A 7.2.1): legacy: SS and ESP; long mode: RSP. #TS if the TSS is too short.
void x86_tss_stack(struct x86_cpu *c, unsigned cpl, unsigned ext, u16 *ss, u64 *sp);
// RSP slot `n` bytes into the 64-bit TSS.
u64 x86_tss64_read(struct x86_cpu *c, unsigned offset, unsigned ext);
// After a return to an outer level: data segments that the new CPL may not use become null.
void x86_seg_drop_inner(struct x86_cpu *c, unsigned cpl);
// SS of a 64-bit inner level: a null selector that carries the CPL.
void x86_ss_set_null(struct x86_cpu *c, unsigned cpl);
// Sets the CPL carried by SS's DPL.
static inline void x86_set_cpl(struct x86_cpu *c, unsigned cpl)
{
    c->seg[SEG_SS].attr = (c->seg[SEG_SS].attr & ~(3u << 13)) | cpl << 13;
}

static inline bool x86_protected(const struct x86_cpu *c) { return c->cr0 & CR0_PE; }
static inline bool x86_vm86(const struct x86_cpu *c) { return c->eflags & EF_VM; }
// Real-address or virtual-8086 mode: selectors are paragraph numbers.
static inline bool x86_paragraphs(const struct x86_cpu *c) { return !x86_protected(c) || x86_vm86(c); }
static inline unsigned x86_iopl(const struct x86_cpu *c) { return c->eflags >> 12 & 3; }
static inline bool x86_canonical(u64 a) { return (s64)(a << 16) >> 16 == (s64)a; }

// mmu mode of data accesses of the running code.
static inline unsigned x86_mmu(const struct x86_cpu *c) { return x86_cpl(c) == 3 ? 1 : c->mode_word & TBM_SMAP_AC ? 2 : 0; }
// Linear address of effective address `ea` under the info word d; x86_linear_at: of an offset in a segment.
static inline struct gva x86_linear_at(const struct x86_cpu *c, unsigned seg, u64 ea)
{
    if (x86_code64(c)) return gva(ea + (seg == SEG_FS || seg == SEG_GS ? c->seg_base[seg] : 0));
    return gva((u32)(c->seg_base[seg] + ea));
}
static inline struct gva x86_linear(const struct x86_cpu *c, u64 d, u64 ea)
{
    unsigned as = x86_info_addrsize(d);
    return x86_linear_at(c, x86_info_seg(d), as ? bits_zext(ea, as) : ea);
}
// Mask of the instruction pointer in the current code segment.
static inline u64 x86_pc_mask(const struct x86_cpu *c)
{
    return x86_code64(c) ? ~0ull : c->seg[SEG_CS].attr & DESC_B ? 0xffffffffu : 0xffffu;
}
// pc of the instruction after the one that called the helper, by the info word's length.
static inline u64 x86_next_pc(struct x86_cpu *c, u64 d)
{
    vcpu_sync(&c->v);
    return (c->v.pc + x86_info_len(d)) & x86_pc_mask(c);
}
static inline void x86_set_reg(struct x86_cpu *c, unsigned r, u64 val, unsigned size)
{
    u64 *g = &c->v.regs[r];
    *g = size == 8 ? val : size == 4 ? (u32)val : size == 2 ? (*g & ~0xffffull) | (u16)val : (*g & ~0xffull) | (u8)val;
}
static inline void x86_set_zf(struct x86_cpu *c, bool z) { c->v.cc = z ? c->v.cc | EF_ZF << 8 : c->v.cc & ~(EF_ZF << 8); }
// #GP(0) unless CPL 0.
static inline void x86_need_cpl0(struct x86_cpu *c)
{
    if (x86_cpl(c)) x86_raise(c, EXC_GP, 0);
}

// A stack in use by a far transfer: registers change only when the whole transfer is known to succeed.
struct xstack { struct x86_cpu *c; u64 base, sp, mask; u8 *host; u64 host_lo; const u8 *pops; u64 pops_end; unsigned mmu; bool code64; };
void xstack_current(struct xstack *s, struct x86_cpu *c);
// A new stack: base and width from an SS descriptor (NULL: 64-bit).
void xstack_new(struct xstack *s, struct x86_cpu *c, const struct x86_desc *ss, u64 sp, unsigned cpl);
// Checks that `bytes` can be pushed in elements of `size`; raises the fault of the first that cannot otherwise. Then pushes cannot fail.
void xstack_reserve(struct xstack *s, unsigned bytes, unsigned size);
void xstack_push(struct xstack *s, u64 val, unsigned size);
// The next `bytes` are about to be popped: where they are plain memory in one page they are found once. Raises what the first pop would.
void xstack_expect(struct xstack *s, unsigned bytes);
u64 xstack_pop(struct xstack *s, unsigned size);
// Moves the stack pointer without an access.
static inline void xstack_drop(struct xstack *s, u64 bytes) { s->sp = (s->sp + bytes) & s->mask; }
// Writes the stack pointer back to RSP with the stack's width.
void xstack_commit(struct xstack *s);

// Delivery of vector `vec` (exception.c). soft: by an INT instruction; ext: error codes get EXT; err < 0: none.
void x86_deliver(struct x86_cpu *c, unsigned vec, s64 err, bool soft, bool ext, u64 ret_pc, u64 frame_rf);
// Raises an exception that is a trap of an INT instruction at this instruction; next_pc goes into the frame. icebp: no DPL check.
NORETURN void x86_raise_soft(struct x86_cpu *c, unsigned vec, u64 next_pc, bool icebp);

// CPUID, MSRs and FPU pieces that cpu.c needs.
void x86_cpuid_init(struct x86_cpu *c);
void x86_msr_reset(struct x86_cpu *c, bool init);
void x86_fpu_save(struct vcpu *v);
void x86_fpu_load(struct vcpu *v);
void x86_fpu_reset(struct x86_cpu *c);
bool x86_tlb_fill(struct vcpu *v, struct gva a, enum access acc, unsigned mmu, bool raise, struct tlb_fill *out);
// The deliver_exception, take_interrupt and has_work of guest_ops, and the CPU reset (init: by INIT, keeps the FPU and most MSRs).
void x86_deliver_exception(struct vcpu *v);
bool x86_take_interrupt(struct vcpu *v);
bool x86_has_work(struct vcpu *v);
void x86_host_fault(struct vcpu *v, unsigned vector);
void x86_cpu_reset(struct x86_cpu *c, bool init);
// The near indirect branch at `from` went to pc: #GP at the branch if that is not canonical (faultinsn.c).
void x86_branched(struct vcpu *v, u64 from);
// The translation of a block (xlate.c).
void x86_translate(struct vcpu *v, struct ir_block *b, unsigned max_insns);

// Host instructions.
static inline u64 host_rdtsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (u64)hi << 32 | lo;
}
// What the guest's TSC counts, before its offset.
static inline u64 x86_tsc_base(const struct x86_cpu *c) { return c->virtual_ns ? c->virtual_ns() : host_rdtsc(); }
// Copies and clears that stay off the vector registers, whatever the compiler and the libc think of memcpy.
static inline void bytes_copy(void *d, const void *s, u64 n)
{
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
}
static inline void bytes_zero(void *d, u64 n)
{
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(0) : "memory");
}
// Where an instruction that changed pc and mode goes on: host code for IR_RESUME, or 0: by the loop, because something is due at this
// boundary or the way is not known.
u64 x86_resume(struct x86_cpu *c);
// Would an interrupt be taken now if IF allowed it, or is there mail that may bring one? Cheap enough for every STI and POPF.
bool x86_irq_waiting(struct x86_cpu *c);
