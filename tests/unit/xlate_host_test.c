// Passing through, checked without running anything: every instruction that the table gives to xlate_host is decoded in 64-, 32- and 16-bit
// mode, turned into its IR_HOST op, written down by the host's byte encoder with every register left where it is and memory at [r12], and
// read back by libzydis as 64-bit code: mnemonic, registers with widths, size and direction of the memory access, immediate and which
// general registers are read and written must be what Zydis says of the guest's own bytes.
//
// Usage: xlate_host_test [rounds over all opcodes, default 4].
#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/base/log.h"
#include "tcg/guest/x86/decode.h"
#include "tcg/guest/x86/xlate.h"
#include "tcg/host/asm.h"

// ---- what xlate_host.c calls, in its smallest form; all but xlate_host itself are stubs ----
#define XLATE(fn) bool xlate_##fn(struct xlate *x, const struct x86_insn *i) __attribute__((weak));
#include "tcg/guest/x86/insn.def"
#define XLATE(fn) bool xlate_##fn(struct xlate *x, const struct x86_insn *i) { return false; }
#include "tcg/guest/x86/insn.def"

void panic(const char *fmt, ...)
{
    puts(fmt);
    abort();
}

struct ir_op *ir_new(struct ir_block *b, enum ir_opc opc, unsigned size)
{
    struct ir_op *op = &b->ops[b->n++];
    *op = (struct ir_op){.opc = opc, .size = size, .d = IR_NONE, .a = IR_NONE, .b = IR_NONE};
    return op;
}

u8 xlate_temp(struct xlate *x) { return IR_T0 + x->n_temps++; }
struct ir_mem xlate_mem(struct xlate *x, const struct x86_insn *i) { return (struct ir_mem){.base = G_R12, .index = IR_NONE, .addr_size = 8}; }
u8 xlate_get(struct xlate *x, const struct x86_insn *i, unsigned n) { return xlate_temp(x); }

struct ir_op *xlate_op(struct xlate *x, enum ir_opc opc, unsigned size, u8 d, u8 a, u8 b)
{
    struct ir_op *op = ir_new(x->b, opc, size);
    op->d = d, op->a = a, op->b = b;
    return op;
}

struct ir_op *xlate_opi(struct xlate *x, enum ir_opc opc, unsigned size, u8 d, u8 a, s64 imm)
{
    struct ir_op *op = xlate_op(x, opc, size, d, a, IR_IMM);
    op->imm = imm;
    return op;
}

// ---- writing it down ------------------------------------------------------------------------------------------------

static void encode_no_modrm(struct as *as, const struct ir_host *h)
{
    if (h->pp && h->enc == HOST_LEGACY) as_u8(as, h->pp);
    u8 rex = h->w << 3 | (h->opc_reg && h->rm >= 8);
    if (h->enc == HOST_VEX) {
        as_u8(as, 0xc5);
        as_u8(as, 0xf8 | h->l << 2);
    } else {
        if (rex) as_u8(as, 0x40 | rex);
        if (h->map) as_u8(as, 0x0f);
    }
    as_u8(as, h->opc_reg ? (h->opcode & ~7) | (h->rm & 7) : h->opcode);
}

static unsigned encode(const struct ir_op *o, u8 *buf)
{
    const struct ir_host *h = &o->host;
    struct as as = {.p = buf, .end = buf + 32};
    struct rm rm = o->has_mem ? rm_mem(H_R12, H_NONE, 0, 0) : rm_reg(h->rm + (o->hi & 2 ? 4 : 0));
    u8 reg = h->reg + (o->hi & 1 ? 4 : 0);
    bool byte = h->gpr_size == 1;
    struct enc e = {.pp = h->pp, .map = h->map, .opcode = h->opcode, .w = h->w, .lock = o->lock, .no_rex = o->hi != 0,
                    .byte_reg = byte && h->reg_kind == HO_GPR, .byte_rm = byte && h->rm_kind == HO_GPR};
    if (!h->has_modrm) encode_no_modrm(&as, h);
    else if (h->enc == HOST_VEX) as_vex(&as, h->pp, h->map, h->opcode, h->w, h->l, reg, h->v_kind ? h->v : 0, rm);
    else as_op(&as, e, reg, rm);
    as_imm(&as, o->imm, h->imm_len);
    return as.p - buf;
}

// ---- reading it back ------------------------------------------------------------------------------------------------

struct zinsn { ZydisDecodedInstruction i; ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT]; };
struct ctx { ZydisDecoder dec[3]; unsigned long passed, failed, ops; u8 shown[4096]; };

static bool is_gpr(ZydisRegister r)
{
    ZydisRegisterClass c = ZydisRegisterGetClass(r);
    return c == ZYDIS_REGCLASS_GPR8 || c == ZYDIS_REGCLASS_GPR16 || c == ZYDIS_REGCLASS_GPR32 || c == ZYDIS_REGCLASS_GPR64;
}

// The op's access bits of the place that Zydis' operand is encoded in; -1: implicit.
static int op_rw(const struct ir_host *h, const ZydisDecodedOperand *o)
{
    switch (o->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG: return h->reg_rw;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM: case ZYDIS_OPERAND_ENCODING_OPCODE: return h->rm_rw;
    case ZYDIS_OPERAND_ENCODING_NDSNDD: return h->v_rw;
    default: return -1;
    }
}

static const char *cmp_access(const struct ir_op *op, const ZydisDecodedOperand *o)
{
    bool zr = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ, zw = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        if (op->size * 8u != o->size) return "memory size";
        return op->mem_rw != (zr | zw << 1) ? "memory access" : NULL;
    }
    int rw = o->type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(o->reg.value) ? op_rw(&op->host, o) : -1;
    if (rw < 0) return NULL;
    if (zw && !(rw & 2)) return "write not told";
    return zr && !(rw & 1) ? "read not told" : NULL;
}

static const char *compare(const struct ir_op *op, const struct zinsn *a, const struct zinsn *b)
{
    if (a->i.mnemonic != b->i.mnemonic) return "mnemonic";
    if (a->i.operand_count_visible != b->i.operand_count_visible) return "operand count";
    for (unsigned n = 0; n < a->i.operand_count_visible; n++) {
        const ZydisDecodedOperand *p = &a->op[n], *q = &b->op[n];
        if (p->type != q->type) return "operand type";
        if (p->type == ZYDIS_OPERAND_TYPE_REGISTER && p->reg.value != q->reg.value) return "register";
        if (p->type == ZYDIS_OPERAND_TYPE_MEMORY && p->size != q->size) return "memory size";
        if (p->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && (p->imm.value.u & 0xff) != (q->imm.value.u & 0xff)) return "immediate";
        const char *why = cmp_access(op, p);
        if (why) return why;
    }
    return NULL;
}

static void check(struct ctx *t, unsigned k, unsigned mode, const u8 *bytes)
{
    static struct ir_block block;
    struct x86_insn i;
    struct zinsn a, b;
    u8 buf[32] = {0};
    if (x86_decode(bytes, 24, mode, &i) != DECODE_OK || i.desc->xlate != xlate_host) return;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&t->dec[k], bytes, 24, &a.i, a.op))) return;   // decode_test's business
    static struct x86_cpu cpu;                     // not of AMD's: no SDM-DIFF refuses anything
    struct xlate x = {.c = &cpu.v, .b = &block, .bits = mode};
    block.n = 0;
    xlate_host(&x, &i);
    if (block.n != 1) return;   // through temporaries: nothing to compare with
    unsigned n = encode(&block.ops[0], buf);
    const char *why = "unreadable";
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&t->dec[0], buf, n, &b.i, b.op))) why = b.i.length != n ? "length" : compare(&block.ops[0], &a, &b);
    if (!why) {
        t->passed++;
        return;
    }
    t->failed++;
    if (t->shown[a.i.mnemonic]++) return;
    printf("FAIL mode %u %s: %s; guest", mode, i.desc->name, why);
    for (unsigned j = 0; j < i.len; j++) printf(" %02x", bytes[j]);
    printf(", host");
    for (unsigned j = 0; j < n; j++) printf(" %02x", buf[j]);
    printf("\n");
}

static u64 next(u64 *s)   // xorshift64*
{
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return *s * 0x2545f4914f6cdd1dull;
}

static void sweep(struct ctx *t, unsigned k, unsigned mode, u64 *seed)
{
    static const u8 pfx[] = {0, 0x66, 0xf3, 0xf2};
    u8 b[32];
    for (unsigned v = 0; v < 64; v++)      // map (4 legacy, 3 VEX at 4..7), prefix, W
        for (unsigned op = 0; op < 65536; op++) {
            unsigned map = v & 7, pp = v >> 3 & 3, w = v >> 5, n = 0;
            for (unsigned j = 0; j < sizeof b; j++) b[j] = next(seed) >> 56;
            if (map >= 4) {
                b[n++] = 0xc4;
                b[1] = (mode == 64 ? b[1] & 0xe0 : 0xe0) | (map == 4 ? 1 : map - 4);
                b[2] = w << 7 | (b[2] & 1 ? 0x78 : b[2] & 0x78) | (b[2] & 4) | pp;
                n = 3;
            } else {
                if (b[20] & 1) b[n++] = 0xf0;
                if (pp) b[n++] = pfx[pp];
                if (b[21] & 1) b[n++] = 0x66;
                if (mode == 64 && (w || b[22] & 1)) b[n++] = 0x40 | w << 3 | (b[22] >> 1 & 7);
                if (map) b[n++] = 0x0f;
                if (map > 1) b[n++] = map == 2 ? 0x38 : 0x3a;
            }
            b[n++] = op >> 8;
            b[n] = op;
            check(t, k, mode, b);
        }
}

int main(int argc, char **argv)
{
    static struct ctx t;
    static const unsigned modes[] = {64, 32, 16};
    static const ZydisMachineMode zmode[] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_MACHINE_MODE_LEGACY_16};
    static const ZydisStackWidth width[] = {ZYDIS_STACK_WIDTH_64, ZYDIS_STACK_WIDTH_32, ZYDIS_STACK_WIDTH_16};
    unsigned rounds = argc > 1 ? atoi(argv[1]) : 4;
    u64 seed = 0x9e3779b97f4a7c15ull;
    for (unsigned k = 0; k < 3; k++) ZydisDecoderInit(&t.dec[k], zmode[k], width[k]);
    for (unsigned r = 0; r < rounds; r++)
        for (unsigned k = 0; k < 3; k++) sweep(&t, k, modes[k], &seed);
    printf("%lu passed, %lu failed\n", t.passed, t.failed);
    return t.failed != 0;
}
