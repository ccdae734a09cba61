// The x86 front end's driver: guest bytes -> decoded instructions -> IR of one block.
//
// A block starts at c->pc and ends at an unconditional transfer of control, after an instruction that may change what translation depends
// on (LEAVE class), when it is full, or at the end of its guest page. A conditional jump leaves by a side exit and the block goes on behind
// it (superblock), a few times: the straight path is the likely one, and it keeps its registers and flags.
//
// Pages. A block covers one guest page, so that written code is found by page and a block never runs on from a page that was remapped. The
// only exception is an instruction that itself crosses into the next page: it is a block of its own, and covers both.
//
// Faults at fetch are the guest's only for the block's first instruction: a later one may never be reached, so the block ends before it.
// The same holds for nothing else: an invalid opcode further down becomes code that raises #UD when it is reached.
//
// Not checked: segment limits and the access rights of segments on data accesses and on EIP (SDM 3A 5.3, 5.5). Flat segments need no such
// check, real mode never leaves 64 KiB except by 32-bit addresses ("unreal" code wants that to work); the helpers check where they load
// descriptors.
#include "tcg/guest/x86/xlate.h"

#include "kernel/base/bits.h"
#include "tcg/guest/x86/feature.h"
#include "tcg/guest/x86/helpers.h"
#include "tcg/run/softmmu.h"

enum { MAX_INSN = 15, OPS_PER_INSN = 64 };

static void block_init(struct vcpu *c, struct ir_block *b, struct xlate *x)
{
    u64 cs_base;
    u32 mode;
    c->ops->tb_mode(c, &cs_base, &mode);
    b->n = b->n_insns = b->len = 0;
    b->pc = c->pc;
    b->cs_base = cs_base;
    b->mode = mode;
    b->mmu = c->ops->mmu_mode(c, mode);
    b->page[0] = b->page[1] = ~0ull;
    *x = (struct xlate){.c = c, .b = b, .mode = mode, .mmu = b->mmu, .pc = c->pc};
    x->bits = mode & TBM_CODE64 ? 64 : mode & TBM_CODE32 ? 32 : 16;
    x->stack = mode & TBM_CODE64 ? 8 : mode & TBM_STACK32 ? 4 : 2;
    x->cpl = mode & TBM_CPL;
    x->iopl = (mode & TBM_IOPL) / (TBM_IOPL & -TBM_IOPL);
}

// Linear address of the code at pc. Outside 64-bit mode it wraps at 4 GiB (SDM 3A 3.3).
static struct gva code_address(const struct xlate *x, u64 pc)
{
    return gva(x->bits == 64 ? pc : (u32)(x->b->cs_base + pc));
}

// Fetches and decodes the instruction at x->pc. False: the block ends before it. What cannot be decoded covers all bytes that were looked
// at.
static bool next_insn(struct xlate *x, struct x86_insn *i, enum decode_result *res)
{
    struct ir_block *b = x->b;
    bool first = b->n_insns == 0;
    u8 buf[MAX_INSN + 1];
    struct gva at = code_address(x, x->pc);
    unsigned room = (unsigned)min_u64(MAX_INSN, PAGE_SIZE - (at.v & ~PAGE_MASK));
    if (first) b->page[0] = mem_code_gpa(x->c, at, x->mmu).v >> PAGE_SHIFT;
    unsigned n = mem_fetch(x->c, at, buf, room, x->mmu, first);
    if (n == 0) return false;
    *res = x86_decode(buf, n, x->bits, i);
    if (*res != DECODE_OK) i->len = (u8)n;
    if (*res == DECODE_PARTIAL && n == MAX_INSN) *res = DECODE_TOO_LONG;
    if (*res != DECODE_PARTIAL) return true;
    if (!first) return false;
    struct gva second = code_address(x, x->pc + n);
    unsigned m = mem_fetch(x->c, second, buf + n, MAX_INSN - n, x->mmu, true);
    b->page[1] = mem_code_gpa(x->c, second, x->mmu).v >> PAGE_SHIFT;
    *res = x86_decode(buf, n + m, x->bits, i);
    if (*res != DECODE_OK) i->len = (u8)(n + m);
    if (*res == DECODE_PARTIAL) *res = DECODE_TOO_LONG;
    return true;
}

// What happens around the instruction in modes that translate one instruction at a time, or look before each.
static void prologue(struct xlate *x)
{
    if (x->mode & TBM_TF) xlate_helper(x, x86_helper_step_begin, IR_NONE, IR_IMM, 0, IR_IMM, 0, 0);
    if (x->mode & TBM_HWBP) xlate_helper(x, x86_helper_bp_check, IR_NONE, IR_IMM, (s64)x->pc, IR_IMM, 0, 0);
    if (x->mode & TBM_INHIBIT) xlate_helper(x, x86_helper_inhibit_done, IR_NONE, IR_IMM, 0, IR_IMM, 0, 0);
}

static void todo(const struct xlate *x, const struct x86_insn *i)
{
    log_once(LOG_WARN, "the guest uses %s (at %#llx), which is not translated yet: it gets #UD (more: -d unimp)", i->desc->name,
             (unsigned long long)x->pc);
    if (trace_mask() & TRACE_UNIMP) trace_write("%#llx: %s is not translated yet\n", (unsigned long long)x->pc, i->desc->name);
}

// CR0.EM, CR0.TS, CR4.OSFXSR and the like, as the mode word has them (SDM 3A Tables 2-2 and 2-3, SDM 1 13.5.1 for AVX).
int xlate_feature_fault(struct xlate *x, const struct x86_insn *i)
{
    u32 attr = i->desc->attr;
    bool ts = x->mode & TBM_TS;
    if ((attr & IA_X87) && (x->mode & TBM_FPU_NM)) return EXC_NM;
    if ((attr & IA_MMX) && (x->mode & TBM_FPU_NM)) return ts ? EXC_NM : EXC_UD;
    if ((attr & IA_SSE) && (x->mode & TBM_SSE_OFF)) return EXC_UD;
    if ((attr & IA_AVX) && (x->mode & TBM_AVX_OFF)) return EXC_UD;
    return (attr & (IA_SSE | IA_AVX)) && ts ? EXC_NM : -1;
}

// FWAIT looks at CR0.MP and CR0.TS only, not at EM (SDM 3A 2.5).
static bool is_fwait(const struct x86_insn *i) { return i->map == 0 && i->opcode == 0x9b && !i->vex; }

static bool offered(const struct x86_cpuid *q, enum x86_feature f) { X86_FEATURE_OFFERED_BODY(q, f) }

// Exceptions that are known before any operand is looked at. Order: #UD, #NM, #GP (SDM 3A 6.9, Table 6-2: decoding faults first).
static bool refused(struct xlate *x, const struct x86_insn *i)
{
    const struct insn_desc *d = i->desc;
    int exc = -1;
    if (d->attr & IA_TODO) {
        todo(x, i);
        exc = EXC_UD;
    } else if (!offered(&x86(x->c)->id, d->feature)) {
        exc = EXC_UD;
    } else if ((d->attr & IA_PE) && (!(x->mode & TBM_PE) || (x->mode & TBM_VM86))) {
        exc = EXC_UD;
    } else if (!is_fwait(i)) {
        exc = xlate_feature_fault(x, i);
    } else if (x->mode & TBM_FPU_NM) {
        xlate_helper(x, x86_helper_fwait, IR_NONE, IR_IMM, 0, IR_IMM, 0, 0);
    }
    if (exc < 0 && (d->attr & IA_PRIV) && x->cpl != 0) exc = EXC_GP;
    if (exc < 0) return false;
    xlate_raise(x, (unsigned)exc, exc == EXC_GP ? 0 : -1);
    return true;
}

static void translate_insn(struct xlate *x, const struct x86_insn *i, enum decode_result res)
{
    x->n_temps = 0;
    x->next_pc = xlate_wrap(x->pc + i->len, x->bits / 8);
    ir_new(x->b, IR_INSN, 0)->imm = (s64)x->pc;
    prologue(x);
    if (res == DECODE_TOO_LONG) {
        xlate_raise(x, EXC_GP, 0);
    } else if (res == DECODE_UD) {
        xlate_raise(x, EXC_UD, -1);
    } else if (!refused(x, i)) {
        unsigned n = x->b->n;
        if (!i->desc->xlate(x, i)) {
            ASSERT(x->b->n == n && !x->ended, "%s appended ops and then refused", i->desc->name);
            xlate_raise(x, EXC_UD, -1);
        }
    }
}

void x86_translate(struct vcpu *c, struct ir_block *b, unsigned max_insns)
{
    struct xlate x;
    block_init(c, b, &x);
    if (max_insns == 0 || (x.mode & (TBM_TF | TBM_INHIBIT))) max_insns = 1;
    x.max_insns = max_insns;
    while (!x.ended && (b->n_insns < max_insns || (x.sti_call && max_insns > 1 && !c->few_insns)) && b->n < IR_MAX_OPS - OPS_PER_INSN) {
        struct x86_insn i = {0};
        enum decode_result res;
        u64 page = code_address(&x, x.pc).v & PAGE_MASK;
        struct ir_op *sti = x.sti_call;
        if (!next_insn(&x, &i, &res)) break;
        x.sti_call = NULL;
        translate_insn(&x, &i, res);
        if (sti && x.sti_call) x.sti_call = NULL;          // STI; STI: the second finds IF set
        b->n_insns++;
        if (!x.loop_copies || x.loop_body == b->n_insns) b->len += i.len;
        x.pc = x.next_pc;
        if ((code_address(&x, x.pc).v & PAGE_MASK) != page) break;
    }
    if (x.sti_call) x.sti_call->imm_b = 1;                 // the block ends here: the shadow needs the mode word
    if (!x.ended) xlate_end_goto(&x, x.pc);
}
