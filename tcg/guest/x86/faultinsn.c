// The softmmu knows addresses, not instructions. Four rare cases need the instruction: addresses that are not canonical (#SS or #GP),
// operands that begin where addresses end (the same, although their first byte is a page fault), operands that must be aligned, whose #GP
// goes before the page fault that the lookup finds first, and x87 errors still pending, which go before all. Here, on the way to raising a
// fault, it is decoded once more.
//
// Valid only while an instruction runs: during the delivery of an exception (exc_nest) accesses are implicit ones, and the answers are
// "no".
#include "tcg/guest/x86/faultinsn.h"

#include <string.h>

#include "kernel/base/bits.h"
#include "tcg/guest/x86/insn.h"
#include "tcg/guest/x86/system.h"
#include "tcg/run/softmmu.h"

struct insn_bytes { u8 b[16]; unsigned n; };

static void bytes_at(struct x86_cpu *c, u64 pc, struct insn_bytes *s)
{
    struct gva at = gva(x86_code64(c) ? pc : (u32)(c->seg[SEG_CS].base + pc));
    __builtin_memset(s->b, 0, sizeof s->b);
    s->n = mem_fetch(&c->v, at, s->b, 15, x86_mmu(c), false);
    if (s->n && s->n < 15) s->n += mem_fetch(&c->v, gva(at.v + s->n), s->b + s->n, 15 - s->n, x86_mmu(c), false);
}

static bool insn_of(struct x86_cpu *c, const struct insn_bytes *s, struct x86_insn *i)
{
    return x86_decode(s->b, s->n, x86_code64(c) ? 64 : c->seg[SEG_CS].attr & DESC_B ? 32 : 16, i) == DECODE_OK;
}

static bool insn_at(struct x86_cpu *c, u64 pc, struct x86_insn *i)
{
    struct insn_bytes s;
    bytes_at(c, pc, &s);
    return insn_of(c, &s, i);
}

static bool fault_insn(struct x86_cpu *c, struct x86_insn *i)
{
    vcpu_sync(&c->v);
    return c->exc_nest < 0 && insn_at(c, c->v.pc, i);
}

// Behind its prefixes, does the instruction begin as those do that may demand alignment: with 0F, VEX or EVEX? Most page faults are those
// of others, and need no decoder.
static bool begins_as_vector(struct x86_cpu *c, const struct insn_bytes *s)
{
    for (unsigned n = 0; n < s->n; n++) {
        u8 b = s->b[n];
        bool segment = (b & 0xe7) == 0x26, rex = (b & 0xf0) == 0x40 && x86_code64(c);
        if (!segment && !rex && (b < 0x64 || b > 0x67) && b != 0xf0 && b != 0xf2 && b != 0xf3) return b == 0x0f || b == 0xc4 || b == 0xc5 || b == 0x62;
    }
    return true;
}

// PUSH, POP, CALL, RET, ENTER, LEAVE, PUSHF, POPF, PUSHA, POPA, IRET. LEAVE reads at RBP, the others at RSP.
static bool uses_stack(const struct x86_insn *i)
{
    if (i->map == 1) return !i->vex && (i->opcode & 0xf6) == 0xa0;   // PUSH, POP of FS, GS
    if (i->map || i->vex) return false;
    u8 op = i->opcode;
    if (op == 0xff) return (i->modrm >> 3 & 7) == 2 || (i->modrm >> 3 & 7) == 3 || (i->modrm >> 3 & 7) == 6;
    if ((op & 0xe6) == 6 || (op >= 0x50 && op <= 0x61) || op == 0x68 || op == 0x6a || op == 0x8f || op == 0x9c || op == 0x9d) return true;
    return op == 0xc2 || op == 0xc3 || (op >= 0xc8 && op <= 0xcb) || op == 0xcf || op == 0xe8;
}

bool x86_fault_is_stack(struct x86_cpu *c)
{
    struct x86_insn i;
    if (!fault_insn(c, &i)) return false;
    u64 sp = c->v.regs[i.map == 0 && i.opcode == 0xc9 ? G_RBP : G_RSP];
    if (uses_stack(&i) && !(x86_canonical(sp) && x86_canonical(sp - 8))) return true;
    return i.is_mem && i.seg == SEG_SS;
}

// Bytes to which the memory operand must be aligned; 1: any. Legacy SSE wants 16 except where its name says unaligned (SDM 1 11.4.4,
// 12.10.3); under VEX only the moves that say aligned, to the whole vector (SDM 1 14.9).
static unsigned demanded(const struct x86_insn *i)
{
    static const char *const unaligned[] = {"movups", "movupd", "movdqu", "lddqu", "pcmpestri", "pcmpestrm", "pcmpistri", "pcmpistrm"};
    static const char *const aligned[] = {"vmovaps", "vmovapd", "vmovdqa", "vmovntps", "vmovntpd", "vmovntdq", "vmovntdqa"};
    if (!i->is_mem) return 1;
    if (i->vex) {
        for (unsigned k = 0; k < ARRAY_SIZE(aligned); k++)
            if (!strcmp(i->desc->name, aligned[k])) return i->vex_l ? 32 : 16;
        return 1;
    }
    for (unsigned k = 0; k < ARRAY_SIZE(unaligned); k++)
        if (!strcmp(i->desc->name, unaligned[k])) return 1;
    // SDM-DIFF: the SHA instructions want alignment, but AMD looks at the page first (tests/insn rows sha*).
    if (!strncmp(i->desc->name, "sha", 3)) return 1;
    for (unsigned k = 0; k < 4; k++) {
        const struct insn_opnd *o = &i->desc->opnd[k];
        if (o->addr != OA_W && o->addr != OA_M) continue;
        if (o->size == OS_x || o->size == OS_dq || o->size == OS_ps || o->size == OS_pd) return 16;
    }
    return 1;
}

static u64 operand_offset(const struct x86_cpu *c, const struct x86_insn *i)
{
    u64 a = (u64)i->disp;
    if (i->rip_rel) a += c->v.pc + i->len;
    if (i->base != 0xff) a += c->v.regs[i->base];
    if (i->index != 0xff) a += c->v.regs[i->index] << i->scale;
    return bits_zext(a, i->addrsize);
}

static u64 operand_address(const struct x86_cpu *c, const struct x86_insn *i)
{
    return operand_offset(c, i) + (i->bits == 64 && i->seg < SEG_FS ? 0 : c->seg_base[i->seg]);
}

// Is the faulting address among the bytes off..off+size-1 of segment seg, and do these reach over the end of what can be addressed: of the
// lower half of linear addresses in 64-bit code, of the segment's offsets elsewhere?
static bool over_end(const struct x86_cpu *c, const struct x86_insn *i, unsigned seg, u64 off, unsigned size, u64 lin)
{
    u64 a = off + (i->bits == 64 && seg < SEG_FS ? 0 : c->seg_base[seg]);
    if (i->bits != 64) return (u32)(lin - a) < size && off + size - 1 > 0xffffffff;
    return lin - a < size && x86_canonical(a) && !x86_canonical(a + size - 1);
}

static bool string_over_end(const struct x86_cpu *c, const struct x86_insn *i, u64 lin)
{
    for (unsigned k = 0; k < 4; k++) {
        const struct insn_opnd *o = &i->desc->opnd[k];
        if (o->addr != OA_X && o->addr != OA_Y) continue;
        u64 off = bits_zext(c->v.regs[o->addr == OA_X ? G_RSI : G_RDI], i->addrsize);
        if (over_end(c, i, o->addr == OA_X ? i->seg : SEG_ES, off, x86_opnd_size(i, o, true), lin)) return true;
    }
    return false;
}

// Of those that use the stack: PUSH, PUSHF, CALL, ENTER.
static bool pushes(const struct x86_insn *i)
{
    u8 op = i->opcode;
    if (i->map == 1) return !(op & 1);
    return (op & 0xe7) == 6 || (op & 0xf8) == 0x50 || op == 0x60 || op == 0x68 || op == 0x6a || op == 0x9c || op == 0xc8 || op == 0xe8 || op == 0xff;
}

// Pushes begin below rSP, pops at it; LEAVE reads at rBP.
static bool stack_over_end(const struct x86_cpu *c, const struct x86_insn *i, u64 lin)
{
    unsigned width = i->bits == 64 ? 8 : c->seg[SEG_SS].attr & DESC_B ? 4 : 2;
    u64 sp = c->v.regs[i->map == 0 && i->opcode == 0xc9 ? G_RBP : G_RSP];
    return over_end(c, i, SEG_SS, bits_zext(pushes(i) ? sp - i->opsize : sp, width), i->opsize, lin);
}

int x86_fault_over_end(struct x86_cpu *c, u64 lin)
{
    struct x86_insn i;
    if (!fault_insn(c, &i)) return -1;
    unsigned size = x86_mem_size(&i, NULL);
    if (size == 10) size = 8;                  // the x87's 80 bits are two accesses, the significand first
    if (strstr(i.desc->name, "maskmov")) return -1;   // each element is on its own
    if (i.is_mem && over_end(c, &i, i.seg, operand_offset(c, &i), size, lin)) return i.seg == SEG_SS ? EXC_SS : EXC_GP;
    if (uses_stack(&i) && stack_over_end(c, &i, lin)) return EXC_SS;
    return string_over_end(c, &i, lin) ? EXC_GP : -1;
}

bool x86_fault_is_misaligned(struct x86_cpu *c, u64 lin)
{
    struct x86_insn i;
    if (!(lin & 31) && (lin & ~PAGE_MASK)) return false;   // (an operand across pages faults at the second one's first byte)
    vcpu_sync(&c->v);
    if (c->exc_nest >= 0) return false;
    struct insn_bytes s;
    bytes_at(c, c->v.pc, &s);
    if (!begins_as_vector(c, &s) || !insn_of(c, &s, &i)) return false;
    unsigned align = demanded(&i);
    u64 a = operand_address(c, &i);
    return (a & (align - 1)) && lin - a < 64;
}

// Without vector registers in C, FSW is where the guest's x87 state is: in the host's x87 or in the image.
static bool x87_pending(const struct x86_cpu *c)
{
    u16 fsw = c->xsave[2];
    if (c->v.fpu_loaded) __asm__ volatile("fnstsw %0" : "=a"(fsw));
    return fsw & 0x80;
}

bool x86_fault_is_x87(struct x86_cpu *c)
{
    struct x86_insn i;
    if (!x87_pending(c) || !(c->cr0 & CR0_NE) || !fault_insn(c, &i)) return false;
    if (!strncmp(i.desc->name, "cvtpi2", 6)) return false;   // with a memory operand they do not wait before the access
    return (i.desc->attr & (IA_X87 | IA_MMX)) && strncmp(i.desc->name, "fn", 2);
}

// What CALL or RET has done to RSP is undone.
void x86_branched(struct vcpu *v, u64 from)
{
    struct x86_cpu *c = x86(v);
    struct x86_insn i;
    if (!x86_bad_target(v->pc, x86_code64(c))) return;
    if (!insn_at(c, from, &i) || i.map || i.vex) return;
    unsigned ext = i.modrm >> 3 & 7;
    if (i.opcode == 0xc2 || i.opcode == 0xc3) v->regs[G_RSP] -= i.opsize + (i.opcode == 0xc2 ? i.imm & 0xffff : 0);
    else if (i.opcode == 0xff && ext == 2) v->regs[G_RSP] += i.opsize;
    else if (i.opcode != 0xff || ext != 4) return;
    v->pc = from;
    x86_raise(c, EXC_GP, 0);
}
