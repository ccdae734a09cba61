// Flags that are undefined by the manual and that the CPU does not touch.
//
// After MUL, DIV, TZCNT and a few more, the manual calls some flags undefined, and processors differ: some write them, some leave what was
// there before. Where they are left, "what was there before" is a dead value to the translator: it says that such an instruction defines
// all its flags, so nobody keeps the old ones for it, and no program can rely on them. Such a flag is not compared - but only after the
// proof, for each input, on this CPU: the run is repeated with all arithmetic flags inverted, and the flag must follow.
#include <string.h>

#include "tcg/guest/x86/cpu.h"
#include "tcg/guest/x86/decode.h"
#include "tests/insn/coverage.h"
#include "tests/insn/state.h"

static const struct { const char *name; u64 flags; } undefined[] = {
    {"mul", EF_SF | EF_ZF | EF_AF | EF_PF}, {"imul", EF_SF | EF_ZF | EF_AF | EF_PF}, {"div", EF_ARITH}, {"idiv", EF_ARITH},
    {"tzcnt", EF_OF | EF_SF | EF_AF | EF_PF}, {"lzcnt", EF_OF | EF_SF | EF_AF | EF_PF},
    {"bsf", EF_ARITH & ~EF_ZF}, {"bsr", EF_ARITH & ~EF_ZF}, {"shld", EF_OF | EF_AF}, {"shrd", EF_OF | EF_AF},
    {"shl", EF_OF | EF_AF}, {"shr", EF_OF | EF_AF}, {"sar", EF_OF | EF_AF},
};

u64 stale_candidates(const u8 *code, u64 len, unsigned bits)
{
    struct x86_insn i;
    u64 flags = 0;
    for (; len && x86_decode(code, (unsigned)len, bits, &i) == DECODE_OK && i.len <= len; code += i.len, len -= i.len) {
        bits = coverage_bits_after(&i, bits);
        for (unsigned k = 0; k < ARRAY_SIZE(undefined); k++)
            if (!strcmp(undefined[k].name, i.desc->name)) flags |= undefined[k].flags;
    }
    return flags;
}

u64 stale_flags(u64 candidates, const struct insn_state *in, const struct insn_memory *mem, const struct insn_result *want)
{
    static struct insn_result other;
    struct insn_state inverted = *in;
    inverted.rflags ^= EF_ARITH;
    native_run(&inverted, mem, &other);
    return (want->st.rflags ^ other.st.rflags) & candidates;
}
