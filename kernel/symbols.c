// The embedded symbol table: made by tools/symbols.awk from a first link, sorted by address, searched by halves. Layout of
// .ksymbols: count, then {low half of the address, offset of the name} pairs, then the names.
#include "kernel/panic.h"

struct symbol { u32 addr, name; };

struct symbol_table { u32 count, pad; struct symbol sym[]; };

extern const struct symbol_table kernel_symbols;
extern const u8 kernel_start[], kernel_text_end[], kernel_end[];

const char *symbol_find(u64 a, u64 *offset)
{
    const struct symbol_table *t = &kernel_symbols;
    if (a < (u64)kernel_start || a >= (u64)kernel_text_end || (u64)kernel_end - (u64)t < sizeof(*t)) return NULL;
    u32 lo = 0, hi = t->count;
    while (lo < hi) {
        u32 mid = lo + (hi - lo) / 2;
        if (t->sym[mid].addr <= (u32)a) lo = mid + 1;
        else hi = mid;
    }
    if (!lo) return NULL;
    const struct symbol *s = &t->sym[lo - 1];
    *offset = (u32)a - s->addr;
    return (const char *)t + s->name;
}
