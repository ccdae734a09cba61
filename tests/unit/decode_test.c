// The decoder against libzydis: for many byte strings in 64-, 32- and 16-bit mode both must agree on validity, length, memory operand
// (segment, base, index, scale, displacement, bytes accessed), immediates, the general registers named with their widths, and flags read
// and written.
//
// Byte strings: every map x mandatory prefix x W x L x opcode x ModRM with random rest ("structured"), then random prefixes before random
// bytes. Where we differ on purpose, the instruction set extension is listed below by Zydis' name: nothing is skipped for another reason.
// Besides: the table's own rules (rows of an opcode adjoin and exclude each other) and DECODE_PARTIAL at every cut of an instruction.
//
// Usage: decode_test [random strings per mode, default 2000000]. Seeds are fixed.
#include <Zydis/Zydis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/base/bits.h"
#include "tcg/guest/x86/cpu.h"
#include "tcg/guest/x86/decode.h"
#include "tcg/ir/ir.h"

// The table names its translation functions; nobody calls them here.
#define XLATE(fn)                                                    \
    bool xlate_##fn(struct xlate *x, const struct x86_insn *i);      \
    bool xlate_##fn(struct xlate *x, const struct x86_insn *i) { return false; }
#include "tcg/guest/x86/insn.def"

// Zydis ISA sets that CPUID does not offer: #UD here.
static const char *const not_offered[] = {
    "AMD3DNOW", "VTX", "VMFUNC", "SVM", "SGX", "SGX_ENCLV", "TDX", "SMX", "SNP", "AMD_INVLPGB", "CLZERO", "MONITORX", "MCOMMIT", "RDPRU",
    "PCONFIG", "RTM", "TSX_LDTRK", "CET", "UINTR", "HRESET", "KEYLOCKER", "KEYLOCKER_WIDE", "SERIALIZE", "WAITPKG", "ENQCMD", "MOVDIR",
    "PT", "PKU", "XOP", "TBM", "LWP", "FMA4", "SSE4A", "PADLOCK_ACE", "PADLOCK_PHE", "PADLOCK_PMM", "PADLOCK_RNG", "AMX_BF16", "AMX_INT8",
    "AMX_TILE", "AVX_VNNI", "KNCE", "KNCJKBR", "KNCSTREAM", "KNCV", "KNC_MISC", "KNC_PF_HINT",
};

struct stats { unsigned long passed, failed; };
struct rng { u64 s; };

static u64 rng_next(struct rng *r)   // xorshift64*
{
    r->s ^= r->s >> 12;
    r->s ^= r->s << 25;
    r->s ^= r->s >> 27;
    return r->s * 0x2545f4914f6cdd1dull;
}

// ---- reporting ------------------------------------------------------------------------------------------------------

enum { SHOW = 200 };
struct seen { char key[SHOW][96]; unsigned n; };

// One line per kind of failure (what + mnemonic), so that a run shows all kinds and not one kind a million times.
static void report(struct stats *st, struct seen *seen, unsigned mode, const u8 *b, const char *what, const char *ours, const char *zydis,
                   const char *isa)
{
    char key[96];
    st->failed++;
    snprintf(key, sizeof key, "%s/%s/%s", what, ours, zydis);
    for (unsigned k = 0; k < seen->n; k++)
        if (!strcmp(seen->key[k], key)) return;
    if (seen->n == SHOW) return;
    strcpy(seen->key[seen->n++], key);
    printf("FAIL mode %u:", mode);
    for (unsigned k = 0; k < 16; k++) printf(" %02x", b[k]);
    printf("  %s; ours: %s, zydis: %s (%s)\n", what, ours, zydis, isa);
}

// ---- comparison -----------------------------------------------------------------------------------------------------

// VEX-encoded instructions of AVX-512's ISA sets (mask registers) and all EVEX/MVEX.
static bool isa_not_offered(const ZydisDecodedInstruction *z)
{
    const char *isa = ZydisISASetGetString(z->meta.isa_set);
    if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX || z->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX) return true;
    if (!strncmp(isa, "AVX512", 6)) return true;
    for (unsigned k = 0; k < ARRAY_SIZE(not_offered); k++)
        if (!strcmp(isa, not_offered[k])) return true;
    return false;
}

static int gpr_number(ZydisRegister r, unsigned *bytes)
{
    static const struct { ZydisRegisterClass c; unsigned bytes; } cls[] = {
        {ZYDIS_REGCLASS_GPR8, 1}, {ZYDIS_REGCLASS_GPR16, 2}, {ZYDIS_REGCLASS_GPR32, 4}, {ZYDIS_REGCLASS_GPR64, 8}};
    for (unsigned k = 0; k < ARRAY_SIZE(cls); k++) {
        if (ZydisRegisterGetClass(r) != cls[k].c) continue;
        *bytes = cls[k].bytes;
        // Zydis counts AH CH DH BH as 4..7 and SPL..DIL as 8..11
        int id = ZydisRegisterGetId(r);
        return cls[k].bytes == 1 && id >= 8 ? id - 4 : id;
    }
    return -1;
}

static u8 base_number(ZydisRegister r)
{
    unsigned bytes;
    if (r == ZYDIS_REGISTER_NONE || r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP) return 0xff;
    int n = gpr_number(r, &bytes);
    return n >= 0 ? n : ZydisRegisterGetId(r);   // VSIB
}

// Zydis 4.0.0 takes SIB base 101 with mod 00 for R13D when there is REX.B and an address size prefix; the processor knows no base there
// (tried).
static bool zydis_sib_bug(const struct x86_insn *i, const ZydisDecodedOperandMem *m)
{
    return i->bits == 64 && i->addrsize == 4 && i->mod == 0 && i->base == 0xff && !i->rip_rel && m->base == ZYDIS_REGISTER_R13D;
}

static const char *cmp_mem(const struct x86_insn *i, const ZydisDecodedOperand *o)
{
    const ZydisDecodedOperandMem *m = &o->mem;
    static const ZydisRegister segs[] = {ZYDIS_REGISTER_ES, ZYDIS_REGISTER_CS, ZYDIS_REGISTER_SS,
                                          ZYDIS_REGISTER_DS, ZYDIS_REGISTER_FS, ZYDIS_REGISTER_GS};
    if (!i->is_mem) return "memory operand";
    if (zydis_sib_bug(i, m)) return NULL;
    if (i->base != base_number(m->base)) return "base";
    if (i->index != base_number(m->index)) return "index";
    if (m->index != ZYDIS_REGISTER_NONE && 1 << i->scale != m->scale) return "scale";
    if (i->rip_rel != (m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_EIP)) return "rip-relative";
    if (bits_zext(i->disp, i->addrsize) != bits_zext(m->disp.has_displacement ? m->disp.value : 0, i->addrsize)) return "displacement";
    if (m->type == ZYDIS_MEMOP_TYPE_MEM && m->segment != segs[i->seg]) return "segment";
    return NULL;
}

// Bytes accessed. XSAVE areas have no size in the code; hints and LEA access nothing, though Zydis gives them sizes.
static const char *cmp_mem_size(const struct x86_insn *i, const ZydisDecodedOperand *o)
{
    unsigned rw, n = x86_mem_size(i, &rw);
    // MOVSXD with 16-bit operands: SDM 2 says r/m16, APM 3 and Zydis read 32 bits; the result is the same
    if (i->map == 0 && i->opcode == 0x63 && i->bits == 64 && i->opsize == 2) return NULL;
    for (unsigned k = 0; k < 4; k++)
        if (i->desc->opnd[k].size == OS_xs || (i->desc->opnd[k].rw == 0 && i->desc->opnd[k].addr)) return NULL;
    if (n != o->size / 8u) return "memory size";
    bool zr = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ, zw = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    return (rw & 1) != zr || (rw >> 1 & 1) != zw ? "memory read/write" : NULL;
}

static const char *cmp_imm(const struct x86_insn *i, const ZydisDecodedInstruction *z)
{
    unsigned n0 = z->raw.imm[0].size / 8, n1 = z->raw.imm[1].size / 8;
    if (i->imm_len != n0 + n1) return "immediate length";
    if (n0 && bits_zext(i->imm, n0) != bits_zext(z->raw.imm[0].value.u, n0)) return "immediate";
    if (n1 && bits_zext(i->imm2, n1) != bits_zext(z->raw.imm[1].value.u, n1)) return "second immediate";
    return NULL;
}

// Operands whose register width does not matter and is told differently: hint NOPs and UD0/UD1 use none, LAR and LSL 16 bits of the source.
static bool width_moot(const struct x86_insn *i, const struct insn_opnd *o)
{
    return o->rw == 0 || (o->size == OS_vw && i->map == 1 && (i->opcode == 2 || i->opcode == 3));
}

// Number of the register that operand o names, if it is a general one; else -1.
static int our_gpr(const struct x86_insn *i, const struct insn_opnd *o)
{
    switch (o->addr) {
    case OA_E: return i->is_mem ? -1 : i->rm;
    case OA_R: return i->rm;
    case OA_G: return i->reg;
    case OA_B: return i->vex_v;
    case OA_REG: return o->reg == 0xff ? i->rm : o->reg;
    default: return -1;
    }
}

static const char *cmp_regs(const struct x86_insn *i, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
    unsigned k = 0;
    for (unsigned n = 0; n < z->operand_count_visible && k < 4; n++, k++) {
        unsigned zbytes, bytes = x86_opnd_size(i, &i->desc->opnd[k], false);
        if (ops[n].type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
        int zr = gpr_number(ops[n].reg.value, &zbytes), r = our_gpr(i, &i->desc->opnd[k]);
        if (zr < 0 || r < 0) continue;
        if (width_moot(i, &i->desc->opnd[k])) continue;
        if (zr != r) return "register";
        if (zbytes != bytes) return "register width";
        bool zw = ops[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
        if (zw != (bool)(i->desc->opnd[k].rw & 2)) return "register written";
    }
    return NULL;
}

static unsigned fl_of_zydis(ZydisAccessedFlagsMask m)
{
    return (m & ZYDIS_CPUFLAG_CF ? FL_C : 0) | (m & ZYDIS_CPUFLAG_PF ? FL_P : 0) | (m & ZYDIS_CPUFLAG_AF ? FL_A : 0) |
           (m & ZYDIS_CPUFLAG_ZF ? FL_Z : 0) | (m & ZYDIS_CPUFLAG_SF ? FL_S : 0) | (m & ZYDIS_CPUFLAG_OF ? FL_O : 0);
}

// BT* leave all flags but CF alone on every known processor, though the manual allows otherwise; Zydis 4.0.0 does not know that the VEX
// forms of PTEST and VTEST* write flags.
static bool flags_differ_on_purpose(const struct x86_insn *i)
{
    bool bt = i->map == 1 && !i->vex && (i->opcode == 0xba || (i->opcode & 0xe7) == 0xa3);
    bool vtest = i->vex && i->map == 2 && (i->opcode == 0x17 || (i->opcode & 0xfe) == 0x0e);
    return bt || vtest;
}

static const char *cmp_flags(const struct x86_insn *i, const ZydisDecodedInstruction *z)
{
    const ZydisAccessedFlags *f = z->cpu_flags;
    unsigned w = fl_of_zydis(f->modified | f->set_0 | f->set_1 | f->undefined), r = fl_of_zydis(f->tested);
    if (flags_differ_on_purpose(i)) return NULL;
    if (w & ~i->desc->flags_written) return "flags written, not told";
    if (i->desc->flags_written & ~w) return "flags told written";
    if (r & ~i->desc->flags_read) return "flags read, not told";
    return NULL;
}

static const char *compare(const struct x86_insn *i, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
    const char *why = NULL;
    if (i->len != z->length) return "length";
    if (i->addrsize * 8 != z->address_width) return "address size";
    bool mem = false;
    for (unsigned n = 0; n < z->operand_count && !why; n++) {
        if (ops[n].type != ZYDIS_OPERAND_TYPE_MEMORY || ops[n].visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT) continue;
        mem = true;
        why = cmp_mem(i, &ops[n]);
        if (!why) why = cmp_mem_size(i, &ops[n]);
    }
    if (!why && i->is_mem && !mem) why = "no memory operand";
    if (!why) why = cmp_imm(i, z);
    if (!why) why = cmp_regs(i, z, ops);
    if (!why) why = cmp_flags(i, z);
    return why;
}

struct ctx { ZydisDecoder dec[3]; struct stats st; struct seen seen; };

static unsigned mode_index(unsigned mode) { return mode == 64 ? 0 : mode == 32 ? 1 : 2; }

static bool check_partial(const u8 *b, unsigned len, unsigned mode)
{
    struct x86_insn i;
    for (unsigned n = 0; n < len; n++)
        if (x86_decode(b, n, mode, &i) != DECODE_PARTIAL) return false;
    return true;
}

static void check(struct ctx *t, unsigned mode, const u8 *b)
{
    struct x86_insn i;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    enum decode_result r = x86_decode(b, 24, mode, &i);
    bool zok = ZYAN_SUCCESS(ZydisDecoderDecodeFull(&t->dec[mode_index(mode)], b, 24, &z, ops));
    const char *zname = zok ? ZydisMnemonicGetString(z.mnemonic) : "invalid", *isa = zok ? ZydisISASetGetString(z.meta.isa_set) : "";
    const char *name = r == DECODE_OK ? i.desc->name : r == DECODE_UD ? "#UD" : r == DECODE_PARTIAL ? "partial" : "too long";
    const char *why = NULL;
    if (r == DECODE_OK && zok) why = compare(&i, &z, ops);
    else if (r == DECODE_OK) why = "valid here only";
    else if (zok && !(r == DECODE_UD && isa_not_offered(&z))) why = "invalid here only";
    unsigned rw, size = r == DECODE_OK ? x86_mem_size(&i, &rw) : 0;
    if (!why && r == DECODE_OK && i.desc->xlate == xlate_host && i.is_mem && (size == 0 || size > 64)) why = "pass-through without size";
    if (!why && r == DECODE_OK && !check_partial(b, i.len, mode)) why = "cut instruction is not PARTIAL";
    if (why) report(&t->st, &t->seen, mode, b, why, name, zname, isa);
    else t->st.passed++;
}

// ---- byte strings ---------------------------------------------------------------------------------------------------

static void fill_random(struct rng *g, u8 *b, unsigned n)
{
    for (unsigned k = 0; k < n; k++) b[k] = rng_next(g) >> 56;
}

static unsigned put_legacy(u8 *b, unsigned mode, unsigned map, unsigned pp, unsigned w)
{
    static const u8 byte[] = {0, 0x66, 0xf3, 0xf2};
    unsigned n = 0;
    if (pp) b[n++] = byte[pp];
    if (w && mode == 64) b[n++] = 0x48;
    if (map) b[n++] = 0x0f;
    if (map > 1) b[n++] = map == 2 ? 0x38 : 0x3a;
    return n;
}

static unsigned put_vex(struct rng *g, u8 *b, unsigned map, unsigned pp, unsigned wl)
{
    u64 x = rng_next(g);
    b[0] = 0xc4;
    b[1] = 0xe0 | map;
    if (x & 1) b[1] ^= x & 0xe0;
    b[2] = (wl & 1) << 7 | (wl & 2) << 1 | pp | 0x78;
    if (x & 2) b[2] ^= x >> 8 & 0x78;
    return 3;
}

static void check_structured(struct ctx *t, unsigned mode, struct rng *g)
{
    u8 b[32];
    for (unsigned map = 0; map < 4; map++)
        for (unsigned v = 0; v < 24; v++)   // legacy: pp x W; VEX: pp x W x L
            for (unsigned op = 0; op < 65536; op++) {
                fill_random(g, b, sizeof b);
                if (v >= 8 && map == 0) continue;
                unsigned n = v < 8 ? put_legacy(b, mode, map, v & 3, v >> 2) : put_vex(g, b, map, v & 3, (v - 8) >> 2);
                b[n] = op >> 8;
                b[n + 1] = op;
                check(t, mode, b);
            }
}

static void check_random(struct ctx *t, unsigned mode, struct rng *g, unsigned long count)
{
    static const u8 pfx[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x40, 0x41, 0x44, 0x48, 0x4f, 0x0f, 0xc5, 0xc4, 0x66};
    u8 b[32];
    for (unsigned long k = 0; k < count; k++) {
        u64 x = rng_next(g);
        fill_random(g, b, sizeof b);
        unsigned n = x % 5;
        if (!(x >> 8 & 63)) n = x >> 14 & 15;   // up to the 15-byte limit
        for (unsigned j = 0; j < n; j++) b[j] = pfx[b[j] % sizeof pfx];
        if (x >> 20 & 1) b[n] = 0x0f;
        check(t, mode, b);
    }
}

// ---- the table's own rules ------------------------------------------------------------------------------------------

static unsigned pfx_set(u8 p)
{
    static const u8 set[] = {[PFX_ANY] = 15, [PFX_NF3] = 11, [PFX_NP] = 1, [PFX_P66] = 2, [PFX_PF3] = 4, [PFX_PF2] = 8};
    return set[p];
}

static bool rows_exclude(const struct insn_row *a, const struct insn_row *b)
{
    u8 m = a->form.mask & b->form.mask, w = a->wl.mask & b->wl.mask;
    unsigned modes = (a->desc.attr ^ b->desc.attr) & (IA_NO64 | IA_ONLY64);
    return (a->form.value & m) != (b->form.value & m) || (a->form.mod && b->form.mod && a->form.mod != b->form.mod) ||
           !(pfx_set(a->pfx) & pfx_set(b->pfx)) || (a->wl.value & w) != (b->wl.value & w) || modes == (IA_NO64 | IA_ONLY64);
}

static void check_table(struct ctx *t)
{
    for (unsigned a = 1; a < x86_insn_row_count; a++) {
        const struct insn_row *ra = &x86_insn_rows[a];
        if (!ra->desc.name) continue;
        unsigned last = x86_insn_last[ra->map][ra->opcode], bad = last < a;
        for (unsigned b = a + 1; b < x86_insn_row_count; b++) {
            const struct insn_row *rb = &x86_insn_rows[b];
            bool same = rb->desc.name && rb->map == ra->map && rb->opcode == ra->opcode;
            if (same != (b <= last)) bad = b;
            if (same && !rows_exclude(ra, rb)) bad = b;
        }
        if (bad) printf("FAIL insn.def:%u: %s and line %u overlap or stand apart\n", a, ra->desc.name, bad);
        if (bad) t->st.failed++;
        else t->st.passed++;
    }
}

int main(int argc, char **argv)
{
    static const ZydisMachineMode zmode[] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_MACHINE_MODE_LEGACY_16};
    static const unsigned modes[] = {64, 32, 16};
    static struct ctx t;
    unsigned long count = argc > 1 ? strtoul(argv[1], NULL, 0) : 2000000;
    check_table(&t);
    for (unsigned k = 0; k < 3; k++) {
        // Not offered, and then these encodings are hint NOPs or WBINVD
        static const ZydisDecoderMode off[] = {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_CLDEMOTE,
                                               ZYDIS_DECODER_MODE_WBNOINVD};
        struct rng g = {0x9e3779b97f4a7c15ull + k};
        ZydisDecoderInit(&t.dec[k], zmode[k], k == 0 ? ZYDIS_STACK_WIDTH_64 : k == 1 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16);
        for (unsigned j = 0; j < ARRAY_SIZE(off); j++) ZydisDecoderEnableMode(&t.dec[k], off[j], ZYAN_FALSE);
        check_structured(&t, modes[k], &g);
        check_random(&t, modes[k], &g, count);
    }
    printf("%lu passed, %lu failed\n", t.st.passed, t.st.failed);
    return t.st.failed != 0;
}
