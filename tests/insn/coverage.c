// Coverage of the decode table: every line that user-mode code can run, 64-bit or 32-bit, must be decoded from some row. What cannot be
// compared with the CPU from a Linux process is listed with its reason.
#include <stdio.h>
#include <string.h>

#include "tcg/guest/x86/decode.h"
#include "tests/insn/coverage.h"
#include "tests/insn/state.h"

enum { MAX_LINES = 8192 };
static bool seen[MAX_LINES];

static const struct { const char *names, *why; } excluded[] = {
    {"syscall sysenter sysret int1", "enters Linux; tested elsewhere: boot"},
    {"cpuid rdtsc rdtscp rdpid rdpmc rdrand rdseed", "differs by design or at every run; tested elsewhere: boot"},
    {"sgdt sidt sldt str smsw", "UMIP: emulated by Linux; tested elsewhere: boot"},
    {"monitor mwait monitorx mwaitx clac stac vmcall vmmcall xend xtest xabort xbegin", "not in user mode or not offered"},
    {"rdpkru wrpkru", "protection keys are not switched on for the guest"},
};

static const char *why_excluded(const struct insn_desc *d)
{
    if (d->attr & IA_PRIV) return "privileged; tested elsewhere: boot";
    if (d->attr & IA_TODO) return "not translated yet";
    for (unsigned i = 0; i < ARRAY_SIZE(excluded); i++) {
        size_t len = strlen(d->name);
        for (const char *p = excluded[i].names; (p = strstr(p, d->name)); p += len)
            if ((p == excluded[i].names || p[-1] == ' ') && (p[len] == ' ' || !p[len])) return excluded[i].why;
    }
    return NULL;
}

unsigned coverage_bits_after(const struct x86_insn *i, unsigned bits)
{
    if (i->map || i->opcode != 0xea) return bits;
    return i->imm2 == SEL_L_CODE16 ? 16 : i->imm2 == SEL_CODE64 ? 64 : i->imm2 == SEL_CODE32 || i->imm2 == SEL_L_CODE32 ? 32 : bits;
}

void coverage_mark(const u8 *code, u64 len, unsigned bits)
{
    struct x86_insn i;
    while (len && x86_decode(code, (unsigned)len, bits, &i) == DECODE_OK) {
        u64 line = (u64)((const char *)i.desc - (const char *)x86_insn_rows) / sizeof x86_insn_rows[0];
        if (line < MAX_LINES) seen[line] = true;
        if (i.len > len) return;
        bits = coverage_bits_after(&i, bits);
        code += i.len;
        len -= i.len;
    }
}

bool coverage_offered(const u8 *code, u64 len, unsigned bits)
{
    struct x86_insn i;
    for (; len && x86_decode(code, (unsigned)len, bits, &i) == DECODE_OK && i.len <= len; code += i.len, len -= i.len) {
        if (!translated_offers(i.desc->feature)) return false;
        bits = coverage_bits_after(&i, bits);
    }
    return true;
}

void coverage_report(unsigned *passed, unsigned *failed)
{
    static const char *const maps[] = {"M0", "M0F", "M38", "M3A", "V0F", "V38", "V3A"};
    unsigned out = 0, missing = 0;
    for (unsigned n = 0; n < x86_insn_row_count && n < MAX_LINES; n++) {
        const struct insn_row *r = &x86_insn_rows[n];
        if (!r->desc.name) continue;
        if (seen[n]) { ++*passed; continue; }
        // 0F 0D with a register operand: #UD on AMD, NOP on Intel.
        if (why_excluded(&r->desc) || (r->map == MAP_M0F && r->opcode == 0x0d && r->form.mod != FORM_MEM)) { out++; continue; }
        ++*failed;
        if (missing++ < 60) printf("no row for line %u: %s %s %02x (pfx %u, form %02x/%02x)\n", n, r->desc.name, maps[r->map], r->opcode, r->pfx,
                                   r->form.value, r->form.mask);
    }
    printf("decode table: %u lines without a row, %u excluded with a reason\n", missing, out);
}
