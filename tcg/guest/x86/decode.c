// The x86 decoder: bytes and mode in, struct x86_insn out; pure.
//
// Order of events: legacy prefixes and REX; VEX or the 0F escapes give map, mandatory prefix and opcode; ModRM, if the opcode's rows have
// one; the row (decode_table.c); operand and address size, which depend on the row's attributes; SIB and displacement; immediates as the
// row's operands say; last, what is invalid although a row exists (LOCK, unused VEX.vvvv, registers that are not there).
//
// Running out of bytes (or beyond 15) is sticky in struct src: reads give 0 from then on and the outcome is looked at where it matters.
// EVEX, XOP and 3DNow are #UD: CPUID does not offer them.
//
// Sources: SDM 2 chapter 2 and appendix A; 2.3.5-2.3.11 for VEX.
#include "tcg/guest/x86/decode.h"
#include "kernel/base/bits.h"
#include "tcg/guest/x86/cpu.h"

enum { INSN_MAX = 15 };

struct src {
    const u8 *bytes;
    unsigned avail, pos;
    enum decode_result bad;   // DECODE_OK as long as there are bytes
    u8 rex_r, rex_x, rex_b;   // 8 or 0, from REX or VEX
    u8 map;                   // enum insn_map
    u8 pfx_pp;                // 0, 66, F3, F2 as seen
    bool vex_illegal;         // a prefix that VEX does not suffer
};

static u8 src_peek(struct src *s)
{
    if (s->bad) return 0;
    if (s->pos >= INSN_MAX) s->bad = DECODE_TOO_LONG;
    else if (s->pos >= s->avail) s->bad = DECODE_PARTIAL;
    return s->bad ? 0 : s->bytes[s->pos];
}

static u8 src_u8(struct src *s)
{
    u8 b = src_peek(s);
    if (!s->bad) s->pos++;
    return b;
}

// `n` bytes (0, 1, 2, 4, 8), little-endian, zero-extended.
static u64 src_uint(struct src *s, unsigned n)
{
    u64 v = 0;
    for (unsigned k = 0; k < n; k++) v |= (u64)src_u8(s) << k * 8;
    return v;
}

static s64 src_sint(struct src *s, unsigned n) { return n ? bits_sext(src_uint(s, n), n) : 0; }

// ---- prefixes and opcode --------------------------------------------------------------------------------------------

// In 64-bit mode the overrides of ES CS SS DS mean nothing, and do not undo an earlier FS or GS (SDM 2 2.1.1).
static void prefix_seg(struct x86_insn *i, unsigned seg)
{
    if (i->bits == 64 && seg < SEG_FS) return;
    i->seg = seg;
    i->seg_override = true;
}

// Consumes a legacy prefix b; false if b is none.
static bool prefix_legacy(struct x86_insn *i, u8 b)
{
    switch (b) {
    case 0x26: prefix_seg(i, SEG_ES); return true;
    case 0x2e: prefix_seg(i, SEG_CS); return true;
    case 0x36: prefix_seg(i, SEG_SS); return true;
    case 0x3e: prefix_seg(i, SEG_DS); return true;
    case 0x64: prefix_seg(i, SEG_FS); return true;
    case 0x65: prefix_seg(i, SEG_GS); return true;
    case 0x66: i->opsize_pfx = true; return true;
    case 0x67: i->addrsize_pfx = true; return true;
    case 0xf0: i->lock = true; return true;
    case 0xf2: case 0xf3: i->rep = b; return true;
    default: return false;
    }
}

// Prefixes up to the first opcode byte, which is returned. REX counts only right before it.
static u8 decode_prefixes(struct src *s, struct x86_insn *i)
{
    for (;;) {
        u8 b = src_u8(s);
        if (s->bad) return 0;
        if (prefix_legacy(i, b)) i->rex = 0;
        else if (i->bits == 64 && (b & 0xf0) == 0x40) i->rex = b;
        else return b;
    }
}

static const u8 pp_of_vex[4] = {0, 0x66, 0xf3, 0xf2};

// After C5 or C4: the VEX payload. False: #UD.
static bool decode_vex(struct src *s, struct x86_insn *i, u8 escape)
{
    if (i->lock || i->opsize_pfx || i->rep || i->rex) return false;
    u8 p0 = src_u8(s), map = 1, last = p0;
    s->rex_r = ~p0 >> 4 & 8;
    if (escape == 0xc4) {
        s->rex_x = ~p0 >> 3 & 8;
        s->rex_b = ~p0 >> 2 & 8;
        map = p0 & 31;
        last = src_u8(s);
        i->rex_w = last >> 7;
    }
    if (map < 1 || map > 3) return false;
    i->vex = 1;
    i->vex_v = ~last >> 3 & 15;
    i->vex_l = last >> 2 & 1;
    s->pfx_pp = pp_of_vex[last & 3];
    s->map = MAP_V0F + map - 1;
    i->opcode = src_u8(s);
    // Outside 64-bit mode there are eight registers: R and X are 1 there by the encoding's nature, B does not count
    if (i->bits != 64) s->rex_b = 0;
    return true;
}

// Opcode, map and mandatory prefix. False: #UD.
static bool decode_opcode(struct src *s, struct x86_insn *i)
{
    u8 b = decode_prefixes(s, i);
    bool vex = (b == 0xc4 || b == 0xc5) && (i->bits == 64 || src_peek(s) >= 0xc0);
    if (vex) return decode_vex(s, i, b);
    s->rex_r = (i->rex & 4) << 1;
    s->rex_x = (i->rex & 2) << 2;
    s->rex_b = (i->rex & 1) << 3;
    i->rex_w = i->rex & 8;
    s->pfx_pp = i->rep ? i->rep : i->opsize_pfx ? 0x66 : 0;
    s->map = MAP_M0;
    if (b == 0x0f) {
        s->map = MAP_M0F;
        b = src_u8(s);
        if (b == 0x38 || b == 0x3a) {
            s->map = b == 0x38 ? MAP_M38 : MAP_M3A;
            b = src_u8(s);
        }
    }
    i->opcode = b;
    return true;
}

// ---- the row --------------------------------------------------------------------------------------------------------

#define OA_BIT(a) (1ull << OA_##a)
static const u64 modrm_opnds = OA_BIT(E) | OA_BIT(G) | OA_BIT(M) | OA_BIT(C) | OA_BIT(D) | OA_BIT(S) | OA_BIT(V) | OA_BIT(W) | OA_BIT(U) |
                               OA_BIT(P) | OA_BIT(Q) | OA_BIT(N) | OA_BIT(R) | OA_BIT(STI);

static u64 row_opnds(const struct insn_desc *d)
{
    u64 m = 0;
    for (unsigned k = 0; k < 4; k++) m |= 1ull << d->opnd[k].addr;
    return m;
}

// All rows of an opcode agree on whether there is a ModRM, but ARPL / MOVSXD-like pairs agree too, so one row tells.
static bool row_has_modrm(const struct insn_row *r) { return r->form.has || (row_opnds(&r->desc) & modrm_opnds); }

static bool row_prefix_fits(const struct insn_row *r, u8 pp)
{
    switch (r->pfx) {
    case PFX_ANY: return true;
    case PFX_NF3: return pp != 0xf3;
    case PFX_NP: return pp == 0;
    case PFX_P66: return pp == 0x66;
    case PFX_PF3: return pp == 0xf3;
    default: return pp == 0xf2;
    }
}

static bool row_fits(const struct insn_row *r, const struct src *s, const struct x86_insn *i)
{
    unsigned wl = (i->vex_l ? WL_L : 0) | (i->rex_w ? WL_W : 0);
    return (i->modrm & r->form.mask) == r->form.value && (r->form.mod == FORM_ANY || (r->form.mod == FORM_REG) == (i->mod == 3)) &&
           row_prefix_fits(r, s->pfx_pp) && (wl & r->wl.mask) == r->wl.value &&
           !(r->desc.attr & (i->bits == 64 ? IA_NO64 : IA_ONLY64));
}

static const struct insn_row *row_find(const struct src *s, const struct x86_insn *i)
{
    for (const struct insn_row *r = &x86_insn_rows[x86_insn_last[s->map][i->opcode]]; r->desc.name && r->map == s->map; r--) {
        if ((r->n8 ? i->opcode & 0xf8 : i->opcode) != r->opcode) return NULL;
        if (row_fits(r, s, i)) return r;
    }
    return NULL;
}

// ---- sizes ----------------------------------------------------------------------------------------------------------

static void decode_sizes(struct x86_insn *i)
{
    bool w = i->rex_w && i->bits == 64;
    if (i->bits == 64) {
        unsigned dflt = i->desc->attr & (IA_DEF64 | IA_FORCE64) ? 8 : 4;
        i->opsize = w || i->desc->attr & IA_FORCE64 ? 8 : i->opsize_pfx ? 2 : dflt;
    } else {
        i->opsize = (i->bits == 32) != i->opsize_pfx ? 4 : 2;
    }
}

static void decode_addrsize(struct x86_insn *i)
{
    if (i->bits == 64) i->addrsize = i->addrsize_pfx ? 4 : 8;
    else i->addrsize = (i->bits == 32) != i->addrsize_pfx ? 4 : 2;
}

unsigned x86_opnd_size(const struct x86_insn *i, const struct insn_opnd *o, bool mem)
{
    unsigned x = i->vex_l ? 32 : 16, env = i->opsize == 2 ? 14 : 28;
    switch (o->size) {
    case OS_b: case OS_sb: return 1;
    case OS_w: return 2;
    case OS_d: case OS_ss: return 4;
    case OS_q: case OS_sd: return 8;
    case OS_v: return i->opsize;
    case OS_z: return i->opsize == 2 ? 2 : 4;
    case OS_y: return i->rex_w && i->bits == 64 ? 8 : 4;
    case OS_m: return i->bits == 64 ? 8 : 4;
    case OS_p: return i->opsize + 2;
    case OS_s: return i->bits == 64 ? 10 : 6;
    case OS_a: return i->opsize * 2;
    case OS_dq: return 16;
    case OS_qq: return 32;
    case OS_x: case OS_ps: case OS_pd: return x;
    case OS_xh: return x / 2;
    case OS_xq: return x / 4;
    case OS_xe: return x / 8;
    case OS_dup: return i->vex_l ? 32 : 8;
    case OS_t: return 10;
    case OS_db: return mem ? 1 : 4;
    case OS_dw: return mem ? 2 : 4;
    case OS_vw: return mem ? 2 : i->opsize;
    case OS_env: return env;
    case OS_sav: return env + 80;
    case OS_fx: return 512;
    case OS_cl: return 64;
    default: return 0;
    }
}

unsigned x86_mem_size(const struct x86_insn *i, unsigned *rw)
{
    const u64 mem = OA_BIT(E) | OA_BIT(M) | OA_BIT(W) | OA_BIT(Q) | OA_BIT(O);
    for (unsigned k = 0; k < 4 && i->is_mem; k++) {
        const struct insn_opnd *o = &i->desc->opnd[k];
        if (!(mem >> o->addr & 1)) continue;
        if (rw) *rw = o->rw;
        return o->rw ? x86_opnd_size(i, o, true) : 0;
    }
    if (rw) *rw = 0;
    return 0;
}

// ---- memory operand (SDM 2 tables 2-1 to 2-3) -----------------------------------------------------------------------

static void mem_default_seg(struct x86_insn *i, bool stack)
{
    if (!i->seg_override) i->seg = stack ? SEG_SS : SEG_DS;
}

static void decode_mem16(struct src *s, struct x86_insn *i)
{
    static const u8 base[8] = {G_RBX, G_RBX, G_RBP, G_RBP, G_RSI, G_RDI, G_RBP, G_RBX};
    static const u8 index[8] = {G_RSI, G_RDI, G_RSI, G_RDI, 0xff, 0xff, 0xff, 0xff};
    unsigned rm = i->modrm & 7;
    bool direct = i->mod == 0 && rm == 6;
    i->base = direct ? 0xff : base[rm];
    i->index = index[rm];
    i->disp = src_sint(s, direct ? 2 : i->mod);
    mem_default_seg(i, i->base == G_RBP);
}

// SIB. With VSIB every index number is a vector register.
static void decode_sib(struct src *s, struct x86_insn *i)
{
    u8 sib = src_u8(s);
    i->scale = sib >> 6;
    i->index = (sib >> 3 & 7) | s->rex_x;
    if (i->index == G_RSP && !(i->desc->attr & IA_VSIB)) i->index = 0xff;
    i->base = (sib & 7) | s->rex_b;
    if ((sib & 7) == 5 && i->mod == 0) i->base = 0xff;
}

static void decode_mem(struct src *s, struct x86_insn *i)
{
    unsigned rm = i->modrm & 7, disp_len = i->mod == 1 ? 1 : i->mod == 2 ? 4 : 0;
    if (rm == 4) {
        decode_sib(s, i);
        if (i->base == 0xff) disp_len = 4;
    } else if (rm == 5 && i->mod == 0) {
        disp_len = 4;
        i->rip_rel = i->bits == 64;
    } else {
        i->base = rm | s->rex_b;
    }
    i->disp = src_sint(s, disp_len);
    mem_default_seg(i, i->base == G_RSP || i->base == G_RBP);
}

// ---- immediates -----------------------------------------------------------------------------------------------------

static void decode_imm(struct src *s, struct x86_insn *i, unsigned len, bool sext)
{
    s64 v = sext ? src_sint(s, len) : (s64)src_uint(s, len);
    if (i->imm_len) i->imm2 = v;
    else i->imm = v;
    i->imm_len += len;
}

static void decode_immediates(struct src *s, struct x86_insn *i)
{
    for (unsigned k = 0; k < 4; k++) {
        const struct insn_opnd *o = &i->desc->opnd[k];
        unsigned size = x86_opnd_size(i, o, false);
        switch (o->addr) {
        case OA_I: decode_imm(s, i, size, o->size != OS_b && o->size != OS_w); break;
        case OA_J: decode_imm(s, i, size, true); break;
        case OA_L: decode_imm(s, i, 1, false); break;
        case OA_A:
            decode_imm(s, i, size - 2, false);
            decode_imm(s, i, 2, false);
            break;
        case OA_O:
            i->is_mem = true;
            i->disp = src_uint(s, i->addrsize);
            mem_default_seg(i, false);
            break;
        default: break;
        }
    }
}

// ---- what is invalid although the table has a row -------------------------------------------------------------------

static bool opnd_valid(struct x86_insn *i, const struct insn_opnd *o)
{
    switch (o->addr) {
    case OA_C: return i->reg == 0 || i->reg == 2 || i->reg == 3 || i->reg == 4 || i->reg == 8;
    case OA_D: return i->reg < 8;
    case OA_S: return i->reg < SEG_COUNT && !(o->rw & 2 && i->reg == SEG_CS);
    default: return true;
    }
}

static bool decode_valid(struct x86_insn *i)
{
    const struct insn_desc *d = i->desc;
    u64 opnds = row_opnds(d);
    for (unsigned k = 0; k < 4; k++)
        if (!opnd_valid(i, &d->opnd[k])) return false;
    if (i->lock && !((d->attr & IA_LOCK) && i->is_mem)) return false;
    if (i->vex && i->vex_v && !(opnds & (OA_BIT(H) | OA_BIT(B)))) return false;
    if (i->bits != 64) i->vex_v &= 7;   // the top bit does not count where vvvv is used
    // Gathers: destination, index and mask must differ (SDM 2 VPGATHER)
    if (d->attr & IA_VSIB) return i->reg != i->index && i->reg != i->vex_v && i->index != i->vex_v;
    return true;
}

// Register files of eight ignore the REX bits.
static void modrm_narrow(struct x86_insn *i)
{
    u64 opnds = row_opnds(i->desc);
    if (opnds & (OA_BIT(S) | OA_BIT(P)) || i->desc->attr & IA_X87) i->reg &= 7;
    if (!i->is_mem && (opnds & (OA_BIT(Q) | OA_BIT(N) | OA_BIT(STI)))) i->rm &= 7;
}

static void decode_modrm(struct src *s, struct x86_insn *i)
{
    i->has_modrm = true;
    i->modrm = src_u8(s);
    i->mod = i->modrm >> 6;
    i->reg = (i->modrm >> 3 & 7) | s->rex_r;
    i->rm = (i->modrm & 7) | s->rex_b;
}

// ModRM to immediates, once the row is known. False: #UD.
static bool decode_operands(struct src *s, struct x86_insn *i, const struct insn_row *r)
{
    i->desc = &r->desc;
    i->pp = r->pfx <= PFX_NF3 ? 0 : s->pfx_pp;
    decode_sizes(i);
    // MOV to and from control and debug registers ignores ModRM.mod
    bool reg_only = row_opnds(i->desc) & (OA_BIT(C) | OA_BIT(D));
    i->is_mem = i->has_modrm && i->mod != 3 && !reg_only;
    if (i->desc->attr & IA_VSIB && (i->addrsize == 2 || (i->modrm & 7) != 4)) return false;
    if (i->is_mem && i->addrsize == 2) decode_mem16(s, i);
    else if (i->is_mem) decode_mem(s, i);
    if (!i->has_modrm) i->rm = (i->opcode & 7) | s->rex_b;
    modrm_narrow(i);
    decode_immediates(s, i);
    return true;
}

enum decode_result x86_decode(const u8 *bytes, unsigned avail, unsigned mode, struct x86_insn *out)
{
    struct src s = {.bytes = bytes, .avail = avail};
    struct x86_insn *i = out;
    *i = (struct x86_insn){.bits = mode, .base = 0xff, .index = 0xff, .seg = SEG_DS};
    if (!decode_opcode(&s, i)) return s.bad ? s.bad : DECODE_UD;
    if (s.bad) return s.bad;
    unsigned last = x86_insn_last[s.map][i->opcode];
    if (!last) return DECODE_UD;
    i->map = s.map < MAP_V0F ? s.map : s.map - MAP_V0F + 1;
    decode_addrsize(i);
    if (row_has_modrm(&x86_insn_rows[last])) decode_modrm(&s, i);
    if (s.bad) return s.bad;
    const struct insn_row *r = row_find(&s, i);
    if (!r || !decode_operands(&s, i, r)) return DECODE_UD;
    i->len = s.pos;
    if (s.bad) return s.bad;
    return decode_valid(i) ? DECODE_OK : DECODE_UD;
}
