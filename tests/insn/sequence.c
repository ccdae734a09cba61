// A random line of the decode table becomes an instruction: its prefixes, opcode and a ModRM that fits its form, then random bytes; the
// decoder says how many of them belong to it. Memory operands use a few registers that hold pointers, which instructions are mostly kept
// from writing, so that sequences live longer than one access. Whatever could leave the process, or differs from run to run, is left out.
#include <stdio.h>
#include <string.h>

#include "tcg/guest/x86/decode.h"
#include "tests/insn/sequence.h"

static const char left_out[] =
    " syscall sysenter sysret sysexit int1 int3 int into in out ins outs hlt retf iret jmpf callf ret jmp call jcc loop loope loopne jrcxz jcxz jecxz"
    " popf cpuid rdtsc rdtscp rdpid rdpmc rdrand rdseed sgdt sidt sldt str smsw lfs lgs lss lds les monitor mwait monitorx mwaitx clac stac vmcall vmmcall"
    " xbegin xend xabort xtest rdpkru wrpkru xgetbv xsetbv ud0 ud1 ud2 fnstenv fnsave fldenv frstor fxsave fxrstor xsave xsaveopt xsavec xsaves xrstor"
    " xrstors maskmovq maskmovdqu vmaskmovdqu cmps enter wrfsbase wrgsbase lar lsl verr verw clzero rdpru ldmxcsr vldmxcsr ";

static bool allowed(const struct insn_row *r, unsigned bits)
{
    char name[40];
    if (!r->desc.name || r->desc.attr & (IA_PRIV | IA_TODO | (bits == 64 ? IA_NO64 : IA_ONLY64))) return false;
    if (r->map == MAP_M0F && (r->opcode == 0x01 || r->opcode == 0x0d)) return false;
    if (!translated_offers(r->desc.feature)) return false;
    if (r->map == MAP_V38 && r->opcode >= 0x90 && r->opcode <= 0x93) return false;   // gathers: rows only
    if (r->desc.name[0] == 'j') return false;
    for (int i = 0; i < 4; i++)
        if (r->desc.opnd[i].addr == OA_SEGREG || r->desc.opnd[i].addr == OA_S || r->desc.opnd[i].addr == OA_J) return false;
    snprintf(name, sizeof name, " %s ", r->desc.name);
    return !strstr(left_out, name);
}

static unsigned pick_pointer(const struct sequence *s, struct rng *r)
{
    unsigned k;
    do k = (unsigned)rng_below(r, 16);
    while (!(s->pointers >> k & 1));
    return k;
}

// ModRM and what follows of the address. rex collects R, X, B (bits 2, 1, 0).
static unsigned put_modrm(u8 *p, const struct insn_row *row, const struct sequence *s, struct rng *r, unsigned *rex)
{
    u8 *start = p, modrm = (u8)rng_next(r);
    bool mem = row->form.mod == FORM_MEM || (row->form.mod == FORM_ANY && rng_below(r, 2));
    *rex = (unsigned)rng_below(r, 8) & (rng_below(r, 2) && s->bits == 64 ? 7 : 0);
    if (!mem) {
        modrm |= 0xc0;
        *p++ = (u8)((modrm & ~row->form.mask) | (row->form.value & row->form.mask));
        return 1;
    }
    unsigned base = pick_pointer(s, r);
    bool sib = (base & 7) == 4 || rng_below(r, 4) == 0;
    unsigned mod = 1 + (unsigned)rng_below(r, 2);
    if ((base & 7) != 5 && rng_below(r, 3) == 0) mod = 0;
    modrm = (u8)((modrm & 0x38 & ~row->form.mask) | (row->form.value & row->form.mask & 0x38) | mod << 6 | (sib ? 4 : (base & 7)));
    *p++ = modrm;
    *rex = (*rex & 4) | base >> 3;
    if (sib) *p++ = (u8)(4 << 3 | (base & 7) | rng_below(r, 4) << 6);   // no index: indices are in the rows
    s32 disp = (s32)rng_below(r, 0x200) - 0x100;
    if (mod == 1) *p++ = (u8)disp;
    if (mod == 2) { memcpy(p, &disp, 4); p += 4; }
    return (unsigned)(p - start);
}

static unsigned make_bytes(u8 *p, const struct insn_row *row, const struct sequence *s, struct rng *r)
{
    static const u8 pfx_byte[] = {[PFX_P66] = 0x66, [PFX_PF3] = 0xf3, [PFX_PF2] = 0xf2};
    u8 *start = p, tail[24], opcode = (u8)(row->opcode + (row->n8 ? rng_below(r, 8) : 0));
    unsigned rex, n = put_modrm(tail, row, s, r, &rex);
    for (unsigned i = n; i < sizeof tail; i++) tail[i] = (u8)rng_next(r);
    bool w = row->wl.mask & WL_W ? row->wl.value & WL_W : rng_below(r, 3) == 0;
    if (row->map >= MAP_V0F) {
        u8 l = row->wl.mask & WL_L ? !!(row->wl.value & WL_L) : (u8)rng_below(r, 2);
        u8 pp = row->pfx == PFX_P66 ? 1 : row->pfx == PFX_PF3 ? 2 : row->pfx == PFX_PF2 ? 3 : 0, v = (u8)rng_below(r, 16);
        if (rng_below(r, 3) == 0) v = 15;
        *p++ = 0xc4;
        *p++ = (u8)((~rex & 7) << 5 | (1 + row->map - MAP_V0F));
        *p++ = (u8)(w << 7 | v << 3 | l << 2 | pp);
    } else {
        if (row->desc.attr & IA_LOCK && rng_below(r, 6) == 0) *p++ = 0xf0;
        if (row->desc.attr & IA_REP && rng_below(r, 3) == 0) *p++ = rng_below(r, 2) ? 0xf3 : 0xf2;
        if (row->pfx >= PFX_P66) *p++ = pfx_byte[row->pfx];
        else if (row->pfx != PFX_NP && rng_below(r, 5) == 0) *p++ = 0x66;
        if (rng_below(r, 20) == 0) *p++ = rng_below(r, 2) || s->bits != 64 ? 0x67 : 0x65;   // (limits of segments are not checked)
        if (s->bits == 64 && (rex || w || rng_below(r, 4) == 0)) *p++ = (u8)(0x40 | w << 3 | rex);
        if (row->map != MAP_M0) *p++ = 0x0f;
        if (row->map == MAP_M38) *p++ = 0x38;
        if (row->map == MAP_M3A) *p++ = 0x3a;
    }
    *p++ = opcode;
    memcpy(p, tail, sizeof tail);
    return (unsigned)(p - start) + sizeof tail;
}

static bool writes_gpr(const struct x86_insn *i, u16 set)
{
    for (int k = 0; k < 4; k++) {
        const struct insn_opnd *o = &i->desc->opnd[k];
        if (!(o->rw & 2)) continue;
        unsigned reg = 99;
        if (o->addr == OA_G) reg = i->reg;
        else if ((o->addr == OA_E || o->addr == OA_R) && !i->is_mem) reg = i->rm;
        else if (o->addr == OA_B) reg = i->vex_v;
        else if (o->addr == OA_REG) reg = o->reg == 0xff ? (unsigned)(i->opcode & 7) | (unsigned)(i->rex & 1) << 3 : o->reg;
        if (reg < 16 && set >> reg & 1) return true;
    }
    return false;
}

// See stale.c: something must define the flags before they are looked at.
static bool leaves_stale_flags(const char *name)
{
    static const char names[] = " mul imul div idiv tzcnt lzcnt bsf bsr ";
    char word[40];
    snprintf(word, sizeof word, " %s ", name);
    return strstr(names, word);
}

static void make_insn(struct seq_item *it, const struct sequence *s, struct rng *r)
{
    for (;;) {
        const struct insn_row *row = &x86_insn_rows[rng_below(r, x86_insn_row_count)];
        if (!allowed(row, s->bits)) continue;
        // Vector lines are most of the table; integers and flags are where translation is.
        if ((row->map != MAP_M0 || (row->opcode >= 0xd8 && row->opcode <= 0xdf)) && rng_below(r, 3)) continue;
        u8 bytes[48];
        struct x86_insn i;
        make_bytes(bytes, row, s, r);
        if (x86_decode(bytes, 15, s->bits, &i) != DECODE_OK || i.desc != &row->desc) continue;
        if (writes_gpr(&i, (u16)(s->pointers | 1 << 4)) && rng_below(r, 12)) continue;
        it->kind = SEQ_INSN;
        it->len = i.len;
        it->name = row->desc.name;
        memcpy(it->bytes, bytes, i.len);
        if (leaves_stale_flags(row->desc.name)) {   // test %eax, %eax
            it->bytes[it->len++] = 0x85;
            it->bytes[it->len++] = 0xc0;
        }
        return;
    }
}

void sequence_make(struct sequence *s, unsigned bits, struct rng *r)
{
    memset(s, 0, sizeof *s);
    s->bits = bits;
    s->n = 1 + (unsigned)rng_below(r, SEQ_MAX);
    for (int k = 0; k < 4; k++) s->pointers |= (u16)(1 << (3 + rng_below(r, bits == 64 ? 13 : 5)));
    for (unsigned i = 0; i < s->n; i++) {
        struct seq_item *it = &s->item[i];
        unsigned what = (unsigned)rng_below(r, 40);
        it->to = (u8)(i + 1 + rng_below(r, s->n - i));
        it->op = (u8)rng_below(r, 16);
        if (what < 4) { it->kind = SEQ_JCC; it->name = "jcc"; }
        else if (what == 4) { it->kind = SEQ_LOOP; it->op = (u8)(0xe0 + (it->op & 3)); it->name = "loop/jrcxz"; }
        else if (what == 5) { it->kind = SEQ_CALL; it->name = "call"; }
        else if (what == 6 && it->op < 4) { it->kind = SEQ_JMP; it->name = "jmp"; }
        else make_insn(it, s, r);
    }
}

static unsigned item_len(const struct seq_item *it)
{
    switch (it->kind) {
    case SEQ_INSN: return it->len;
    case SEQ_JCC: return 6;
    case SEQ_LOOP: return 4;    // loop +2; nop2 would do: the branch jumps to a rel8 distance or, when that is too far, is a NOP
    default: return 5;
    }
}

unsigned sequence_layout(const struct sequence *s, u8 *code, unsigned size)
{
    unsigned at[SEQ_MAX + 1], pos = 0;
    for (unsigned i = 0; i < s->n; i++) { at[i] = pos; pos += item_len(&s->item[i]); }
    at[s->n] = pos;
    if (pos + 2 > size) return 0;
    for (unsigned i = 0; i < s->n; i++) {
        const struct seq_item *it = &s->item[i];
        u8 *p = code + at[i];
        s32 rel = (s32)at[it->to] - (s32)at[i] - (s32)item_len(it);
        switch (it->kind) {
        case SEQ_INSN: memcpy(p, it->bytes, it->len); break;
        case SEQ_JCC: p[0] = 0x0f; p[1] = (u8)(0x80 | it->op); memcpy(p + 2, &rel, 4); break;
        case SEQ_LOOP:
            memcpy(p, rel + 2 < 128 ? (u8[]){it->op, (u8)(rel + 2), 0x66, 0x90} : (u8[]){0x0f, 0x1f, 0x40, 0}, 4);
            break;
        case SEQ_CALL: p[0] = 0xe8; memcpy(p + 1, &rel, 4); break;
        case SEQ_JMP: p[0] = 0xe9; memcpy(p + 1, &rel, 4); break;
        }
    }
    code[pos] = 0x0f;
    code[pos + 1] = 0x0b;
    return pos + 2;
}

void sequence_remove(struct sequence *s, unsigned at)
{
    for (unsigned i = 0; i < s->n; i++)
        if (s->item[i].to > at && s->item[i].to > i + 1) s->item[i].to--;
    memmove(&s->item[at], &s->item[at + 1], (s->n - at - 1) * sizeof s->item[0]);
    s->n--;
    for (unsigned i = 0; i < s->n; i++) {
        if (s->item[i].to <= i) s->item[i].to = (u8)(i + 1);
        if (s->item[i].to > s->n) s->item[i].to = (u8)s->n;
    }
}

void sequence_print(const struct sequence *s)
{
    u8 code[1024];
    unsigned len = sequence_layout(s, code, sizeof code), pos = 0;
    for (unsigned i = 0; i < s->n; i++) {
        printf("    %-14s", s->item[i].name);
        for (unsigned k = 0; k < item_len(&s->item[i]); k++) printf(" %02x", code[pos++]);
        printf("\n");
    }
    printf("    .byte");
    for (unsigned k = 0; k + 2 < len; k++) printf("%s0x%02x", k ? "," : " ", code[k]);
    printf("\n");
}
