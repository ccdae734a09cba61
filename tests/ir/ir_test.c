// The IR's two meanings against each other: random blocks run by the reference interpreter (tcg/ir/interp.c) and as emitted code.
//
//     ir_test [rounds=N] [seed=N] [exit=poll]
//
// A guest architecture of its own makes it possible without x86: its translate() hands out the block under test; memory is mapped one to
// one, a window of it readable and writable, everything else faults, and a fault ends the run. Compared: registers, flags, pc, memory, and
// whether it faulted. In front, the interpreter is checked against results computed by hand, so that the two cannot agree on nonsense.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/plat.h"
#include "tcg/ir/interp.h"
#include "tcg/run/softmmu.h"
#include "tcg/run/tcg.h"
#include "tests/insn/state.h"

enum { RAM = 16 << 20, WINDOW = 0x100000, WINDOW_SIZE = 0x4000, PC0 = 0x200000, PC_END = 0x300000, NREGS = 16 };
enum { BASE_A = 5, BASE_B = 14 };   // globals that hold pointers and are not written

static struct {
    u8 *ram;
    struct vcpu *c;
    struct tcg *tcg;
    struct phys *phys;
    struct ir_block block;
    bool interpret, faulted;
    u64 fault_va;
} t;

struct machine_state { u64 regs[NREGS], pc, fault_va; u16 cc; bool faulted; u8 mem[WINDOW_SIZE]; };

// ---- the guest architecture ----
static void g_mode(struct vcpu *c, u64 *cs_base, u32 *mode) { *cs_base = 0; *mode = 0; }
static unsigned g_mmu(struct vcpu *c, u32 mode) { return 0; }

static u64 helper_end(struct vcpu *c, u64 a, u64 b, u64 d)
{
    vcpu_request_shutdown(c, 0);
    return 0;
}

// A helper whose result depends on all that a CALL shows it.
static u64 helper_mix(struct vcpu *c, u64 a, u64 b, u64 d)
{
    c->regs[3] ^= a + c->regs[12];
    c->cc ^= 0x4000;
    return a * 3 + b + d + c->regs[0];
}

// The interpreter runs as a helper of a block of its own, because only a running vCPU can fault.
static u64 helper_interp(struct vcpu *c, u64 a, u64 b, u64 d)
{
    unsigned at = 0;
    enum ir_interp_result r = ir_interp(c, &t.block, &at);
    if (r != INTERP_LEFT) plat_panic("the interpreter did not reach the block's end");
    vcpu_request_shutdown(c, 0);
    return 0;
}

static void one_call(struct vcpu *c, struct ir_block *b, ir_helper fn, enum ir_opc end)
{
    b->n = 0;
    ir_new(b, IR_INSN, 0)->imm = (s64)c->pc;
    struct ir_op *op = ir_new(b, IR_CALL, 8);
    op->fn = fn;
    op->fuse = op->fdef = FL_ALL;
    ir_new(b, end, 0)->imm = (s64)c->pc;
}

static void g_translate(struct vcpu *c, struct ir_block *b, unsigned max_insns)
{
    if (c->pc == PC0 && t.interpret) one_call(c, b, helper_interp, IR_LEAVER);
    else if (c->pc == PC0) memcpy(b->ops, t.block.ops, (b->n = t.block.n) * sizeof b->ops[0]);
    else one_call(c, b, helper_end, IR_LEAVE);
    b->pc = c->pc;
    b->n_insns = 1;
    b->len = 4;
    b->page[0] = c->pc >> PAGE_SHIFT;
    b->page[1] = ~0ull;
    for (unsigned i = 0, n = 0; i < b->n; i++)
        if (b->ops[i].opc == IR_INSN) b->n_insns = ++n;
}

static bool g_tlb_fill(struct vcpu *c, struct gva a, enum access acc, unsigned mmu, bool raise, struct tlb_fill *out)
{
    bool data = a.v >= WINDOW && a.v < WINDOW + WINDOW_SIZE;
    if (acc != ACCESS_EXEC && !data) {
        if (!raise) return false;
        if (!t.interpret) vcpu_sync(c);    // the interpreter keeps pc and cc itself
        t.faulted = true;
        t.fault_va = a.v;
        c->exc_pending = true;
        vcpu_leave(c);
    }
    *out = (struct tlb_fill){.page = gpa(a.v & PAGE_MASK), .prot = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC};
    return true;
}

static void g_deliver(struct vcpu *c)
{
    c->exc_pending = false;
    vcpu_request_shutdown(c, 0);
}

static bool g_false(struct vcpu *c) { return false; }
static void g_fpu_load(struct vcpu *c) { c->fpu_loaded = true; }
static void g_fpu_save(struct vcpu *c) {}
static void g_host_fault(struct vcpu *c, unsigned vector) { plat_panic("a host fault in a block without HOST ops"); }
static void g_dump(struct vcpu *c, void (*out)(void *o, const char *s), void *o) {}
static void g_reset(struct vcpu *c) {}

static const struct guest_ops ops = {.tb_mode = g_mode, .mmu_mode = g_mmu, .translate = g_translate, .tlb_fill = g_tlb_fill, .deliver_exception = g_deliver,
                                     .take_interrupt = g_false, .has_work = g_false, .host_fault = g_host_fault, .dump = g_dump,
                                     .fpu_save = g_fpu_save, .fpu_load = g_fpu_load, .reset = g_reset};

// ---- random blocks ----
static u8 any_reg(struct rng *r)
{
    u8 k;
    do k = (u8)rng_below(r, NREGS);
    while (k == BASE_A || k == BASE_B);
    return k;
}

static void set_mem(struct ir_op *op, struct rng *r, unsigned rw)
{
    op->has_mem = 1;
    op->mem_rw = rw & 3;
    op->mem.base = rng_below(r, 2) ? BASE_A : BASE_B;
    if (rng_below(r, 4) == 0) { op->mem.index = 9; op->mem.scale = (u8)rng_below(r, 4); }
    op->mem.disp = (s32)rng_below(r, 128) - 64;
}

static const u8 sizes[4] = {1, 2, 4, 8};

// d, a, b for a two-operand op d = d op b, one of them perhaps memory or immediate.
static void operands(struct ir_op *op, struct rng *r, bool has_b)
{
    op->d = op->a = any_reg(r);
    unsigned kind = (unsigned)rng_below(r, 5);
    if (kind == 0) { op->d = op->a = IR_MEM; set_mem(op, r, op->opc == IR_CMP || op->opc == IR_TEST ? 1 : 3); }
    if (has_b) op->b = any_reg(r);
    if (has_b && kind == 1) { op->b = IR_MEM; set_mem(op, r, 1); }
    if (has_b && kind == 2) { op->b = IR_IMM; op->imm = (s32)rng_next(r); if (op->size == 1) op->imm = (s8)op->imm; if (op->size == 2) op->imm = (s16)op->imm; }
    if (op->opc == IR_CMP || op->opc == IR_TEST) op->d = IR_NONE;
}

static void make_arith(struct ir_block *b, struct rng *r)
{
    static const u8 two[] = {IR_ADD, IR_OR, IR_ADC, IR_SBB, IR_AND, IR_SUB, IR_XOR, IR_CMP, IR_TEST};
    static const u8 one[] = {IR_INC, IR_DEC, IR_NEG, IR_NOT};
    bool has_b = rng_below(r, 3);
    struct ir_op *op = ir_new(b, has_b ? two[rng_below(r, 9)] : one[rng_below(r, 4)], sizes[rng_below(r, 4)]);
    operands(op, r, has_b);
    op->fdef = op->opc == IR_NOT ? 0 : op->opc == IR_INC || op->opc == IR_DEC ? FL_ALL & ~FL_C : FL_ALL;
    if (op->opc == IR_ADC || op->opc == IR_SBB) op->fuse = FL_C;
}

static void make_shift(struct ir_block *b, struct rng *r)
{
    struct ir_op *op = ir_new(b, (enum ir_opc)(IR_ROL + rng_below(r, 7)), sizes[rng_below(r, 4)]);
    operands(op, r, false);
    op->b = rng_below(r, 2) ? 1 : IR_IMM;
    op->imm = (s64)(1 + rng_below(r, op->size == 8 ? 63 : 31));
    op->fdef = FL_ALL;
    op->fuse = FL_ALL;
}

static void make_move(struct ir_block *b, struct rng *r)
{
    static const u8 opcs[] = {IR_MOV, IR_MOVZX, IR_MOVSX, IR_LEA, IR_CMOV, IR_SETCC, IR_XCHG};
    enum ir_opc opc = opcs[rng_below(r, 7)];
    struct ir_op *op = ir_new(b, opc, opc == IR_SETCC ? 1 : sizes[rng_below(r, 4)]);
    op->d = any_reg(r);
    if (opc != IR_LEA && opc != IR_SETCC) op->a = any_reg(r);
    op->cc = (u8)rng_below(r, 16);
    if (opc == IR_CMOV || opc == IR_SETCC) op->fuse = ir_cc_flags(op->cc);
    if ((opc == IR_CMOV || opc == IR_LEA) && op->size == 1) op->size = 4;
    if (opc == IR_MOVZX || opc == IR_MOVSX) {
        op->size2 = sizes[rng_below(r, 2)];
        op->size = op->size2 == 1 ? sizes[1 + rng_below(r, 3)] : sizes[2 + rng_below(r, 2)];
    }
    bool load = rng_below(r, 3) == 0, store = !load && rng_below(r, 3) == 0;
    if (opc == IR_LEA) { set_mem(op, r, 0); return; }
    if (load && opc != IR_SETCC && opc != IR_XCHG) { op->a = IR_MEM; set_mem(op, r, 1); }
    if (store && (opc == IR_MOV || opc == IR_SETCC)) { op->d = IR_MEM; set_mem(op, r, 2); }
    if (store && opc == IR_XCHG) { op->d = IR_MEM; set_mem(op, r, 3); }
    if (opc == IR_MOV && !op->has_mem && rng_below(r, 3) == 0) {
        op->a = IR_IMM;
        op->imm = (s64)rng_next(r);
        if (op->size < 8) op->imm = (s32)op->imm >> (32 - 8 * op->size);
    }
}

static void make_rest(struct ir_block *b, struct rng *r, s64 pc)
{
    struct ir_op *op;
    switch (rng_below(r, 4)) {
    case 0:
        op = ir_new(b, IR_CALL, 8);
        op->fn = helper_mix;
        op->d = rng_below(r, 2) ? any_reg(r) : IR_NONE;
        op->a = any_reg(r);
        op->b = IR_IMM;
        op->imm_b = (s32)rng_next(r);
        op->imm = (s32)rng_next(r);
        op->fuse = op->fdef = FL_ALL;
        return;
    case 1:
        op = ir_new(b, IR_BR, 0);
        op->cc = (u8)rng_below(r, 16);
        op->fuse = ir_cc_flags(op->cc);
        op->imm = PC_END + pc;
        return;
    case 2:                          // through a temporary, as an instruction with two accesses does
        op = ir_new(b, IR_MOV, 8);
        op->d = IR_T0;
        op->a = IR_MEM;
        set_mem(op, r, 1);
        op = ir_new(b, IR_MOV, 8);
        op->d = IR_MEM;
        op->a = IR_T0;
        set_mem(op, r, 2);
        return;
    default:
        op = ir_new(b, IR_IMUL, sizes[1 + rng_below(r, 3)]);
        op->d = op->a = any_reg(r);
        op->b = any_reg(r);
        op->fdef = FL_ALL;           // S, Z, A and P are unspecified: TEST defines them
        op = ir_new(b, IR_TEST, 8);
        op->a = op->b = 0;
        op->fdef = FL_ALL;
    }
}

static void make_block(struct ir_block *b, struct rng *r)
{
    *b = (struct ir_block){.pc = PC0, .mmu = 0};
    unsigned n = 1 + (unsigned)rng_below(r, 20);
    for (unsigned i = 0; i < n; i++) {
        ir_new(b, IR_INSN, 0)->imm = PC0 + 4 * i;
        unsigned what = (unsigned)rng_below(r, 10);
        if (what < 4) make_arith(b, r);
        else if (what < 5) make_shift(b, r);
        else if (what < 8) make_move(b, r);
        else make_rest(b, r, 4 * i);
    }
    if (rng_below(r, 2)) ir_new(b, IR_GOTO, 0)->imm = PC_END;
    else ir_new(b, IR_LEAVE, 0)->imm = PC_END;
}

// ---- runs ----
static void load(const struct machine_state *s)
{
    memcpy(t.c->regs, s->regs, sizeof s->regs);
    memcpy(t.ram + WINDOW, s->mem, WINDOW_SIZE);
    t.c->pc = PC0;
    t.c->cc = s->cc;
    t.c->exc_pending = t.faulted = false;
    t.fault_va = 0;
    t.c->last_tb = NULL;
}

static void save(struct machine_state *s)
{
    memcpy(s->regs, t.c->regs, sizeof s->regs);
    memcpy(s->mem, t.ram + WINDOW, WINDOW_SIZE);
    s->pc = t.c->pc;
    s->cc = t.c->cc & 0xd501;
    s->faulted = t.faulted;
    s->fault_va = t.fault_va;
}

static void show(u64 seed, const struct machine_state *a, const struct machine_state *b)
{
    printf("seed=%llu: emitted against interpreted:", (unsigned long long)seed);
    if (a->faulted != b->faulted) printf(" fault %d not %d", b->faulted, a->faulted);
    if (a->fault_va != b->fault_va) printf(" address %llx not %llx", (unsigned long long)b->fault_va, (unsigned long long)a->fault_va);
    if (a->pc != b->pc) printf(" pc %llx not %llx", (unsigned long long)b->pc, (unsigned long long)a->pc);
    if (a->cc != b->cc) printf(" cc %04x not %04x", b->cc, a->cc);
    for (int i = 0; i < NREGS; i++)
        if (a->regs[i] != b->regs[i]) printf(" g%d %llx not %llx", i, (unsigned long long)b->regs[i], (unsigned long long)a->regs[i]);
    for (unsigned i = 0; i < WINDOW_SIZE; i++)
        if (a->mem[i] != b->mem[i]) { printf(" [%x] %02x not %02x", WINDOW + i, b->mem[i], a->mem[i]); break; }
    printf("\n");
    ir_dump(&t.block);
}

static bool same(const struct machine_state *a, const struct machine_state *b)
{
    return a->faulted == b->faulted && a->fault_va == b->fault_va && a->pc == b->pc && a->cc == b->cc && !memcmp(a->regs, b->regs, sizeof a->regs) &&
           !memcmp(a->mem, b->mem, WINDOW_SIZE);
}

static void run(bool interpret, const struct machine_state *init, struct machine_state *end)
{
    t.interpret = interpret;
    (void)tb_invalidate_phys(t.tcg, gpa(PC0), PAGE_SIZE, 0);
    load(init);
    vcpu_run(t.c);
    save(end);
}

static bool round_one(u64 seed)
{
    static struct machine_state init, want, got;
    struct rng r = {seed * 77777};
    make_block(&t.block, &r);
    for (int i = 0; i < NREGS; i++) init.regs[i] = rng_below(&r, 3) ? rng_next(&r) : rng_next(&r) >> rng_below(&r, 64);
    for (unsigned i = 0; i < WINDOW_SIZE; i++) init.mem[i] = (u8)rng_next(&r);
    init.regs[BASE_A] = WINDOW + rng_below(&r, WINDOW_SIZE + 16);
    init.regs[BASE_B] = WINDOW + 0x1000 * (1 + rng_below(&r, 2)) - rng_below(&r, 70);
    init.regs[9] &= 7;
    init.cc = (u16)(((rng_next(&r) & 0xd5) | 2) << 8 | (rng_next(&r) & 1));
    run(true, &init, &want);
    run(false, &init, &got);
    if (same(&want, &got)) return true;
    show(seed, &want, &got);
    return false;
}

// ---- by hand ----
static bool by_hand(enum ir_opc opc, unsigned size, u64 a, u64 b, u16 cc, u64 want, u16 want_cc)
{
    struct ir_block *k = &t.block;
    *k = (struct ir_block){.pc = PC0};
    ir_new(k, IR_INSN, 0)->imm = PC0;
    struct ir_op *op = ir_new(k, opc, size);
    op->d = op->a = 0;
    op->b = 1;
    op->fdef = opc == IR_INC || opc == IR_DEC ? FL_ALL & ~FL_C : FL_ALL;
    ir_new(k, IR_LEAVE, 0)->imm = PC_END;
    t.c->regs[0] = a;
    t.c->regs[1] = b;
    t.c->cc = cc;
    unsigned at = 0;
    (void)ir_interp(t.c, k, &at);
    if (t.c->regs[0] == want && (t.c->cc & 0xd501) == (want_cc & 0xd501) && t.c->pc == PC_END) return true;
    printf("%s%u %llx %llx: %llx cc %04x not %llx cc %04x\n", ir_opc_name(opc), size, (unsigned long long)a, (unsigned long long)b,
           (unsigned long long)t.c->regs[0], t.c->cc & 0xd501, (unsigned long long)want, want_cc & 0xd501);
    return false;
}

// cc: high byte SZ0A0P1C, low byte O.
static unsigned by_hand_all(void)
{
    unsigned bad = 0;
    bad += !by_hand(IR_ADD, 1, 0x127f, 1, 0x0200, 0x1280, 0x9001);
    bad += !by_hand(IR_ADD, 8, ~0ull, 1, 0x0200, 0, 0x5500);
    bad += !by_hand(IR_ADD, 4, 0xffffffff80000000, 0x80000000, 0x0200, 0, 0x4501);
    bad += !by_hand(IR_SUB, 2, 0x10000, 1, 0x0200, 0x1ffff, 0x9500);
    bad += !by_hand(IR_SUB, 8, 1ull << 63, 1, 0x0200, ~0ull >> 1, 0x1401);
    bad += !by_hand(IR_ADC, 4, 0xffffffff, 0, 0x0300, 0, 0x5500);
    bad += !by_hand(IR_SBB, 1, 0, 0xff, 0x0300, 0, 0x5500);
    bad += !by_hand(IR_AND, 4, 0xf0f0f0f0f0, 0x0f, 0xd701, 0, 0x4400);
    bad += !by_hand(IR_INC, 2, 0x7fff, 0, 0x0300, 0x8000, 0x9501);
    bad += !by_hand(IR_DEC, 1, 0, 0, 0x0200, 0xff, 0x9400);
    bad += !by_hand(IR_NEG, 8, 0, 0, 0x0300, 0, 0x4400);
    bad += !by_hand(IR_XOR, 8, 5, 5, 0x9701, 0, 0x4400);
    bad += !by_hand(IR_SHL, 1, 0x81, 0x20, 0x9301, 0x81, 0x9101);   // count 0 after masking: flags stay
    return bad;
}

int main(int argc, char **argv)
{
    u64 rounds = 50000, seed = 1;
    struct tcg_config cfg = {.cache_size = TB_CACHE_DEFAULT, .max_insns = TB_MAX_INSNS};
    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "rounds=", 7)) rounds = strtoull(argv[i] + 7, NULL, 0);
        if (!strncmp(argv[i], "seed=", 5)) seed = strtoull(argv[i] + 5, NULL, 0);
        if (!strcmp(argv[i], "exit=poll")) cfg.exit_poll = true;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    t.ram = plat_pages_alloc(RAM);
    t.phys = phys_new();
    t.tcg = tcg_new(&cfg);
    t.c = plat_pages_alloc(sizeof *t.c);
    if (!t.ram || !t.phys || !t.tcg || !t.c) { fprintf(stderr, "ir_test: no memory\n"); return 2; }
    phys_add_ram(t.phys, gpa(0), RAM, t.ram, "ram");
    if (!vcpu_init(t.c, t.tcg, t.phys, &ops, 0)) return 2;
    plat_bind_vcpu(t.c);
    unsigned failed = by_hand_all(), passed = 13 - failed;
    for (u64 n = 0; n < rounds && failed < 20; n++, seed++) {
        if (round_one(seed)) passed++;
        else failed++;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
