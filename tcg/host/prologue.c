// The common code at the head of the code cache: the ways in and out, and the bridges from translated code to C.
//
// Translated code calls no C function directly: C does not know about pinned registers. A bridge spills every pinned global to
// the vCPU, so that C sees complete state and may leave by restoring host_rsp; then C runs; then all globals are loaded again,
// because C may have changed them. In the slow paths of memory accesses the caller-saved ones would do for reloading, but those
// paths are cold.
//
// Entering is a critical section against lost wake-ups: from the check of exit_request to the jump, an interrupt handler that
// finds RIP in [enter_check, enter_end) resumes at enter_abort. So nothing needs interrupts off here, on metal and hosted alike.
#include "tcg/host/layout.h"

#include "kernel/base/log.h"

static const u8 saved_regs[] = {H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15};

void host_flags_save(struct as *as, u8 keep)
{
    as_mov_rr(as, keep, H_RAX);
    as_u8(as, 0x9f);                                                        // lahf
    as_op(as, (struct enc){.map = 1, .opcode = 0x90, .byte_rm = true}, 0, rm_reg(H_RAX));   // seto al
    as_op(as, (struct enc){.opcode = 0x89, .pp = 0x66}, H_RAX, rm_gs(ENV(cc)));
    as_mov_rr(as, H_RAX, keep);
}

void host_flags_restore(struct as *as, u8 keep)
{
    as_mov_rr(as, keep, H_RAX);
    as_op(as, (struct enc){.map = 1, .opcode = 0xb7}, H_RAX, rm_gs(ENV(cc)));   // movzx eax, word
    as_u8(as, 0x04);                                                        // add al, 0x7f: OF = old OF
    as_u8(as, 0x7f);
    as_u8(as, 0x9e);                                                        // sahf keeps OF
    as_mov_rr(as, H_RAX, keep);
}

static void spill_globals(struct as *as)
{
    for (u8 g = 0; g < 16; g++)
        if (host_of(g) != H_NONE) as_store(as, env_reg(g), host_of(g));
}

static void reload_globals(struct as *as)
{
    for (u8 g = 0; g < 16; g++)
        if (host_of(g) != H_NONE) as_load(as, host_of(g), env_reg(g));
}

static void store_imm32(struct as *as, s32 env, u32 v)
{
    as_op(as, (struct enc){.opcode = 0xc7}, 0, rm_gs(env));
    as_u32(as, v);
}

static void call_c(struct as *as, const void *fn)
{
    as_mov_ri(as, H_RAX, (u64)fn);
    as_call_rm(as, rm_reg(H_RAX));
}

static void emit_epilogue(struct as *as)
{
    as_op(as, (struct enc){.opcode = 0x83, .w = true}, 0, rm_reg(H_RSP));    // add rsp, 8
    as_u8(as, 8);
    for (unsigned i = ARRAY_SIZE(saved_regs); i-- > 0;) as_pop(as, saved_regs[i]);
    as_u8(as, 0xc3);
}

// u64 enter(void *code)
static void emit_enter(struct as *as, struct tcg *t, s64 to_rx)
{
    t->stubs.enter = (u64(*)(void *))(as->p + to_rx);
    for (unsigned i = 0; i < ARRAY_SIZE(saved_regs); i++) as_push(as, saved_regs[i]);
    as_op(as, (struct enc){.opcode = 0x83, .w = true}, 5, rm_reg(H_RSP));    // sub rsp, 8
    as_u8(as, 8);
    as_mov_rr(as, H_R14, H_RDI);
    store_imm32(as, ENV(in_guest), 1);
    t->stubs.enter_check = as->p + to_rx;
    as_alu_mi(as, 7, 4, rm_gs(ENV(exit_request)), 0);
    u8 *abort = as_jcc(as, CC_NE, NULL);
    reload_globals(as);
    as_op(as, (struct enc){.opcode = 0xff}, 4, rm_reg(H_R14));               // jmp r14
    t->stubs.enter_end = as->p + to_rx;
    as_patch(abort, as->p);
    t->stubs.enter_abort = as->p + to_rx;
    store_imm32(as, ENV(in_guest), 0);
    as_op(as, (struct enc){.opcode = 0xc7, .w = true}, 0, rm_gs(ENV(last_tb)));
    as_u32(as, 0);
    emit_epilogue(as);
}

static void emit_exits(struct as *as, struct tcg *t, s64 to_rx)
{
    t->stubs.exit_host = as->p + to_rx;
    host_flags_save(as, H_R14);
    t->stubs.exit_saved = as->p + to_rx;
    spill_globals(as);
    as_store(as, rm_gs(ENV(last_tb)), H_R13);
    as_op(as, (struct enc){.opcode = 0x89}, H_R12, rm_gs(ENV(last_exit)));
    store_imm32(as, ENV(in_guest), 0);
    emit_epilogue(as);
    // A host fault: the handler has put the faulting RIP in the vCPU; globals are as they were. vcpu_run looks at fault_rip.
    t->stubs.fault = as->p + to_rx;
    spill_globals(as);
    as_op(as, (struct enc){.opcode = 0xc7, .w = true}, 0, rm_gs(ENV(last_tb)));
    as_u32(as, 0);
    store_imm32(as, ENV(in_guest), 0);
    emit_epilogue(as);
}

// Where C code is not compiled to leave vector registers alone. RSP aligned to 16; keeps R12-R14.
static void release_fpu(struct as *as)
{
    if (!limits_c_uses_fpu()) return;
    as_load(as, H_RDI, rm_gs(ENV(self)));
    call_c(as, vcpu_fpu_release);
}

// Common frame of the bridges. On entry RSP is 8 below 16-byte alignment, the return address at [rsp] is translated code.
static void bridge_begin(struct as *as)
{
    spill_globals(as);
    as_load(as, H_RAX, rm_mem(H_RSP, H_NONE, 0, 0));
    as_store(as, rm_gs(ENV(helper_ra)), H_RAX);
    as_op(as, (struct enc){.opcode = 0x83, .w = true}, 5, rm_reg(H_RSP));
    as_u8(as, 8);
    release_fpu(as);
}

// The way back. An interrupt after the compare finds RIP in here and unlinks the TB that helper_ra names, so nothing is lost.
// Lets vcpu_helper_done look when something wants attention, then gives the globals back. RSP aligned to 16.
static void bridge_finish(struct as *as)
{
    as_alu_mi(as, 7, 4, rm_gs(ENV(exit_request)), 0);
    u8 *want = as_jcc(as, CC_NE, NULL);
    as_op(as, (struct enc){.opcode = 0x80}, 7, rm_gs(ENV(fpu_loaded)));      // cmp byte, 0
    as_u8(as, 0);
    u8 *fine = as_jcc(as, CC_NE, NULL);
    as_patch(want, as->p);
    as_load(as, H_RDI, rm_gs(ENV(self)));
    call_c(as, vcpu_helper_done);
    as_patch(fine, as->p);
    reload_globals(as);
}

static void bridge_end(struct as *as)
{
    as_mov_rr(as, H_R13, H_RAX);
    bridge_finish(as);
    as_op(as, (struct enc){.opcode = 0x83, .w = true}, 0, rm_reg(H_RSP));
    as_u8(as, 8);
    as_u8(as, 0xc3);
}

// r12: linear address, r13d: descriptor. Returns r13: host address of the bytes, r12: 0. r14 is kept (callee-saved in C).
static u8 *emit_slow(struct as *as, const void *fn, s64 to_rx)
{
    u8 *at = as->p + to_rx;
    bridge_begin(as);
    as_load(as, H_RDI, rm_gs(ENV(self)));
    as_mov_rr(as, H_RSI, H_R12);
    as_mov_rr(as, H_RDX, H_R13);
    call_c(as, fn);
    as_op(as, (struct enc){.opcode = 0x33}, H_R12, rm_reg(H_R12));
    bridge_end(as);
    return at;
}

// After a store into the bounce buffer: writes it to where it belongs. Keeps the flags, which the store may have defined.
static void emit_commit(struct as *as, struct tcg *t, s64 to_rx)
{
    t->stubs.commit = as->p + to_rx;
    as_u8(as, 0x9c);                         // pushfq
    spill_globals(as);
    as_load(as, H_RAX, rm_mem(H_RSP, H_NONE, 0, 8));
    as_store(as, rm_gs(ENV(helper_ra)), H_RAX);
    release_fpu(as);
    as_load(as, H_RDI, rm_gs(ENV(self)));
    call_c(as, softmmu_commit);
    bridge_finish(as);
    as_u8(as, 0x9d);                         // popfq
    as_u8(as, 0xc3);
}

// r12: the function; its arguments are in vcpu.args. Result in r13.
static void emit_call(struct as *as, struct tcg *t, s64 to_rx)
{
    t->stubs.call = as->p + to_rx;
    bridge_begin(as);
    as_op(as, (struct enc){.opcode = 0xff, .w = true}, 0, rm_gs(ENV(n_helper)));   // inc
    as_load(as, H_RDI, rm_gs(ENV(self)));
    as_load(as, H_RSI, rm_gs(ENV(args[0])));
    as_load(as, H_RDX, rm_gs(ENV(args[1])));
    as_load(as, H_RCX, rm_gs(ENV(args[2])));
    as_call_rm(as, rm_reg(H_R12));
    bridge_end(as);
}

const char *host_missing(void)
{
    u32 a = 7, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (!(b >> 8 & 1)) return "BMI2";                // RORX, SHRX, PEXT (SDM 2: CPUID.07H:EBX[8])
    a = 0x80000001;
    c = 0;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return c & 1 ? NULL : "LAHF/SAHF in 64-bit mode";
}

void host_prologue_emit(struct tcg *t)
{
    struct as as = {.p = t->rw, .end = t->rw + 64 * KIB};
    s64 to_rx = t->rx - t->rw;
    emit_enter(&as, t, to_rx);
    emit_exits(&as, t, to_rx);
    t->stubs.slow_load = emit_slow(&as, softmmu_slow_load, to_rx);
    t->stubs.slow_store = emit_slow(&as, softmmu_slow_store, to_rx);
    emit_commit(&as, t, to_rx);
    emit_call(&as, t, to_rx);
    ASSERT(!as.full, "prologue%s", "");
    t->stubs.end = as.p + to_rx;
}
