// There is no disassembler on the machine: traces show bytes, which objdump reads elsewhere.
#include "kernel/base/log.h"
#include "kernel/plat.h"

void plat_disassemble(u64 pc, const u8 *code, size_t len, unsigned bits)
{
    trace_write("0x%08llx (%u-bit): ", (unsigned long long)pc, bits);
    for (size_t k = 0; k < len; k++) trace_write("%02x%s", code[k], k + 1 == len ? "\n" : k % 32 == 31 ? "\n  " : " ");
}
