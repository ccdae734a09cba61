// System instructions that are neither control flow nor segments: flags, control and debug registers, descriptor-table registers, HLT, and
// the odd ones of the 16- and 32-bit world (BOUND, ENTER, PUSHA, BCD). Sources: SDM 2, each instruction's page; SDM 3A 2.5, 4.1, 3B 17.2.
#include "tcg/guest/x86/system.h"
#include "tcg/run/tcg.h"

// ---- flags ---------------------------------------------------------------------------------------------------------

// CLI, STI, PUSHF and POPF are IOPL-sensitive: in VM86 mode always, else when CPL > IOPL (no VME, no PVI here).
static bool if_locked(const struct x86_cpu *c)
{
    if (!x86_protected(c)) return false;
    return x86_vm86(c) ? x86_iopl(c) < 3 : x86_cpl(c) > x86_iopl(c);
}

X86_HELPER(cli)
{
    if (if_locked(x86(c))) x86_raise(x86(c), EXC_GP, 0);
    x86(c)->eflags &= ~(u64)EF_IF;
    return 0;
}

// Goes to next_pc by way of the loop, which looks at interrupts and at the mode.
static NORETURN void leave_to(struct vcpu *c, u64 next_pc)
{
    vcpu_sync(c);
    c->pc = next_pc;
    c->irq_look = true;
    c->icount_left--;                        // the instruction is complete
    vcpu_leave(c);
}

// The shadow of STI costs nothing while no interrupt waits: one that comes later is delivered at the end of the block, which the translator
// makes hold the
// next instruction too.
X86_HELPER(sti)
{
    struct x86_cpu *x = x86(c);
    if (if_locked(x)) x86_raise(x, EXC_GP, 0);
    if (x->eflags & EF_IF) return 0;
    x->eflags |= EF_IF;
    if (!b && !x86_irq_waiting(x)) return 0;
    x->inhibit_irq = true;
    x86_update_mode(x);
    leave_to(c, a);
}

X86_HELPER(pushf)
{
    struct x86_cpu *x = x86(c);
    if (x86_vm86(x) && x86_iopl(x) < 3) x86_raise(x, EXC_GP, 0);
    unsigned size = x86_info_opsize(d);
    struct xstack s;
    xstack_current(&s, x);
    xstack_reserve(&s, size, size);
    xstack_push(&s, x86_get_eflags(x) & ~(u64)(EF_RF | EF_VM), size);
    xstack_commit(&s);
    return 0;
}

X86_HELPER(popf)
{
    struct x86_cpu *x = x86(c);
    if (x86_vm86(x) && x86_iopl(x) < 3) x86_raise(x, EXC_GP, 0);
    unsigned size = x86_info_opsize(d);
    struct xstack s;
    xstack_current(&s, x);
    u64 ef = xstack_pop(&s, size);
    u64 mask = EF_ARITH | EF_TF | EF_DF | EF_NT | EF_AC | EF_ID;
    if (!if_locked(x)) mask |= EF_IF;
    if (!x86_protected(x) || x86_cpl(x) == 0) mask |= EF_IOPL;
    if (size == 2) mask &= 0xffff;
    xstack_commit(&s);
    u32 mode = x->mode_word;
    x86_switch_eflags(x, (x86_get_eflags(x) & ~mask & ~(u64)EF_RF) | (ef & mask));
    if (x->mode_word == mode && !x->step_pending && !((x->eflags & EF_IF) && x86_irq_waiting(x))) return 0;
    u16 cc = c->cc;
    vcpu_sync(c);
    c->cc = cc;
    c->irq_look = true;
    c->pc += x86_info_len(d);
    c->icount_left--;                        // the instruction is complete
    vcpu_leave(c);
}

static void eflags_bit(struct x86_cpu *c, u64 bit, bool on)
{
    c->eflags = on ? c->eflags | bit : c->eflags & ~bit;
    x86_switch_mode(c);
}

X86_HELPER(cld)
{
    eflags_bit(x86(c), EF_DF, false);
    return 0;
}
X86_HELPER(std)
{
    eflags_bit(x86(c), EF_DF, true);
    return 0;
}
static void smap_ac(struct x86_cpu *c, bool on)
{
    if (x86_cpl(c)) x86_raise(c, EXC_UD, -1);
    eflags_bit(c, EF_AC, on);
}
X86_HELPER(stac)
{
    smap_ac(x86(c), true);
    return 0;
}
X86_HELPER(clac)
{
    smap_ac(x86(c), false);
    return 0;
}

// ---- waiting ---------------------------------------------------------------------------------------------------------

X86_HELPER(hlt)
{
    x86_need_cpl0(x86(c));
    c->pc = b;
    c->halted = true;
    return 0;
}
X86_HELPER(mwait)   // not offered by CPUID; some kernels use it regardless: waiting for any interrupt is within its rights
{
    if (x86_cpl(x86(c))) x86_raise(x86(c), EXC_UD, -1);
    if (c->regs[G_RCX]) x86_raise(x86(c), EXC_GP, 0);
    c->pc = b;
    c->halted = true;
    return 0;
}
X86_HELPER(monitor)
{
    if (x86_cpl(x86(c))) x86_raise(x86(c), EXC_UD, -1);
    if ((u32)c->regs[G_RCX]) x86_raise(x86(c), EXC_GP, 0);
    return 0;
}
// Who spins for a lock may wait for a vCPU that cannot run as long as this one has the core. Not at once, though: most waiting is short,
// and for vCPUs on other cores (the answer to an interprocessor interrupt); who gives his core away then does not get it back in time. 256
// times through the loop are some 20 us, well more than an answer takes and far less than a slice.
X86_HELPER(pause)
{
    enum { PAUSES_PER_YIELD = 256 };
    if (c->shares_core && ++c->n_pauses % PAUSES_PER_YIELD == 0) c->run_result |= VCPU_EV_YIELD;
    return 0;
}

// ---- control registers -----------------------------------------------------------------------------------------------

static void write_cr0(struct x86_cpu *c, u64 v)
{
    u64 old = c->cr0;
    if (v >> 32 || ((v & CR0_PG) && !(v & CR0_PE)) || ((v & CR0_NW) && !(v & CR0_CD))) x86_raise(c, EXC_GP, 0);
    bool pg_on = (v & CR0_PG) && !(old & CR0_PG), pg_off = !(v & CR0_PG) && (old & CR0_PG);
    if (pg_on && (c->efer & EFER_LME) && (!(c->cr4 & CR4_PAE) || (c->seg[SEG_CS].attr & DESC_L))) x86_raise(c, EXC_GP, 0);
    if (pg_off && (x86_code64(c) || (c->cr4 & CR4_PCIDE))) x86_raise(c, EXC_GP, 0);
    v = (v & (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)) | CR0_ET;
    if (pg_on && (c->efer & EFER_LME)) c->efer |= EFER_LMA;
    if (pg_off) c->efer &= ~(u64)EFER_LMA;
    c->cr0 = v;
    if ((old ^ v) & (CR0_PG | CR0_WP | CR0_PE)) tlb_flush(&c->v);
    x86_update_mode(c);
}

// SDM 3A 4.4.1: MOV CR3 with PAE paging loads the four PDPTEs and faults on reserved bits.
static void check_pdptes(struct x86_cpu *c, u64 cr3)
{
    for (unsigned i = 0; i < 4; i++) {
        const u8 *h = phys_host(c->v.phys, gpa((cr3 & 0xffffffe0) + i * 8));
        u64 e = h ? *(const u64_any *)h : 0;
        if ((e & 1) && (e & (~(BIT(X86_PHYS_BITS) - 1) | 0x1e6))) x86_raise(c, EXC_GP, 0);
    }
}

// With PCIDs bit 63 says that what is known of the new one stays good (SDM 3A 4.10.4.1); it is not stored.
static void write_cr3(struct x86_cpu *c, u64 v)
{
    u64 old = c->cr3;
    bool pcid = c->cr4 & CR4_PCIDE, keep = pcid && (v & BIT(63));
    if (pcid) v &= ~BIT(63);
    if (x86_long_mode(c)) {
        if (v >> X86_PHYS_BITS) x86_raise(c, EXC_GP, 0);
    } else {
        v = (u32)v;
        if ((c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE)) check_pdptes(c, v);
    }
    c->cr3 = v;
    if (pcid) tlb_switch(&c->v, old & 0xfff, v & 0xfff, keep);
    else tlb_flush_local(&c->v);
}

static u64 cr4_allowed(const struct x86_cpu *c)
{
    u64 m = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    if (c->id.f1_ecx & BIT(26)) m |= CR4_OSXSAVE;
    if (c->id.f7_ebx & BIT(0)) m |= CR4_FSGSBASE;
    if (c->id.f7_ebx & BIT(7)) m |= CR4_SMEP;
    if (c->id.f7_ebx & BIT(20)) m |= CR4_SMAP;
    if (c->id.f7_ecx & BIT(2)) m |= CR4_UMIP;
    if (c->id.f1_ecx & BIT(17)) m |= CR4_PCIDE;
    return m;
}

static void write_cr4(struct x86_cpu *c, u64 v)
{
    u64 old = c->cr4;
    if (v & ~cr4_allowed(c)) x86_raise(c, EXC_GP, 0);
    if (x86_long_mode(c) && !(v & CR4_PAE)) x86_raise(c, EXC_GP, 0);
    if ((v & CR4_PCIDE) && !(old & CR4_PCIDE) && (!x86_long_mode(c) || (c->cr3 & 0xfff))) x86_raise(c, EXC_GP, 0);
    if ((c->cr0 & CR0_PG) && !x86_long_mode(c) && (v & CR4_PAE) && ((old ^ v) & CR4_PAE)) check_pdptes(c, c->cr3);
    c->cr4 = v;
    if ((old ^ v) & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP)) tlb_flush(&c->v);
    x86_update_mode(c);
}

X86_HELPER(read_cr)
{
    struct x86_cpu *x = x86(c);
    x86_need_cpl0(x);
    switch (a) {
    case 0: return x->cr0;
    case 2: return x->cr2;
    case 3: return x->cr3;
    case 4: return x->cr4;
    case 8: return c->apic_ops ? c->apic_ops->get_tpr(c->apic) >> 4 : 0;
    default: x86_raise(x, EXC_UD, -1);
    }
}

X86_HELPER(write_cr)
{
    struct x86_cpu *x = x86(c);
    x86_need_cpl0(x);
    if (!x86_code64(x)) b = (u32)b;
    switch (a) {
    case 0: write_cr0(x, b); break;
    case 2: x->cr2 = b; break;
    case 4: write_cr4(x, b); break;
    case 8:
        if (b > 15) x86_raise(x, EXC_GP, 0);
        if (c->apic_ops) c->apic_ops->set_tpr(c->apic, b << 4);
        break;
    default: x86_raise(x, EXC_UD, -1);
    }
    c->pc = d;
    return x86_resume(x);
}

X86_HELPER(write_cr3)
{
    struct x86_cpu *x = x86(c);
    x86_need_cpl0(x);
    write_cr3(x, x86_code64(x) ? b : (u32)b);
    return 0;
}

static void umip_check(struct x86_cpu *c)
{
    if ((c->cr4 & CR4_UMIP) && x86_protected(c) && x86_cpl(c)) x86_raise(c, EXC_GP, 0);
}

X86_HELPER(smsw)
{
    umip_check(x86(c));
    return x86(c)->cr0;
}

X86_HELPER(lmsw)
{
    struct x86_cpu *x = x86(c);
    x86_need_cpl0(x);
    write_cr0(x, (x->cr0 & ~(u64)(CR0_MP | CR0_EM | CR0_TS)) | (a & 15));   // may set PE, cannot clear it
    return 0;
}

X86_HELPER(clts)
{
    x86_need_cpl0(x86(c));
    x86(c)->cr0 &= ~(u64)CR0_TS;
    x86_update_mode(x86(c));
    c->pc = d;
    return x86_resume(x86(c));
}

X86_HELPER(invlpg)
{
    x86_need_cpl0(x86(c));
    tlb_flush_page(c, x86_linear(x86(c), d, a));
    return 0;
}

X86_HELPER(wbinvd)
{
    x86_need_cpl0(x86(c));
    return 0;
}

// ---- debug registers -------------------------------------------------------------------------------------------------

static unsigned dr_number(struct x86_cpu *c, u64 n)
{
    if (n > 7 || ((n == 4 || n == 5) && (c->cr4 & CR4_DE))) x86_raise(c, EXC_UD, -1);
    x86_need_cpl0(c);
    if (c->dr[7] & BIT(13)) {   // GD: SDM 3B 17.2.4
        c->dr[6] |= BIT(13);
        x86_raise(c, EXC_DB, -1);
    }
    return n == 4 || n == 5 ? n + 2 : n;
}

X86_HELPER(read_dr) { return x86(c)->dr[dr_number(x86(c), a)]; }

X86_HELPER(write_dr)
{
    struct x86_cpu *x = x86(c);
    unsigned n = dr_number(x, a);
    if (!x86_code64(x)) b = (u32)b;
    if (n >= 6 && b >> 32) x86_raise(x, EXC_GP, 0);
    if (n == 6) b = (b & 0xe00f) | 0xffff0ff0;
    if (n == 7) b = (b & 0xffff2bff) | 0x400;
    x->dr[n] = b;
    x86_update_mode(x);
    c->pc = d;
    return x86_resume(x);
}

// ---- descriptor-table registers ---------------------------------------------------------------------------------------

static void table_load(struct x86_cpu *c, u64 ea, u64 d, u64 *base, u16 *limit)
{
    x86_need_cpl0(c);
    unsigned mmu = x86_mmu(c), size = x86_code64(c) ? 8 : 4;
    u16 lim = mem_ld(&c->v, x86_linear(c, d, ea), 2, mmu);
    u64 b = mem_ld(&c->v, x86_linear(c, d, ea + 2), size, mmu);
    if (size == 8 && !x86_canonical(b)) x86_raise(c, EXC_GP, 0);
    if (size == 4 && x86_info_opsize(d) == 2) b &= 0xffffff;
    *base = b;
    *limit = lim;
}

static void table_store(struct x86_cpu *c, u64 ea, u64 d, u64 base, u16 limit)
{
    umip_check(c);
    unsigned size = x86_code64(c) ? 8 : 4;
    u8 buf[10];
    *(u16_any *)buf = limit;
    if (size == 8) *(u64_any *)(buf + 2) = base;
    else *(u32_any *)(buf + 2) = (u32)base;
    mem_write(&c->v, x86_linear(c, d, ea), buf, 2 + size, x86_mmu(c));
}

X86_HELPER(lgdt)
{
    table_load(x86(c), a, d, &x86(c)->gdtr.base, &x86(c)->gdtr.limit);
    return 0;
}
X86_HELPER(lidt)
{
    table_load(x86(c), a, d, &x86(c)->idtr.base, &x86(c)->idtr.limit);
    return 0;
}
X86_HELPER(sgdt)
{
    table_store(x86(c), a, d, x86(c)->gdtr.base, x86(c)->gdtr.limit);
    return 0;
}
X86_HELPER(sidt)
{
    table_store(x86(c), a, d, x86(c)->idtr.base, x86(c)->idtr.limit);
    return 0;
}

// ---- the stack and array instructions of the 80186 ---------------------------------------------------------------------

X86_HELPER(bound)
{
    struct x86_cpu *x = x86(c);
    unsigned size = x86_info_opsize(d), mmu = x86_mmu(x);
    s64 lo = bits_sext(mem_ld(c, x86_linear(x, d, a), size, mmu), size);
    s64 hi = bits_sext(mem_ld(c, x86_linear(x, d, a + size), size, mmu), size);
    s64 i = bits_sext(b, size);
    if (i < lo || i > hi) x86_raise(x, EXC_BR, -1);
    return 0;
}

X86_HELPER(enter)
{
    struct x86_cpu *x = x86(c);
    unsigned size = x86_info_opsize(d), level = b & 31;
    struct xstack s, frame;
    xstack_current(&s, x);
    u64 links[31], n = 0;
    frame = s;
    frame.sp = x->v.regs[G_RBP] & s.mask;
    for (unsigned i = 1; i < level; i++) {
        frame.sp = (frame.sp - 2 * size) & s.mask;   // the pop moves up by one
        if (i == 1) frame.sp = (frame.sp + size) & s.mask;
        links[n++] = xstack_pop(&frame, size);
    }
    xstack_reserve(&s, size * (1 + level), size);
    xstack_push(&s, x->v.regs[G_RBP], size);
    u64 bp = (x->v.regs[G_RSP] & ~s.mask) | s.sp;      // all of rSP, also where only SP moves
    for (unsigned i = 0; i < n; i++) xstack_push(&s, links[i], size);
    if (level) xstack_push(&s, bp, size);
    s.sp = (s.sp - (a & 0xffff)) & s.mask;
    // SDM 2, ENTER: the new stack top must be writable, although nothing is written
    (void)mem_probe(c, x86_linear_at(x, SEG_SS, s.sp), 1, ACCESS_WRITE, s.mmu);
    x86_set_reg(x, G_RBP, bp, size);
    xstack_commit(&s);
    return 0;
}

X86_HELPER(pusha)
{
    struct x86_cpu *x = x86(c);
    unsigned size = x86_info_opsize(d);
    struct xstack s;
    xstack_current(&s, x);
    xstack_reserve(&s, 8 * size, size);
    for (unsigned r = 0; r < 8; r++) xstack_push(&s, x->v.regs[r], size);
    xstack_commit(&s);
    return 0;
}

X86_HELPER(popa)
{
    struct x86_cpu *x = x86(c);
    unsigned size = x86_info_opsize(d);
    struct xstack s;
    u64 v[8];
    xstack_current(&s, x);
    for (unsigned r = 8; r-- > 0;) v[r] = xstack_pop(&s, size);
    for (unsigned r = 0; r < 8; r++)
        if (r != G_RSP) x86_set_reg(x, r, v[r], size);
    xstack_commit(&s);
    return 0;
}

// ---- BCD ---------------------------------------------------------------------------------------------------------------

// Flags that the manual leaves undefined are those of the addition or subtraction inside, which is 8 bits wide but for AAA and AAS: so on
// AMD processors, over all inputs.

static u64 zero_sign_parity(u64 v, unsigned size)
{
    u64 sign = 1ull << (8 * size - 1);
    return (v & sign ? EF_SF : 0) | (v & (2 * sign - 1) ? 0 : EF_ZF) | (__builtin_parity((u8)v) ? 0 : EF_PF);
}

// OF of a + b = r, or of a - b = r.
static u64 overflow(u64 a, u64 b, u64 r, bool sub, unsigned size)
{
    u64 v = sub ? (a ^ b) & (a ^ r) : (a ^ r) & (b ^ r);
    return v >> (8 * size - 1) & 1 ? EF_OF : 0;
}

static void decimal_adjust(struct x86_cpu *c, bool sub)
{
    u8 al = c->v.regs[G_RAX];
    bool low = (al & 15) > 9 || (c->v.cc >> 8 & EF_AF), high = al > 0x99 || (c->v.cc >> 8 & EF_CF);
    u8 by = (low ? 6 : 0) + (high ? 0x60 : 0), r = sub ? al - by : al + by;
    bool cf = high || (low && sub && al < 6);          // DAA: above 0xf9 is above 0x99
    x86_set_reg(c, G_RAX, r, 1);
    c->v.cc = cc_from_eflags(zero_sign_parity(r, 1) | overflow(al, by, r, sub, 1) | (cf ? EF_CF : 0) | (low ? EF_AF : 0));
}

static void ascii_adjust(struct x86_cpu *c, bool sub)
{
    u16 ax = c->v.regs[G_RAX];
    bool adjust = (ax & 15) > 9 || (c->v.cc >> 8 & EF_AF);
    u16 by = adjust ? 0x106 : 0, r = sub ? ax - by : ax + by;
    x86_set_reg(c, G_RAX, r & 0xff0f, 2);
    c->v.cc = cc_from_eflags(zero_sign_parity(r, 2) | overflow(ax, by, r, sub, 2) | (adjust ? EF_CF | EF_AF : 0));
}

X86_HELPER(daa)
{
    decimal_adjust(x86(c), false);
    return 0;
}
X86_HELPER(das)
{
    decimal_adjust(x86(c), true);
    return 0;
}
X86_HELPER(aaa)
{
    ascii_adjust(x86(c), false);
    return 0;
}
X86_HELPER(aas)
{
    ascii_adjust(x86(c), true);
    return 0;
}

X86_HELPER(aam)
{
    u8 al = c->regs[G_RAX], base = a;
    if (!base) x86_raise(x86(c), EXC_DE, -1);
    x86_set_reg(x86(c), G_RAX, (al / base) << 8 | al % base, 2);
    c->cc = cc_from_eflags(zero_sign_parity(al % base, 1));
    return 0;
}

X86_HELPER(aad)
{
    u16 ax = c->regs[G_RAX];
    u8 al = ax, by = (ax >> 8) * (u8)a, r = al + by;
    x86_set_reg(x86(c), G_RAX, r, 2);
    c->cc = cc_from_eflags(zero_sign_parity(r, 1) | overflow(al, by, r, false, 1) | (r < al ? EF_CF : 0) | ((al ^ by ^ r) & EF_AF));
    return 0;
}
