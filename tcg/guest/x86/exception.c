// Exceptions and interrupts: raising, classification, delivery (SDM 3A chapter 6).
//
// Raising and delivering are two steps. x86_raise notes the exception in the vCPU, with pc and flags of the faulting instruction recovered,
// and leaves to the loop; the loop calls deliver_exception, which works on plain state. Delivery checks everything and reserves its stack
// frame before it changes anything, so a fault in the middle is simply another x86_raise: exc_nest says what was being delivered, and table
// 6-5 makes of the two the second one, a double fault, or a shutdown.
//
// INT n is the same with exc_soft: the frame gets the pc after the instruction, but a fault on the way is the INT's own.
#include "tcg/guest/x86/system.h"

enum { NEST_NONE = -1, NEST_BENIGN = 256 };

// ---- raising --------------------------------------------------------------------------------------------------------

static bool contributory(int vec) { return vec == EXC_DE || (vec >= EXC_TS && vec <= EXC_GP); }

// Table 6-5. Returns the vector to deliver, or -1 for shutdown.
static int exc_combine(int first, int second)
{
    if (first == EXC_DF && (contributory(second) || second == EXC_PF)) return -1;
    if (contributory(first) && contributory(second)) return EXC_DF;
    if (first == EXC_PF && (contributory(second) || second == EXC_PF)) return EXC_DF;
    return second;
}

static NORETURN void exc_leave(struct x86_cpu *c, unsigned vec, s64 error)
{
    int combined = exc_combine(c->exc_nest, vec);
    if (combined < 0) {
        log_info("vCPU %u: triple fault at %04x:%llx", vcpu_index(&c->v), c->seg[SEG_CS].sel, (unsigned long long)c->v.pc);
        c->exc_nest = NEST_NONE;
        c->v.exc_pending = false;
        c->v.halted = true;
        vcpu_request_reset(&c->v);
        vcpu_leave(&c->v);
    }
    if (combined == EXC_DF) error = 0;
    c->exc_vector = combined;
    c->exc_has_error = error >= 0;
    c->exc_error = error >= 0 ? (u32)error : 0;
    c->v.exc_pending = true;
    vcpu_leave(&c->v);
}

NORETURN void x86_raise(struct x86_cpu *c, unsigned vec, s64 error)
{
    vcpu_sync(&c->v);
    c->exc_soft = c->exc_trap = false;
    exc_leave(c, vec, error);
}

NORETURN void x86_raise_soft(struct x86_cpu *c, unsigned vec, u64 next_pc, bool icebp)
{
    vcpu_sync(&c->v);
    c->exc_soft = !icebp;
    c->exc_trap = icebp;
    c->exc_next_pc = next_pc;
    exc_leave(c, vec, -1);
}

// ---- delivery --------------------------------------------------------------------------------------------------------

struct delivery { unsigned vec; bool has_err, soft; u32 err, ext; u64 pc, eflags; };

static void deliver_real(struct x86_cpu *c, const struct delivery *e)
{
    if (e->vec * 4 + 3 > c->idtr.limit) x86_raise(c, EXC_GP, -1);
    u32 vector = mem_ld(&c->v, gva((u32)(c->idtr.base + e->vec * 4)), 4, 0);
    struct xstack s;
    xstack_current(&s, c);
    xstack_reserve(&s, 6, 2);
    xstack_push(&s, e->eflags, 2);
    xstack_push(&s, c->seg[SEG_CS].sel, 2);
    xstack_push(&s, e->pc, 2);
    xstack_commit(&s);
    x86_seg_set_real(c, SEG_CS, vector >> 16);
    c->v.pc = vector & 0xffff;
    x86_switch_eflags(c, x86_get_eflags(c) & ~(u64)(EF_IF | EF_TF | EF_AC | EF_RF));
}

// Reads and checks the gate of the IDT; gate[0..2] are its dwords. Returns the type.
static unsigned gate_read(struct x86_cpu *c, const struct delivery *e, u32 gate[4])
{
    bool lma = x86_long_mode(c);
    unsigned bytes = lma ? 16 : 8;
    u32 err = e->vec * 8 + 2 + e->ext;
    if (e->vec * bytes + bytes - 1 > c->idtr.limit) x86_raise(c, EXC_GP, err);
    u64 a = c->idtr.base + e->vec * bytes;
    if (!lma) a = (u32)a;
    u64 lo = mem_ld(&c->v, gva(a), 8, 0), up = lma ? mem_ld(&c->v, gva(a + 8), 8, 0) : 0;
    gate[0] = (u32)lo;
    gate[1] = lo >> 32;
    gate[2] = (u32)up;
    gate[3] = up >> 32;
    unsigned type = gate[1] >> 8 & 0x1f;
    bool ok = type == SYS_INT32 || type == SYS_TRAP32 || (!lma && (type == SYS_INT16 || type == SYS_TRAP16 || type == SYS_TASK_GATE));
    if (!ok) x86_raise(c, EXC_GP, err);
    if (e->soft && (gate[1] >> 13 & 3) < x86_cpl(c)) x86_raise(c, EXC_GP, err);
    if (!(gate[1] & DESC_P)) x86_raise(c, EXC_NP, err);
    if (type == SYS_TASK_GATE) {
        log_once(LOG_WARN, "guest: task gate in the IDT (vector %u): hardware task switching is not implemented; #GP instead", e->vec);
        x86_raise(c, EXC_GP, err);
    }
    return type;
}

// Reads and checks the handler's code segment; returns the privilege level the handler runs at.
static unsigned handler_read(struct x86_cpu *c, const struct delivery *e, u16 sel, struct x86_desc *cs)
{
    u32 err = (sel & 0xfffc) | e->ext;
    unsigned cpl = x86_cpl(c);
    if (!(sel & 0xfffc)) x86_raise(c, EXC_GP, e->ext);
    if (!x86_desc_read(c, sel, cs)) x86_raise(c, EXC_GP, err);
    if ((cs->hi & (DESC_S | DESC_CODE)) != (DESC_S | DESC_CODE) || desc_dpl(cs) > cpl) x86_raise(c, EXC_GP, err);
    if (x86_long_mode(c) && (cs->hi & (DESC_L | DESC_B)) != DESC_L) x86_raise(c, EXC_GP, err);
    if (!(cs->hi & DESC_P)) x86_raise(c, EXC_NP, err);
    unsigned to = cs->hi & DESC_C ? cpl : desc_dpl(cs);
    if (x86_vm86(c) && to != 0) x86_raise(c, EXC_GP, err);
    return to;
}

static void enter_handler(struct x86_cpu *c, u16 sel, unsigned cpl, const struct x86_desc *cs, u64 pc, bool trap_gate)
{
    x86_seg_from_desc(c, SEG_CS, (sel & ~3u) | cpl, cs);
    x86_set_cpl(c, cpl);
    c->v.pc = pc;
    u64 clear = EF_TF | EF_NT | EF_RF | EF_VM | (trap_gate ? 0 : EF_IF);
    x86_switch_eflags(c, x86_get_eflags(c) & ~clear);
}

static void push_vm86_segments(struct xstack *s, unsigned size)
{
    static const u8 order[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
    for (unsigned i = 0; i < 4; i++) xstack_push(s, s->c->seg[order[i]].sel, size);
}

static void deliver_protected(struct x86_cpu *c, const struct delivery *e)
{
    u32 gate[4];
    unsigned type = gate_read(c, e, gate), size = type & 8 ? 4 : 2, cpl = x86_cpl(c);
    bool vm86 = x86_vm86(c);
    u16 cs_sel = gate[0] >> 16, ss_sel = 0;
    struct x86_desc cs, ss;
    unsigned to = handler_read(c, e, cs_sel, &cs);
    u32 pc = (gate[0] & 0xffff) | (size == 4 ? gate[1] & 0xffff0000 : 0);
    if (pc > desc_limit(&cs)) x86_raise(c, EXC_GP, e->ext);
    struct xstack s;
    unsigned words = 3 + e->has_err;
    if (to < cpl) {
        u64 sp;
        x86_tss_stack(c, to, e->ext, &ss_sel, &sp);
        x86_ss_check(c, ss_sel, to, EXC_TS, e->ext, &ss);
        xstack_new(&s, c, &ss, sp, to);
        words += vm86 ? 6 : 2;
    } else {
        xstack_current(&s, c);
    }
    xstack_reserve(&s, words * size, size);
    x86_desc_access(c, &cs);
    if (to < cpl) {
        x86_desc_access(c, &ss);
        if (vm86) push_vm86_segments(&s, size);
        xstack_push(&s, c->seg[SEG_SS].sel, size);
        xstack_push(&s, c->v.regs[G_RSP], size);
    }
    xstack_push(&s, e->eflags, size);
    xstack_push(&s, c->seg[SEG_CS].sel, size);
    xstack_push(&s, e->pc, size);
    if (e->has_err) xstack_push(&s, e->err, size);
    xstack_commit(&s);
    if (vm86) {
        static const u8 data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
        for (unsigned i = 0; i < 4; i++) x86_seg_set(c, data[i], 0, 0, 0, 0);
    }
    if (to < cpl) x86_seg_from_desc(c, SEG_SS, ss_sel, &ss);
    enter_handler(c, cs_sel, to, &cs, pc, type & 1);
}

static void deliver_long(struct x86_cpu *c, const struct delivery *e)
{
    u32 gate[4];
    unsigned type = gate_read(c, e, gate), cpl = x86_cpl(c);
    u16 cs_sel = gate[0] >> 16;
    struct x86_desc cs;
    unsigned to = handler_read(c, e, cs_sel, &cs), ist = gate[1] & 7;
    u64 pc = (gate[0] & 0xffff) | (gate[1] & 0xffff0000) | (u64)gate[2] << 32, sp;
    if (!x86_canonical(pc)) x86_raise(c, EXC_GP, e->ext);
    if (ist) sp = x86_tss64_read(c, 0x24 + (ist - 1) * 8, e->ext);
    else if (to < cpl) sp = x86_tss64_read(c, 4 + to * 8, e->ext);
    else sp = c->v.regs[G_RSP];
    struct xstack s;
    xstack_new(&s, c, NULL, sp & ~15ull, to);
    xstack_reserve(&s, e->has_err ? 48 : 40, 8);
    x86_desc_access(c, &cs);
    xstack_push(&s, c->seg[SEG_SS].sel, 8);
    xstack_push(&s, c->v.regs[G_RSP], 8);
    xstack_push(&s, e->eflags, 8);
    xstack_push(&s, c->seg[SEG_CS].sel, 8);
    xstack_push(&s, e->pc, 8);
    if (e->has_err) xstack_push(&s, e->err, 8);
    xstack_commit(&s);
    if (to < cpl) x86_ss_set_null(c, to);
    enter_handler(c, cs_sel, to, &cs, pc, type & 1);
}

void x86_deliver(struct x86_cpu *c, unsigned vec, s64 err, bool soft, bool ext, u64 ret_pc, u64 frame_rf)
{
    struct delivery e = {.vec = vec, .has_err = err >= 0, .soft = soft, .err = (u32)err, .ext = ext, .pc = ret_pc};
    e.eflags = x86_get_eflags(c) | frame_rf;
    if (trace_mask() & TRACE_INT)
        trace_write("int %02x err=%lld soft=%d cpl=%u cs:ip=%04x:%016llx ss:sp=%04x:%016llx cr2=%016llx\n", vec, (long long)err, soft,
                    x86_cpl(c), c->seg[SEG_CS].sel, (unsigned long long)ret_pc, c->seg[SEG_SS].sel, (unsigned long long)c->v.regs[G_RSP],
                    (unsigned long long)c->cr2);
    c->step_pending = false;
    c->inhibit_irq = false;
    c->v.halted = false;
    if (!x86_protected(c)) {
        e.has_err = false;   // real mode pushes no error codes
        deliver_real(c, &e);
    } else if (x86_long_mode(c)) {
        deliver_long(c, &e);
    } else {
        deliver_protected(c, &e);
    }
    c->exc_nest = NEST_NONE;
}

void x86_deliver_exception(struct vcpu *v)
{
    struct x86_cpu *c = x86(v);
    unsigned vec = c->exc_vector;
    bool soft = c->exc_soft, trap = c->exc_trap;
    v->exc_pending = false;
    c->exc_nest = soft ? NEST_BENIGN : (int)vec;
    if (vec == EXC_DB) c->dr[7] &= ~BIT(13);   // GD, SDM 3B 17.2.4
    // Faults push RF = 1 (SDM 3B 17.3.1.1); #DB leaves it as it is, aborts and INT n too.
    bool fault = !soft && !trap && vec != EXC_DB && vec != EXC_DF && vec != EXC_MC;
    u64 pc = soft || trap ? c->exc_next_pc : v->pc;
    x86_deliver(c, vec, c->exc_has_error ? (s64)c->exc_error : -1, soft, !soft, pc, fault ? EF_RF : 0);
    if (soft || trap) v->icount_left--;      // INT n and its like: completed by the delivery
}

// ---- interrupts ------------------------------------------------------------------------------------------------------

static u32 events_peek(const struct vcpu *v) { return __atomic_load_n(&v->posted_events, __ATOMIC_ACQUIRE); }

// Mostly there is none, and a look costs nothing, a locked instruction 20 cycles. Who posts after the look kicks, too: the loop comes back.
static u32 events_take(struct vcpu *v, u32 mask)
{
    return events_peek(v) & mask ? __atomic_fetch_and(&v->posted_events, ~mask, __ATOMIC_ACQ_REL) & mask : 0;
}

// Delivers a hardware interrupt or a trap between two instructions.
static void interrupt_deliver(struct x86_cpu *c, unsigned vec, int nest)
{
    c->exc_nest = nest;
    c->exc_soft = c->exc_trap = false;
    x86_deliver(c, vec, -1, false, true, c->v.pc, 0);
}

static void sipi(struct x86_cpu *c)
{
    u8 page = __atomic_load_n(&c->v.posted_sipi, __ATOMIC_ACQUIRE);
    x86_seg_set(c, SEG_CS, page << 8, (u64)page << 12, 0xffff, c->seg[SEG_CS].attr);
    c->v.pc = 0;
    c->wait_sipi = c->v.halted = false;
    x86_update_mode(c);
}

// INIT and SIPI (SDM 3A 8.4.3). True when state changed.
static bool startup_events(struct x86_cpu *c)
{
    bool changed = false;
    if (events_take(&c->v, VCPU_EV_INIT)) {
        x86_cpu_reset(c, true);
        if (c->v.apic_ops) c->v.apic_ops->reset(c->v.apic, true);
        changed = true;
    }
    if (events_take(&c->v, VCPU_EV_SIPI) && c->wait_sipi) {   // outside wait-for-SIPI it is ignored
        sipi(c);
        changed = true;
    }
    return changed;
}

static bool external_pending(struct x86_cpu *c)
{
    struct vcpu *v = &c->v;
    if (!v->apic_ops) return false;
    if (v->apic_ops->pending(v->apic)) return true;
    return __atomic_load_n(&v->extint, __ATOMIC_ACQUIRE) && v->apic_ops->extint_open(v->apic);
}

// Acknowledges the external interrupt to be taken; -1: it went away.
static int external_ack(struct x86_cpu *c)
{
    struct vcpu *v = &c->v;
    if (v->apic_ops->pending(v->apic)) return v->apic_ops->ack(v->apic);
    return v->apic_ops->extint_ack(v->apic);
}

bool x86_irq_waiting(struct x86_cpu *c) { return __atomic_load_n(&c->v.exit_request, __ATOMIC_RELAXED) || external_pending(c); }

u64 x86_resume(struct x86_cpu *c)
{
    if (c->step_pending || c->inhibit_irq || events_peek(&c->v) || ((c->eflags & EF_IF) && x86_irq_waiting(c))) return 0;
    return (u64)vcpu_code_now(&c->v);
}

bool x86_take_interrupt(struct vcpu *v)
{
    struct x86_cpu *c = x86(v);
    bool changed = startup_events(c);
    if (c->wait_sipi) return changed;
    if (c->step_pending) {   // SDM 3A table 6-2: traps on the previous instruction come before interrupts
        c->step_pending = false;
        c->dr[6] |= BIT(14);
        c->dr[7] &= ~BIT(13);
        interrupt_deliver(c, EXC_DB, EXC_DB);
        return true;
    }
    if (c->inhibit_irq) return changed;
    if (!c->nmi_blocked && events_take(v, VCPU_EV_NMI)) {
        c->nmi_blocked = true;
        interrupt_deliver(c, EXC_NMI, NEST_BENIGN);
        return true;
    }
    if ((c->eflags & EF_IF) && external_pending(c)) {
        int vec = external_ack(c);
        if (vec >= 0) {
            interrupt_deliver(c, vec, NEST_BENIGN);
            return true;
        }
    }
    return changed;
}

bool x86_has_work(struct vcpu *v)
{
    struct x86_cpu *c = x86(v);
    u32 ev = events_peek(v);
    if (ev & VCPU_EV_INIT) return true;
    if (c->wait_sipi) return ev & VCPU_EV_SIPI;
    if (c->step_pending || ((ev & VCPU_EV_NMI) && !c->nmi_blocked)) return true;
    return (c->eflags & EF_IF) && external_pending(c);
}

// ---- faults of host instructions that stand for guest ones ----------------------------------------------------------

void x86_host_fault(struct vcpu *v, unsigned vector)
{
    struct x86_cpu *c = x86(v);
    switch (vector) {
    case EXC_DE:
    case EXC_UD:
        x86_raise(c, vector, -1);
    case EXC_MF:
        // Without CR0.NE a PC reports x87 errors through IRQ 13, a wire this machine does not have.
        if (!(c->cr0 & CR0_NE)) log_once(LOG_WARN, "guest: x87 error with CR0.NE clear (IRQ 13 is not wired): #MF instead");
        x86_raise(c, EXC_MF, -1);
    case EXC_XM:
        x86_raise(c, c->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD, -1);
    case EXC_AC:
        x86_raise(c, EXC_AC, 0);
    default:   // #GP: a misaligned SSE operand, a bad MXCSR
        x86_raise(c, EXC_GP, 0);
    }
}

// ---- instructions ----------------------------------------------------------------------------------------------------

// INT n is delivered where it stands: a fault on the way is raised as any other, at the INT, whose pc is recovered then.
static u64 soft_deliver(struct x86_cpu *c, unsigned vec, u64 next_pc)
{
    c->exc_nest = NEST_BENIGN;
    c->exc_soft = true;
    c->exc_trap = false;
    x86_deliver(c, vec, -1, true, false, next_pc, 0);
    return x86_resume(c);
}

X86_HELPER(raise) { x86_raise(x86(c), a, (s64)b); }
X86_HELPER(ud) { x86_raise(x86(c), EXC_UD, -1); }
X86_HELPER(int3) { return soft_deliver(x86(c), EXC_BP, b); }
X86_HELPER(icebp) { x86_raise_soft(x86(c), EXC_DB, b, true); }

X86_HELPER(int)
{
    struct x86_cpu *x = x86(c);
    if (x86_vm86(x) && x86_iopl(x) < 3) x86_raise(x, EXC_GP, 0);   // without VME
    return soft_deliver(x, a & 0xff, b);
}

X86_HELPER(into)
{
    if (c->cc & 0xff) x86_raise_soft(x86(c), EXC_OF, b, false);
    return 0;
}

X86_HELPER(step_begin)
{
    struct x86_cpu *x = x86(c);
    if (x->step_pending) {
        x->step_pending = false;
        x->dr[6] |= BIT(14);   // BS
        x86_raise(x, EXC_DB, -1);
    }
    x->step_pending = true;
    return 0;
}

X86_HELPER(bp_check)
{
    struct x86_cpu *x = x86(c);
    u64 lin = x86_code64(x) ? a : (u32)(x->seg_base[SEG_CS] + a);
    if (x->eflags & EF_RF) {
        x->eflags &= ~(u64)EF_RF;
        return 0;
    }
    u64 hit = 0;
    for (unsigned i = 0; i < 4; i++) {
        bool armed = (x->dr[7] >> (i * 2) & 3) && !(x->dr[7] >> (16 + i * 4) & 3);
        if (armed && x->dr[i] == lin) hit |= BIT(i);
    }
    if (!hit) return 0;
    x->dr[6] = (x->dr[6] & ~15ull) | hit;
    x->step_pending = false;
    x86_raise(x, EXC_DB, -1);
}

X86_HELPER(inhibit_done)
{
    x86(c)->inhibit_irq = false;
    x86_switch_mode(x86(c));
    return 0;
}

X86_HELPER(fwait)
{
    if ((x86(c)->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS)) x86_raise(x86(c), EXC_NM, -1);
    return 0;
}
