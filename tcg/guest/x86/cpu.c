// The x86 guest as the run-time sees it: flags, the TB mode word, reset, the register dump, and the table of operations.
//
// The mode word is asked for at every turn of the loop and changes rarely, so it is kept in mode_word and recomputed where its sources
// change.
#include "kernel/base/fmt.h"
#include "tcg/guest/x86/system.h"

u64 x86_get_eflags(const struct x86_cpu *c)
{
    return (c->eflags & ~(u64)EF_ARITH) | 2 | (c->v.cc >> 8 & EF_ARITH & 0xff) | (c->v.cc & 1 ? EF_OF : 0);
}

void x86_set_eflags(struct x86_cpu *c, u64 ef)
{
    x86_update_mode(c);
    x86_switch_eflags(c, ef);
}

void x86_switch_eflags(struct x86_cpu *c, u64 ef)
{
    c->eflags = (ef & 0x3f7fd5 & ~(u64)EF_ARITH) | 2;
    c->v.cc = (u16)(((ef & EF_ARITH & 0xff) | 2) << 8 | (ef >> 11 & 1));
    x86_switch_mode(c);
    // RF protects one instruction from execution breakpoints (bp_check clears it); without any armed it has nothing to do.
    if (!(c->mode_word & TBM_HWBP)) c->eflags &= ~(u64)EF_RF;
}

static bool seg_is_flat(const struct segment *s) { return s->base == 0 && s->limit == 0xffffffff; }

static u32 mode_segments(const struct x86_cpu *c)
{
    u32 m = 0;
    const struct segment *s = c->seg;
    if (s[SEG_CS].attr & DESC_B) m |= TBM_CODE32;
    if (s[SEG_SS].attr & DESC_B) m |= TBM_STACK32;
    if (seg_is_flat(&s[SEG_DS]) && seg_is_flat(&s[SEG_ES]) && seg_is_flat(&s[SEG_SS]) && seg_is_flat(&s[SEG_CS])) m |= TBM_FLATSEG;
    return m;
}

static u32 mode_fpu(const struct x86_cpu *c)
{
    u32 m = 0;
    if (c->cr0 & (CR0_TS | CR0_EM)) m |= TBM_FPU_NM;
    if (c->cr0 & CR0_TS) m |= TBM_TS;
    if (!(c->cr4 & CR4_OSFXSR) || (c->cr0 & CR0_EM)) m |= TBM_SSE_OFF;
    if (!(c->cr4 & CR4_OSXSAVE) || (c->xcr0 & 6) != 6) m |= TBM_AVX_OFF;
    return m;
}

static bool exec_breakpoint_armed(u64 dr7)
{
    for (unsigned i = 0; i < 4; i++)
        if ((dr7 >> (i * 2) & 3) && !(dr7 >> (16 + i * 4) & 3)) return true;
    return false;
}

// Bits of EFLAGS in their places in the mode word.
static u32 mode_flags(u32 ef)
{
    _Static_assert(EF_VM >> 11 == TBM_VM86 && EF_DF >> 2 == TBM_DF && EF_TF << 1 == TBM_TF && EF_IOPL << 2 == TBM_IOPL, "the shifts below");
    return (ef >> 11 & TBM_VM86) | (ef >> 2 & TBM_DF) | (ef << 1 & TBM_TF) | (ef << 2 & TBM_IOPL);
}

void x86_switch_mode(struct x86_cpu *c)
{
    unsigned cpl = x86_cpl(c);
    u32 m = c->mode_fixed | mode_flags((u32)c->eflags);
    if (cpl == 0) m &= ~(u32)TBM_TSD;
    if (cpl == 3) m &= ~(u32)TBM_SMAP;
    if ((m & TBM_SMAP) && (c->eflags & EF_AC)) m |= TBM_SMAP_AC;
    m |= cpl | (x86_code64(c) ? TBM_CODE64 | TBM_FLATSEG | TBM_STACK32 : mode_segments(c));
    if (c->inhibit_irq) m |= TBM_INHIBIT;
    c->mode_word = m;
    // The trap of a stepped instruction that cleared TF has no stepping block after it to be raised in: let the loop raise it.
    if (c->step_pending && !(m & TBM_TF)) __atomic_store_n(&c->v.exit_request, 1, __ATOMIC_RELAXED);
}

void x86_update_mode(struct x86_cpu *c)
{
    u32 m = mode_fpu(c);
    if (x86_protected(c)) m |= TBM_PE;
    if (x86_long_mode(c)) m |= TBM_LMA;
    if (c->cr4 & CR4_SMAP) m |= TBM_SMAP;
    if (c->cr4 & CR4_TSD) m |= TBM_TSD;
    if ((c->dr[7] & 0xff) && exec_breakpoint_armed(c->dr[7])) m |= TBM_HWBP;
    c->mode_fixed = m;
    x86_switch_mode(c);
}

static void x86_tb_mode(struct vcpu *v, u64 *cs_base, u32 *mode)
{
    struct x86_cpu *c = x86(v);
    *mode = c->mode_word;
    *cs_base = c->mode_word & TBM_CODE64 ? 0 : c->seg_base[SEG_CS];
}

static unsigned x86_code_bits(u32 tb_mode) { return tb_mode & TBM_CODE64 ? 64 : tb_mode & TBM_CODE32 ? 32 : 16; }

static unsigned x86_mmu_mode(struct vcpu *v, u32 tb_mode)
{
    return (tb_mode & TBM_CPL) == 3 ? 1 : tb_mode & TBM_SMAP_AC ? 2 : 0;
}

// ---- reset (SDM 3A table 9-1) ---------------------------------------------------------------------------------------------

void x86_cpu_reset(struct x86_cpu *c, bool init)
{
    if (!c->id.signature) x86_cpuid_init(c);
    for (unsigned i = 0; i < VCPU_NREGS; i++) c->v.regs[i] = 0;
    c->v.regs[G_RDX] = c->id.signature;
    for (unsigned i = 0; i < SEG_COUNT; i++) x86_seg_set(c, i, 0, 0, 0xffff, DESC_P | DESC_S | DESC_W | DESC_A);
    x86_seg_set(c, SEG_CS, 0xf000, 0xffff0000, 0xffff, DESC_P | DESC_S | DESC_CODE | DESC_R | DESC_A);
    x86_seg_set(c, SEG_LDTR, 0, 0, 0xffff, DESC_P | SYS_LDT << 8);
    x86_seg_set(c, SEG_TR, 0, 0, 0xffff, DESC_P | SYS_TSS32_BUSY << 8);
    c->gdtr.base = c->idtr.base = 0;
    c->gdtr.limit = c->idtr.limit = 0xffff;
    c->cr0 = init ? (c->cr0 & (CR0_CD | CR0_NW)) | CR0_ET : (u64)CR0_CD | CR0_NW | CR0_ET;
    c->cr2 = c->cr3 = c->cr4 = 0;
    for (unsigned i = 0; i < 8; i++) c->dr[i] = 0;
    c->dr[6] = 0xffff0ff0;
    c->dr[7] = 0x400;
    x86_msr_reset(c, init);
    c->v.pc = 0xfff0;
    c->a20_mask = 0xffffffff;
    c->inhibit_irq = c->nmi_blocked = c->step_pending = false;
    c->exc_soft = c->exc_trap = c->exc_has_error = false;
    c->exc_nest = -1;
    c->v.exc_pending = false;
    c->wait_sipi = c->v.halted = vcpu_index(&c->v) != 0;
    if (!init) {
        c->xcr0 = 1;
        x86_fpu_reset(c);
    }
    x86_set_eflags(c, 2);
    tlb_flush(&c->v);
}

static void x86_reset(struct vcpu *v) { x86_cpu_reset(x86(v), false); }

// ---- the register dump, in the layout of QEMU's "info registers" -----------------------------------------------------------

struct dump { void (*out)(void *o, const char *s); void *o; };

static void PRINTF(2, 3) dump_printf(const struct dump *d, const char *fmt, ...)
{
    char line[256];
    va_list ap;
    va_start(ap, fmt);
    fmt_vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    d->out(d->o, line);
}

static void dump_general(const struct dump *d, const struct x86_cpu *c)
{
    static const char names[16][4] = {"RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "RSP", "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14",
                                      "R15"};
    static const u8 order[16] = {G_RAX, G_RBX, G_RCX, G_RDX, G_RSI, G_RDI, G_RBP, G_RSP, 8, 9, 10, 11, 12, 13, 14, 15};
    for (unsigned i = 0; i < 16; i++)
        dump_printf(d, "%s=%016llx%s", names[i], (unsigned long long)c->v.regs[order[i]], i % 4 == 3 ? "\n" : " ");
    u64 ef = x86_get_eflags(c);
    dump_printf(d, "RIP=%016llx RFL=%08x [%c%c%c%c%c%c%c] CPL=%u II=%u HLT=%u\n", (unsigned long long)c->v.pc, (u32)ef,
                ef & EF_DF ? 'D' : '-', ef & EF_OF ? 'O' : '-', ef & EF_SF ? 'S' : '-', ef & EF_ZF ? 'Z' : '-', ef & EF_AF ? 'A' : '-',
                ef & EF_PF ? 'P' : '-', ef & EF_CF ? 'C' : '-', x86_cpl(c), c->inhibit_irq, c->v.halted);
}

static void x86_dump(struct vcpu *v, void (*out)(void *o, const char *s), void *o)
{
    static const char segs[8][4] = {"ES ", "CS ", "SS ", "DS ", "FS ", "GS ", "LDT", "TR "};
    const struct x86_cpu *c = x86(v);
    struct dump d = {out, o};
    dump_general(&d, c);
    for (unsigned i = 0; i < 8; i++)
        dump_printf(&d, "%s=%04x %016llx %08x %08x\n", segs[i], c->seg[i].sel, (unsigned long long)c->seg[i].base, c->seg[i].limit,
                    c->seg[i].attr);
    dump_printf(&d, "GDT=     %016llx %08x\nIDT=     %016llx %08x\n", (unsigned long long)c->gdtr.base, c->gdtr.limit,
                (unsigned long long)c->idtr.base, c->idtr.limit);
    dump_printf(&d, "CR0=%08x CR2=%016llx CR3=%016llx CR4=%08x\n", (u32)c->cr0, (unsigned long long)c->cr2, (unsigned long long)c->cr3,
                (u32)c->cr4);
    for (unsigned i = 0; i < 4; i++) dump_printf(&d, "DR%u=%016llx%s", i, (unsigned long long)c->dr[i], i == 3 ? "\n" : " ");
    dump_printf(&d, "DR6=%016llx DR7=%016llx\nEFER=%016llx\n", (unsigned long long)c->dr[6], (unsigned long long)c->dr[7],
                (unsigned long long)c->efer);
}

const struct guest_ops x86_guest_ops = {
    .tb_mode = x86_tb_mode,
    .mmu_mode = x86_mmu_mode, .code_bits = x86_code_bits,
    .translate = x86_translate,
    .branched = x86_branched,
    .tlb_fill = x86_tlb_fill,
    .deliver_exception = x86_deliver_exception,
    .take_interrupt = x86_take_interrupt,
    .has_work = x86_has_work,
    .host_fault = x86_host_fault,
    .dump = x86_dump,
    .fpu_save = x86_fpu_save,
    .fpu_load = x86_fpu_load,
    .reset = x86_reset,
};
