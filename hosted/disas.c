// Disassembly for -d in_asm and out_asm, by libZydis.
#include <Zydis/Zydis.h>

#include "kernel/base/log.h"
#include "kernel/plat.h"

void plat_disassemble(u64 pc, const u8 *code, size_t len, unsigned bits)
{
    ZydisMachineMode mode = bits == 64 ? ZYDIS_MACHINE_MODE_LONG_64 : bits == 32 ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LEGACY_16;
    ZydisDisassembledInstruction i;
    for (size_t at = 0; at < len;) {
        size_t n = 1;
        const char *text = "(bad)";
        if (ZYAN_SUCCESS(ZydisDisassembleATT(mode, pc + at, code + at, len - at, &i))) {
            n = i.info.length;
            text = i.text;
        }
        trace_write("0x%08llx:  ", (unsigned long long)(pc + at));
        for (size_t k = 0; k < n; k++) trace_write("%02x ", code[at + k]);
        trace_write("%*s%s\n", (int)(n < 11 ? 3 * (11 - n) : 0), "", text);
        at += n;
    }
}
