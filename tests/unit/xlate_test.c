// The x86 front end without a machine: every line of insn.def is encoded in many ways (mode, ModRM, prefixes, privilege), decoded and
// translated, and the resulting block is checked against the IR's rules (ir_verify) and stricter ones:
//   - the precision rule counts helper calls and flags, too: nothing of the guest's changes before an op that may raise;
//   - flags defined and read stay within what the table says the instruction writes and reads, and a translation that is not a helper call
//     defines all that the table says (but shifts by 0);
//   - the memory operand is read and written as the table says;
//   - an instruction stays below its share of ops.
// Then single blocks against their expected text, and the driver's rules on pages, faults at fetch and the ends of blocks.
//
// Guest memory is one array of pages; helpers of other files are not linked (their addresses are only stored).
// Build: with tcg/guest/x86/{xlate*,decode*}.c and tcg/ir/ir.c, -no-pie -Wl,--unresolved-symbols=ignore-all.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/base/bits.h"
#include "tcg/guest/x86/decode.h"
#include "tcg/guest/x86/feature.h"
#include "tcg/guest/x86/helpers.h"
#include "tcg/guest/x86/xlate.h"
#include "tcg/run/softmmu.h"

enum { PAGES = 3, BASE = 0x10000 };

static struct test {
    struct x86_cpu cpu;
    u8 mem[PAGES * 4096];
    bool absent[PAGES];
    u32 mode;
    u64 cs_base;
    jmp_buf raised;
    u64 raised_at;
    struct ir_block block;
    char text[65536];
    size_t len;
    u8 bytes[16];           // of the instruction under test, for messages
    unsigned n_bytes, failed, done;
    const char *what;
} T;

// ---- what the front end asks of others -----------------------------------------------------------------------------------
NORETURN void panic(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("FAIL %s mode %#x:", T.what, T.mode);
    for (unsigned n = 0; n < T.n_bytes; n++) printf(" %02x", T.bytes[n]);
    printf(": panic: ");
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    exit(1);
}

void log_write(enum log_level lv, const char *fmt, ...) {}
unsigned trace_mask(void) { return 0; }

void trace_write(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    T.len += (size_t)vsnprintf(T.text + T.len, sizeof T.text - T.len, fmt, ap);
    va_end(ap);
}

static bool is_there(u64 a) { return a >= BASE && a < BASE + PAGES * 4096 && !T.absent[(a - BASE) >> 12]; }

static NORETURN void raise_at(u64 a)
{
    T.raised_at = a;
    longjmp(T.raised, 1);
}

unsigned mem_fetch(struct vcpu *c, struct gva a, void *buf, unsigned len, unsigned mmu, bool raise)
{
    if (!is_there(a.v)) {
        if (raise) raise_at(a.v);
        return 0;
    }
    unsigned room = 4096 - (a.v & 4095);
    if (len > room) len = room;
    memcpy(buf, T.mem + (a.v - BASE), len);
    return len;
}

struct gpa mem_code_gpa(struct vcpu *c, struct gva a, unsigned mmu)
{
    if (!is_there(a.v)) raise_at(a.v);
    return gpa(a.v + 0x100000);
}

static void tb_mode(struct vcpu *c, u64 *cs_base, u32 *mode)
{
    *cs_base = T.cs_base;
    *mode = T.mode;
}
static unsigned mmu_mode(struct vcpu *c, u32 mode) { return (mode & TBM_CPL) == 3; }
static const struct guest_ops ops = {.tb_mode = tb_mode, .mmu_mode = mmu_mode, .translate = x86_translate};

static void fail(const char *fmt, ...) PRINTF(1, 2);
static void fail(const char *fmt, ...)
{
    va_list ap;
    if (T.failed++ > 30) exit(1);
    va_start(ap, fmt);
    printf("FAIL %s mode %#x:", T.what, T.mode);
    for (unsigned n = 0; n < T.n_bytes; n++) printf(" %02x", T.bytes[n]);
    printf(": ");
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    T.len = 0;
    ir_dump(&T.block);
    printf("%s", T.text);
}

// Translates what lies at linear address `at`. False: a fetch fault was raised.
static bool translate(u64 at, unsigned max)
{
    T.cpu.v.ops = &ops;
    T.cpu.v.pc = at - T.cs_base;
    T.raised_at = 0;
    if (setjmp(T.raised)) return false;
    x86_translate(&T.cpu.v, &T.block, max);
    ir_verify(&T.block);
    return true;
}

// ---- rules for one instruction ----------------------------------------------------------------------------------------------
// The helper that only sets the pc cannot raise.
static bool may_raise(const struct ir_op *o) { return ir_may_fault(o) && !(o->opc == IR_CALL && o->fn == (void *)xlate_set_pc); }

static void check_precision(void)
{
    int changed = -1;
    for (unsigned n = 0; n < T.block.n; n++) {
        const struct ir_op *o = &T.block.ops[n];
        if (o->opc == IR_INSN) changed = -1;
        if (may_raise(o) && changed >= 0) fail("op %u may raise after op %d changed state", n, changed);
        bool writes = (u32)ir_writes(o) && o->opc != IR_CALL && o->opc != IR_HOST;
        if (o->opc == IR_HOST && o->host.reg_kind == HO_GPR && (o->host.reg_rw & 2) && o->host.reg < 16) writes = true;
        if (o->opc == IR_HOST && o->host.rm_kind == HO_GPR && (o->host.rm_rw & 2) && o->host.rm < 16) writes = true;
        if (writes || (o->fdef && o->opc != IR_CALL)) changed = (int)n;
    }
}

static void check_flags(const struct x86_insn *i)
{
    u8 def = 0, use = 0;
    bool call = false;
    for (unsigned n = 0; n < T.block.n; n++) {
        const struct ir_op *o = &T.block.ops[n];
        if (o->opc == IR_CALL) {
            call = true;
            continue;
        }
        use |= o->fuse & ~def;
        def |= o->fdef;
    }
    bool shift = i->desc->xlate == xlate_shift;
    u8 may_read = i->desc->flags_read | (shift ? FL_O : 0);
    if (def & ~i->desc->flags_written) fail("defines flags %#x, the table says %#x", def, i->desc->flags_written);
    if (use & ~may_read) fail("reads flags %#x, the table says %#x", use, i->desc->flags_read);
    if (!call && !shift && i->desc->xlate != xlate_host && def != i->desc->flags_written)
        fail("defines flags %#x only, the table says %#x", def, i->desc->flags_written);
    bool rep = i->desc->attr & IA_REP;        // a repeat count of 0 keeps the flags: the table has that, a single step not
    if (!call && !shift && !rep && i->desc->xlate != xlate_host && use != i->desc->flags_read)
        fail("reads flags %#x, the table says %#x", use, i->desc->flags_read);
}

static void check_memory(const struct x86_insn *i)
{
    unsigned rw = 0, want = 0;
    unsigned size = x86_mem_size(i, &want);
    bool call = false, stack = i->desc->xlate == xlate_pop || i->desc->xlate == xlate_push || i->desc->xlate == xlate_call;
    for (unsigned n = 0; n < T.block.n; n++) {
        const struct ir_op *o = &T.block.ops[n];
        call |= o->opc == IR_CALL;
        if (o->has_mem && o->opc != IR_LEA) rw |= o->mem_rw;
        if (o->has_mem && o->opc != IR_LEA && !o->mem_rw) fail("op %u accesses memory but mem_rw is 0", n);
        if (o->lock && !(o->has_mem && o->mem_rw == 3)) fail("op %u is locked but no read-modify-write", n);
        if (i->lock && o->has_mem && o->opc != IR_LEA && !o->lock) fail("op %u lost its LOCK", n);
    }
    if (!size || call || stack || !i->is_mem) return;
    if (rw != want) fail("memory is accessed as %u, the table says %u", rw, want);
}

static void check_block(const struct x86_insn *i, bool decoded)
{
    const struct ir_block *b = &T.block;
    if (b->n_insns != 1 || b->ops[0].opc != IR_INSN) fail("%u instructions", b->n_insns);
    if (b->n > 64) fail("%u ops", b->n);
    if (decoded && b->len != i->len) fail("length %u, decoded %u", b->len, i->len);
    for (unsigned n = 0; n < b->n; n++) {
        const struct ir_op *o = &b->ops[n];
        bool ea = o->has_mem && (o->mem.addr_size == 8 || o->mem.addr_size == 4 || o->mem.addr_size == 2);
        if (o->has_mem && !ea) fail("op %u: address size %u", n, o->mem.addr_size);
        if (o->opc == IR_HOST && o->has_mem && (o->size == 0 || o->size > 64)) fail("op %u: access of %u bytes", n, o->size);
        bool imm = o->opc != IR_MOV && o->opc != IR_CALL && o->b == IR_IMM;
        if (imm && !fits_s32(o->imm)) fail("op %u: immediate %#llx", n, (unsigned long long)o->imm);
    }
    check_precision();
}

static bool refused(const struct x86_insn *i)
{
    for (unsigned n = 0; n < T.block.n; n++) {
        const struct ir_op *o = &T.block.ops[n];
        if (o->opc == IR_CALL && (o->fn == (void *)x86_helper_ud || o->fn == (void *)x86_helper_raise)) return true;
    }
    return false;
}

// One encoding: bytes of T.bytes.
static void one_encoding(void)
{
    struct x86_insn i;
    unsigned bits = T.mode & TBM_CODE64 ? 64 : T.mode & TBM_CODE32 ? 32 : 16;
    enum decode_result r = x86_decode(T.bytes, 15, bits, &i);
    memcpy(T.mem + 64, T.bytes, 15);
    if (!translate(BASE + 64, 1)) {
        fail("fetch fault at %#llx", (unsigned long long)T.raised_at);
        return;
    }
    T.done++;
    check_block(&i, r == DECODE_OK);
    if (r != DECODE_OK || refused(&i) || (T.mode & (TBM_TF | TBM_INHIBIT | TBM_HWBP))) return;
    check_flags(&i);
    check_memory(&i);
}

// ---- encodings of a table row ------------------------------------------------------------------------------------------------
struct rng { u64 s; };
static u64 rng_next(struct rng *r)
{
    r->s ^= r->s >> 12;
    r->s ^= r->s << 25;
    r->s ^= r->s >> 27;
    return r->s * 0x2545f4914f6cdd1dull;
}

static void put(u8 b) { T.bytes[T.n_bytes++] = b; }

static void put_prefixes(const struct insn_row *row, struct rng *r)
{
    static const u8 pfx[] = {[PFX_P66] = 0x66, [PFX_PF3] = 0xf3, [PFX_PF2] = 0xf2};
    u64 x = rng_next(r);
    if (row->map >= MAP_V0F) {
        if ((x & 7) == 0) put(x & 8 ? 0x64 : 0x67);
        return;
    }
    if ((x & 7) == 0) put(0x67);
    if ((x & 0x70) == 0) put(x & 0x80 ? 0x64 : 0x2e);
    if (row->pfx >= PFX_P66) put(pfx[row->pfx]);
    else if (row->pfx == PFX_ANY && (x & 0x300) == 0) put(0x66);
    if (row->pfx == PFX_ANY && (x & 0xc00) == 0) put(x & 0x1000 ? 0xf2 : 0xf3);
    if ((row->desc.attr & IA_LOCK) && (x & 0x6000) == 0) put(0xf0);
}

static void put_opcode(const struct insn_row *row, u8 opcode, struct rng *r)
{
    static const u8 vpp[] = {[PFX_P66] = 1, [PFX_PF3] = 2, [PFX_PF2] = 3};
    u64 x = rng_next(r);
    u8 free_ = (u8)x, w = row->wl.mask & WL_W ? !!(row->wl.value & WL_W) : x >> 8 & 1;
    u8 l = row->wl.mask & WL_L ? !!(row->wl.value & WL_L) : x >> 9 & 1;
    if (row->map >= MAP_V0F) {
        put(0xc4);
        put((u8)((free_ & 0xe0) | (row->map - MAP_V0F + 1)));
        put((u8)(w << 7 | (x >> 10 & 1 ? 15 : x >> 11 & 15) << 3 | l << 2 | (row->pfx >= PFX_P66 ? vpp[row->pfx] : 0)));
    } else {
        if ((T.mode & TBM_CODE64) && (w || (x & 0x1000))) put((u8)(0x40 | w << 3 | (free_ & 7)));
        if (row->map != MAP_M0) put(0x0f);
        if (row->map == MAP_M38) put(0x38);
        if (row->map == MAP_M3A) put(0x3a);
    }
    put(opcode);
}

static void put_rest(const struct insn_row *row, struct rng *r)
{
    u8 modrm = (u8)rng_next(r);
    modrm = (u8)((modrm & ~row->form.mask) | row->form.value);
    if (row->form.mod == FORM_REG) modrm |= 0xc0;
    else if (row->form.mod == FORM_MEM && modrm >= 0xc0) modrm &= (u8)(rng_next(r) & 1 ? 0x7f : 0x3f);
    put(modrm);                                // an immediate's byte where there is no ModRM: random enough
    while (T.n_bytes < 15) put((u8)rng_next(r));
}

static const u32 modes[] = {
    TBM_CODE64 | TBM_PE | TBM_LMA | TBM_FLATSEG,
    TBM_CODE64 | TBM_PE | TBM_LMA | TBM_FLATSEG | 3,
    TBM_CODE64 | TBM_PE | TBM_LMA | TBM_FLATSEG | TBM_DF | TBM_TF,
    TBM_CODE64 | TBM_PE | TBM_LMA | TBM_FLATSEG | TBM_INHIBIT | TBM_HWBP,
    TBM_CODE64 | TBM_PE | TBM_LMA | TBM_FLATSEG | TBM_FPU_NM | TBM_SSE_OFF | TBM_AVX_OFF | TBM_TS,
    TBM_CODE32 | TBM_STACK32 | TBM_PE | TBM_FLATSEG,
    TBM_CODE32 | TBM_STACK32 | TBM_PE | 3,
    TBM_CODE32 | TBM_PE | TBM_LMA | 3,
    TBM_PE | TBM_STACK32,
    0,
    TBM_PE | TBM_VM86 | 3,
};

static void all_rows(unsigned rounds)
{
    struct rng r = {88172645463325252ull};
    for (unsigned n = 0; n < x86_insn_row_count; n++) {
        const struct insn_row *row = &x86_insn_rows[n];
        if (!row->desc.name) continue;
        T.what = row->desc.name;
        for (unsigned k = 0; k < rounds * ARRAY_SIZE(modes); k++) {
            T.mode = modes[k % ARRAY_SIZE(modes)];
            T.n_bytes = 0;
            put_prefixes(row, &r);
            put_opcode(row, row->n8 ? (u8)((row->opcode & ~7) | (rng_next(&r) & 7)) : row->opcode, &r);
            put_rest(row, &r);
            one_encoding();
        }
    }
}

static void random_bytes(unsigned count)
{
    struct rng r = {0x9e3779b97f4a7c15ull};
    T.what = "random";
    for (unsigned k = 0; k < count; k++) {
        T.mode = modes[k % ARRAY_SIZE(modes)];
        for (T.n_bytes = 0; T.n_bytes < 15;) put((u8)rng_next(&r));
        one_encoding();
    }
}

// ---- expected blocks -----------------------------------------------------------------------------------------------------------
static void say_reg(char *s, u8 r, const struct ir_op *o, bool hi)
{
    static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    char *e = s + strlen(s);
    if (r == IR_MEM) sprintf(e, " m");
    else if (r == IR_IMM && o->opc != IR_CALL) sprintf(e, " $%lld", (long long)o->imm);
    else if (r < 16) sprintf(e, " %s%s", names[r], hi ? ".h" : "");
    else if (r >= IR_T0 && r < 48) sprintf(e, " t%u", r - IR_T0);
}

// A block as text: ops separated by "; ", each "opc.size operands [address] flags".
static const char *say_block(void)
{
    static char s[4096];
    s[0] = 0;
    for (unsigned n = 0; n < T.block.n; n++) {
        const struct ir_op *o = &T.block.ops[n];
        if (o->opc == IR_INSN) continue;
        sprintf(s + strlen(s), "%s%s.%u", s[0] ? "; " : "", ir_opc_name(o->opc), o->size);
        if (o->size2) sprintf(s + strlen(s), "<%u", o->size2);
        say_reg(s, o->d, o, o->hi & 1);
        say_reg(s, o->a, o, o->hi & 2);
        say_reg(s, o->b, o, o->hi & 4);
        if (o->has_mem) {
            sprintf(s + strlen(s), " [");
            if (o->mem.seg_slot) sprintf(s + strlen(s), "s%u", (unsigned)(o->mem.seg_slot - offsetof(struct x86_cpu, seg_base)) / 8);
            say_reg(s, o->mem.base, o, false);
            say_reg(s, o->mem.index, o, false);
            sprintf(s + strlen(s), "*%u%+d]/%u", 1 << o->mem.scale, o->mem.disp, o->mem.addr_size);
        }
        if (o->opc == IR_BR || o->opc == IR_SETCC || o->opc == IR_CMOV) sprintf(s + strlen(s), " cc%u", o->cc);
        if (o->opc == IR_BR || o->opc == IR_BRCXZ || o->opc == IR_GOTO || o->opc == IR_LEAVE)
            sprintf(s + strlen(s), " ->%llx", (unsigned long long)o->imm);
        if (o->lock) strcat(s, " lock");
    }
    return s;
}

struct row { unsigned bits; const char *bytes; unsigned n; const char *want; };
#define ROW(bits, bytes, want) {bits, bytes, sizeof bytes - 1, want}
static const struct row rows[] = {
    ROW(64, "\x48\x01\xd8", "ADD.8 rax rax rbx; GOTO.8 ->10003"),
    ROW(64, "\xf0\x48\x01\x18", "ADD.8 m m rbx [ rax*1+0]/8 lock; GOTO.8 ->10004"),
    ROW(64, "\x03\x44\x98\x10", "ADD.4 rax rax m [ rax rbx*4+16]/8; GOTO.8 ->10004"),
    ROW(64, "\x80\xc4\xff", "ADD.1 rax.h rax.h $-1; GOTO.8 ->10003"),
    ROW(64, "\x40\x80\xc4\xff", "ADD.1 rsp rsp $-1; GOTO.8 ->10004"),
    ROW(64, "\x38\xe0", "CMP.1 rax rax.h; GOTO.8 ->10002"),
    ROW(64, "\x8b\x05\x10\x00\x00\x00", "MOV.4 rax m [*1+65558]/8; GOTO.8 ->10006"),
    ROW(64, "\x48\xa1\x88\x77\x66\x55\x44\x33\x22\x11", "MOV.8 t0 $1234605616436508552; MOV.8 rax m [ t0*1+0]/8; GOTO.8 ->1000a"),
    ROW(64, "\x65\x48\x8b\x04\x25\x28\x00\x00\x00", "MOV.8 rax m [s5*1+40]/8; GOTO.8 ->10009"),
    ROW(64, "\x48\x63\xc8", "MOVSX.8<4 rcx rax; GOTO.8 ->10003"),
    ROW(64, "\x66\x0f\xb7\xc8", "MOV.2 rcx rax; GOTO.8 ->10004"),
    ROW(64, "\x67\x8d\x44\x24\x08", "LEA.4 rax [ rsp*1+8]/4; GOTO.8 ->10005"),
    ROW(64, "\x50", "MOV.8 m rax [ rsp*1-8]/8; LEA.8 rsp [ rsp*1-8]/8; GOTO.8 ->10001"),
    ROW(64, "\x6a\xff", "MOV.8 m $-1 [ rsp*1-8]/8; LEA.8 rsp [ rsp*1-8]/8; GOTO.8 ->10002"),
    ROW(64, "\x5c", "MOV.8 t0 m [ rsp*1+0]/8; MOV.8 rsp t0; GOTO.8 ->10001"),
    ROW(64, "\x66\x5c", "MOVZX.4<2 t0 m [ rsp*1+0]/8; LEA.8 rsp [ rsp*1+2]/8; MOV.2 rsp t0; GOTO.8 ->10002"),
    ROW(64, "\x8f\x44\x24\x08", "MOV.8 t0 m [ rsp*1+0]/8; MOV.8 m t0 [ rsp*1+16]/8; LEA.8 rsp [ rsp*1+8]/8; GOTO.8 ->10004"),
    ROW(64, "\xff\x34\x24", "MOV.8 t0 m [ rsp*1+0]/8; MOV.8 m t0 [ rsp*1-8]/8; LEA.8 rsp [ rsp*1-8]/8; GOTO.8 ->10003"),
    ROW(64, "\xc9", "MOV.8 t0 m [ rbp*1+0]/8; LEA.8 rsp [ rbp*1+8]/8; MOV.8 rbp t0; GOTO.8 ->10001"),
    ROW(64, "\xe8\x10\x00\x00\x00", "MOV.8 m $65541 [ rsp*1-8]/8; LEA.8 rsp [ rsp*1-8]/8; GOTO.8 ->10015"),
    ROW(64, "\xff\xd4", "MOV.8 t0 rsp; MOV.8 m $65538 [ rsp*1-8]/8; LEA.8 rsp [ rsp*1-8]/8; GOTOR.8 t0"),
    ROW(64, "\xff\xd0", "MOV.8 m $65538 [ rsp*1-8]/8; LEA.8 rsp [ rsp*1-8]/8; GOTOR.8 rax"),
    ROW(64, "\xc2\x10\x00", "MOV.8 t0 m [ rsp*1+0]/8; LEA.8 rsp [ rsp*1+24]/8; GOTOR.8 t0"),
    ROW(64, "\xd3\xe0", "SHL.4 rax rax rcx; GOTO.8 ->10002"),
    ROW(64, "\x48\xc1\xf8\x3f", "SAR.8 rax rax $63; GOTO.8 ->10004"),
    ROW(64, "\x6b\x00\xff", "IMUL.4 rax m $-1 [ rax*1+0]/8; GOTO.8 ->10003"),
    ROW(64, "\x87\x18", "XCHG.4 m rbx [ rax*1+0]/8 lock; GOTO.8 ->10002"),
    ROW(64, "\x90", "GOTO.8 ->10001"),
    ROW(64, "\x49\x90", "XCHG.8 r8 rax; GOTO.8 ->10002"),
    ROW(64, "\x0f\x94\xc4", "SETCC.1 rax.h cc4; GOTO.8 ->10003"),
    ROW(64, "\x0f\x4c\x03", "CMOV.4 rax m [ rbx*1+0]/8 cc12; GOTO.8 ->10003"),
    ROW(64, "\x75\x02", "BR.8 cc5 ->10004; GOTO.8 ->10002"),
    ROW(64, "\xe3\xfe", "BRCXZ.8 ->10000; GOTO.8 ->10002"),
    ROW(64, "\x67\xe2\xfd", "LEA.4 rcx [ rcx*1-1]/4; BRCXZ.4 ->10003; GOTO.8 ->10000"),
    ROW(64, "\xe1\xfe", "LEA.8 rcx [ rcx*1-1]/8; BRCXZ.8 ->10002; BR.8 cc5 ->10002; GOTO.8 ->10000"),
    ROW(64, "\x48\xa5", "MOV.8 t0 m [ rsi*1+0]/8; MOV.8 m t0 [ rdi*1+0]/8; LEA.8 rsi [ rsi*1+8]/8; LEA.8 rdi [ rdi*1+8]/8; GOTO.8 ->10002"),
    ROW(64, "\xae", "CMP.1 rax m [ rdi*1+0]/8; LEA.8 rdi [ rdi*1+1]/8; GOTO.8 ->10001"),
    ROW(64, "\xf3\xa4", "CALL.8; GOTO.8 ->10002"),
    ROW(64, "\xfb", "CALL.8; GOTO.8 ->10001"),
    ROW(64, "\xfc", "GOTO.8 ->10001"),
    ROW(64, "\x0f\x0b", "CALL.8; LEAVER.8"),
    ROW(32, "\x40", "INC.4 rax rax; GOTO.8 ->10001"),
    ROW(32, "\x66\xc3", "MOVZX.4<2 t0 m [s2 rsp*1+0]/4; LEA.4 rsp [ rsp*1+2]/4; GOTOR.8 t0"),
    ROW(32, "\xff\xe0", "MOV.4 t0 rax; GOTOR.8 t0"),
    ROW(32, "\x66\xe9\xfc\xff", "GOTO.8 ->0"),
    ROW(32, "\xd6", "SETCC.1 t0 cc2; MOVZX.4<1 t0 t0; LEA.4 t0 [ t0*1-1]/4; NOT.4 t0 t0; MOV.1 rax t0; GOTO.8 ->10001"),
    ROW(32, "\xd7", "MOVZX.4<1 t0 rax; MOV.1 rax m [s3 rbx t0*1+0]/4; GOTO.8 ->10001"),
    ROW(16, "\x8b\x42\xfe", "MOV.2 rax m [s2 rbp rsi*1-2]/2; GOTO.8 ->3"),
    ROW(16, "\x50", "MOV.2 m rax [s2 rsp*1-2]/2; LEA.2 rsp [ rsp*1-2]/2; GOTO.8 ->1"),
    ROW(16, "\xeb\xfe", "GOTO.8 ->0"),
    ROW(16, "\xe8\xfc\xff", "MOV.2 m $3 [s2 rsp*1-2]/2; LEA.2 rsp [ rsp*1-2]/2; GOTO.8 ->ffff"),
    ROW(16, "\x66\x67\x8b\x00", "MOV.4 rax m [s3 rax*1+0]/4; GOTO.8 ->4"),
};

static void expected_blocks(void)
{
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
        const struct row *r = &rows[n];
        T.mode = r->bits == 64 ? modes[0] : r->bits == 32 ? TBM_CODE32 | TBM_STACK32 | TBM_PE : 0;
        T.cs_base = r->bits == 16 ? BASE : 0;
        T.what = "expected";
        T.n_bytes = r->n;
        memcpy(T.bytes, r->bytes, r->n);
        memcpy(T.mem, r->bytes, r->n);
        if (!translate(BASE, 1)) fail("fetch fault");
        else if (strcmp(say_block(), r->want)) fail("\n  got  %s\n  want %s", say_block(), r->want);
        T.done++;
    }
    T.cs_base = 0;
}

// ---- the driver: pages, fetch faults, ends -----------------------------------------------------------------------------------
#define CHECK(c) do { T.done++; if (!(c)) fail("line %d: %s", __LINE__, #c); } while (0)

static void driver_rules(void)
{
    struct ir_block *b = &T.block;
    const u64 g = (BASE + 0x100000) >> 12;
    T.what = "driver";
    T.n_bytes = 0;
    T.mode = modes[0];
    memset(T.mem, 0x90, sizeof T.mem);
    CHECK(translate(BASE + 4090, 100) && b->n_insns == 6 && b->len == 6 && b->page[0] == g && b->page[1] == ~0ull);
    T.mem[4094] = 0x48;                        // a three-byte instruction across the page's end
    T.mem[4095] = 0x01;
    T.mem[4096] = 0xd8;
    CHECK(translate(BASE + 4090, 100) && b->n_insns == 4 && b->len == 4 && b->ops[b->n - 1].imm == BASE + 4094);
    CHECK(translate(BASE + 4094, 100) && b->n_insns == 1 && b->len == 3 && b->page[0] == g && b->page[1] == g + 1);
    T.absent[1] = true;
    CHECK(translate(BASE + 4090, 100) && b->n_insns == 4);
    CHECK(!translate(BASE + 4094, 100) && T.raised_at == BASE + 4096);
    CHECK(!translate(BASE + 4096, 100) && T.raised_at == BASE + 4096);
    T.absent[1] = false;
    for (unsigned n = 0; n < 20; n += 2) {     // jumps not taken: the block goes on, but not for ever
        T.mem[n] = 0x75;
        T.mem[n + 1] = 0x7f;
    }
    CHECK(translate(BASE, 100) && b->n_insns == 4 && b->ops[b->n - 1].opc == IR_GOTO && b->ops[b->n - 1].imm == BASE + 8);
    T.mem[0] = 0x90;
    T.mem[1] = 0xfb;                           // STI: the block holds the next instruction too, so that the shadow costs nothing
    CHECK(translate(BASE, 2) && b->n_insns == 3);
    CHECK(translate(BASE, 1) && b->n_insns == 1);
    T.mode |= TBM_INHIBIT;
    CHECK(translate(BASE, 100) && b->n_insns == 1 && b->ops[b->n - 1].opc == IR_LEAVE);
    T.mem[0] = 0x75;
    CHECK(translate(BASE, 100) && b->n_insns == 1 && b->ops[b->n - 1].opc == IR_LEAVER);
    T.mode = modes[0];
    memset(T.mem, 0x66, 32);                   // more than 15 bytes: #GP
    CHECK(translate(BASE, 100) && b->n_insns == 1 && b->len == 15 && b->ops[1].opc == IR_CALL && b->ops[1].imm_a == EXC_GP);
    memset(T.mem, 0x90, sizeof T.mem);
    CHECK(translate(BASE, 5000) && b->n_insns > 100 && b->n <= IR_MAX_OPS);
    T.mode = modes[1];
    T.mem[0] = 0xf4;                           // HLT at CPL 3
    CHECK(translate(BASE, 100) && b->n_insns == 1 && b->ops[1].imm_a == EXC_GP && b->ops[2].opc == IR_LEAVER);
    T.mode = modes[4];
    memcpy(T.mem, "\xd9\xe8", 2);              // FLD1 with CR0.TS
    CHECK(translate(BASE, 100) && b->ops[1].imm_a == EXC_NM);
    T.mode = TBM_VM86 | TBM_PE | 3;
    memcpy(T.mem, "\x0f\x00\xc0", 3);          // SLDT outside protected mode
    CHECK(translate(BASE, 100) && b->ops[1].opc == IR_CALL && b->ops[2].opc == IR_LEAVER);
}

int main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 60;
    memset(&T.cpu.id, 0xff, sizeof T.cpu.id);
    expected_blocks();
    driver_rules();
    all_rows(rounds);
    random_bytes(rounds * 20000);
    printf("%u passed, %u failed\n", T.done - (T.failed < T.done ? T.failed : T.done), T.failed);
    return T.failed != 0;
}
