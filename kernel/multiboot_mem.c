// Memory of the Multiboot entry: the map and the page tables.
//
// Sources (the firmware's map, the kernel's image, modules) come in any order and overlap; what is wanted is ascending and does not. The
// sweep goes from boundary to boundary and gives each piece the highest rank among the sources that cover it. One piece of free memory then
// holds everything that must outlive this code: struct boot_info, the map and the tables of the hand-over, as boot/paging.c builds them
// under UEFI: all RAM at DIRECT_MAP_BASE, the image by 4 KiB pages, W^X.
#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/multiboot.h"

enum { SOURCES = 256, PIECES = 2 * SOURCES, PTE_P = 1, PTE_W = 2, PTE_PS = 0x80 };
#define PTE_NX BIT(63)

extern const u8 kernel_start[], kernel_rodata[], kernel_data[], kernel_symbols[], kernel_end[];

struct source { u64 from, to; enum boot_mem_type type; };

static struct {
    struct source source[SOURCES];
    unsigned sources;
    struct boot_mem piece[PIECES];
    unsigned pieces;
    u64 top;                // first address above all RAM, 4 GiB at least
    u64 next, end;          // room for tables
} mbmem;

bool mbmem_add(u64 base, u64 size, enum boot_mem_type type)
{
    u64 end;
    if (__builtin_add_overflow(base, size, &end)) end = align_down(UINT64_MAX, PAGE_SIZE);
    end = min_u64(end, BIT(52));
    struct source s = {align_down(base, PAGE_SIZE), align_up(end, PAGE_SIZE), type};
    if (type == BOOT_MEM_FREE) s = (struct source){align_up(base, PAGE_SIZE), align_down(end, PAGE_SIZE), type};
    if (s.from >= s.to) return true;
    if (mbmem.sources == SOURCES) return false;
    mbmem.source[mbmem.sources++] = s;
    return true;
}

static int mbmem_rank(enum boot_mem_type t) { return t == BOOT_MEM_LOADER ? BOOT_MEM_DEVICE + 1 : (int)t; }

// The piece that starts at `at`: its end, and whether and by what it is covered. 0: nothing is above.
static u64 mbmem_piece(u64 at, const struct source **by)
{
    u64 end = UINT64_MAX;
    *by = NULL;
    for (unsigned i = 0; i < mbmem.sources; i++) {
        const struct source *s = &mbmem.source[i];
        if (s->from > at) end = min_u64(end, s->from);
        if (s->to > at) end = min_u64(end, s->to);
        if (s->from <= at && at < s->to && (!*by || mbmem_rank(s->type) > mbmem_rank((*by)->type))) *by = s;
    }
    return end == UINT64_MAX ? 0 : end;
}

static void mbmem_sweep(void)
{
    const struct source *by;
    mbmem.pieces = 0;
    mbmem.top = 4 * GIB;
    for (u64 at = 0, end; (end = mbmem_piece(at, &by)); at = end) {
        if (!by) continue;
        struct boot_mem *last = mbmem.pieces ? &mbmem.piece[mbmem.pieces - 1] : NULL;
        if (last && last->type == by->type && last->base + last->size == at) last->size += end - at;
        else mbmem.piece[mbmem.pieces++] = (struct boot_mem){at, end - at, by->type, 0};
        if (by->type <= BOOT_MEM_ACPI) mbmem.top = max_u64(mbmem.top, end);
    }
    mbmem.top = min_u64(align_up(mbmem.top, 2 * MIB), DIRECT_MAP_SIZE);
}

// The most pages that the tables take: PML4, PDPTs, page directories, and the image's own.
static u64 mbmem_table_pages(void)
{
    return 1 + (mbmem.top / (512 * GIB) + 1) + (mbmem.top / GIB + 1) + 2 + ((u64)(kernel_end - kernel_start) / (2 * MIB) + 1);
}

struct boot_info *mbmem_reserve(void)
{
    mbmem_sweep();
    u64 head = align_up(sizeof(struct boot_info), PAGE_SIZE) + align_up(sizeof(mbmem.piece), PAGE_SIZE);
    u64 size = head + mbmem_table_pages() * PAGE_SIZE;
    for (unsigned i = 0; i < mbmem.pieces; i++) {
        const struct boot_mem *m = &mbmem.piece[i];
        u64 from = max_u64(m->base, MIB), to = min_u64(m->base + m->size, 4 * GIB);
        if (m->type != BOOT_MEM_FREE || from >= to || to - from < size) continue;
        if (!mbmem_add(from, size, BOOT_MEM_LOADER)) return NULL;
        mbmem.next = from + head;
        mbmem.end = from + size;
        return memset((void *)from, 0, size);
    }
    return NULL;
}

// ---- page tables ----

static u64 *table_below(u64 *table, unsigned i)
{
    if (!table[i]) {
        if (mbmem.next == mbmem.end) __builtin_trap();   // mbmem_table_pages counts too few
        table[i] = mbmem.next | PTE_P | PTE_W;
        mbmem.next += PAGE_SIZE;
    }
    return (u64 *)(table[i] & ~0xfffull);
}

// One entry at the level whose entries map 1 << `shift` bytes.
static void table_map(u64 *pml4, u64 virt, unsigned shift, u64 pte)
{
    u64 *t = pml4;
    for (unsigned s = 39; s > shift; s -= 9) t = table_below(t, (unsigned)bits_get(virt, s, 9));
    t[bits_get(virt, shift, 9)] = pte;
}

static void table_map_image(u64 *pml4, const u8 *from, const u8 *to, u64 prot)
{
    for (u64 v = (u64)from; v < (u64)to; v += PAGE_SIZE) table_map(pml4, v, 12, (v - KERNEL_VIRT + KERNEL_LOAD) | PTE_P | prot);
}

u64 mbmem_finish(struct boot_info *info)
{
    mbmem_sweep();   // once more: with what mbmem_reserve took
    struct boot_mem *map = (struct boot_mem *)((u64)info + align_up(sizeof(*info), PAGE_SIZE));
    memcpy(map, mbmem.piece, mbmem.pieces * sizeof(*map));
    info->mem_map_phys = (u64)map;
    info->mem_map_count = mbmem.pieces;
    u64 *pml4 = (u64 *)mbmem.next;
    mbmem.next += PAGE_SIZE;
    for (u64 a = 0; a < mbmem.top; a += 2 * MIB) table_map(pml4, DIRECT_MAP_BASE + a, 21, a | PTE_P | PTE_W | PTE_PS | PTE_NX);
    table_map_image(pml4, kernel_start, kernel_rodata, 0);
    table_map_image(pml4, kernel_rodata, kernel_data, PTE_NX);
    table_map_image(pml4, kernel_data, kernel_symbols, PTE_W | PTE_NX);
    table_map_image(pml4, kernel_symbols, kernel_end, PTE_NX);
    return (u64)pml4;
}
