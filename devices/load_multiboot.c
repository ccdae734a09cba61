// Multiboot 1 (specification version 0.6.96): a header in the first 8 KiB of the file, at a dword, says what the kernel wants.
//
// Either the header gives the load addresses itself (flag 16, for flat images), or the file is ELF: 32-bit, or 64-bit as a
// container for code that starts in 32-bit mode below 4 GiB. Segments go to their physical addresses. The information structure,
// the memory map and the command line go to low memory, modules (one: the initrd) as high as they fit. A kernel that loads over
// what we put low is refused.
#include "devices/load.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"

enum {
    MB_SEARCH = 8192, MB_FLAG_ALIGN = 1, MB_FLAG_MEM = 2, MB_FLAG_VIDEO = 4, MB_FLAG_ADDRESSES = 0x10000, MB_REQUIRED_KNOWN = 7,
    MB_REQUIRED = 0xffff,
    MBI_MEM = 1, MBI_CMDLINE = 4, MBI_MODS = 8, MBI_MMAP = 0x40, MBI_LOADER = 0x200,
    // Where the parts of the information lie, from LOAD_INFO.
    AT_INFO = 0, AT_MODULE = 0x100, AT_NAME = 0x200, AT_MMAP = 0x400,
};
#define MB_MAGIC 0x1badb002u
#define MB_EAX   0x2badb002u

struct mb {
    const struct blob *k;
    u64 header;                  // its offset in the file
    u32 flags;
    u64 entry;
    u64 first, end;              // extent of what was loaded
};

static bool header_find(const struct blob *k, u64 *at)
{
    for (u64 i = 0; i + 12 <= k->size && i + 12 <= MB_SEARCH; i += 4)
        if (blob_ld(k, i, 4) == MB_MAGIC && !(u32)(blob_ld(k, i, 4) + blob_ld(k, i + 4, 4) + blob_ld(k, i + 8, 4))) {
            *at = i;
            return true;
        }
    return false;
}

bool multiboot_probe(const struct blob *k)
{
    u64 at;
    return header_find(k, &at);
}

// Loads `fill` bytes from file offset `off` to `to` and zeroes up to `mem` bytes.
static bool part_load(struct loader *l, struct mb *m, u64 off, u64 fill, u64 to, u64 mem)
{
    const char *name = m->k->name;
    if (off > m->k->size || fill > m->k->size - off)
        return load_fail(l, "%s is cut short: it wants %llu bytes at offset %#llx of a file of %llu", name, (unsigned long long)fill,
                         (unsigned long long)off, (unsigned long long)m->k->size);
    if (mem < fill) mem = fill;
    if (!mem) return true;
    if (!load_in_ram(l, to, mem))
        return load_fail(l, "%s does not fit in memory: it needs %#llx..%#llx, "
                         "and RAM ends at %#llx; give the guest at least %llu MiB", name,
                         (unsigned long long)to, (unsigned long long)(to + mem), (unsigned long long)load_ram_end(l, MIB),
                         (unsigned long long)(to > UINT64_MAX - mem ? to / MIB : (to + mem + MIB - 1) / MIB));
    if (to < MIB && to < LOAD_CMDLINE + LOAD_CMDLINE_MAX && to + mem > LOAD_GDT)
        return load_fail(l, "%s loads at %#llx, which the boot information needs", name, (unsigned long long)to);
    load_put(l, to, m->k->data + off, fill);
    load_zero(l, to + fill, mem - fill);
    m->first = min_u64(m->first, to);
    m->end = max_u64(m->end, to + mem);
    return true;
}

// Flag 16: header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr follow the checksum.
static bool flat_load(struct loader *l, struct mb *m)
{
    const char *name = m->k->name;
    if (m->header + 32 > m->k->size) return load_fail(l, "%s: its multiboot header is cut short", name);
    u64 haddr = blob_ld(m->k, m->header + 12, 4), load = blob_ld(m->k, m->header + 16, 4), load_end = blob_ld(m->k, m->header + 20, 4);
    u64 bss_end = blob_ld(m->k, m->header + 24, 4);
    m->entry = blob_ld(m->k, m->header + 28, 4);
    if (load > haddr || haddr - load > m->header)
        return load_fail(l, "%s: the addresses in its multiboot header contradict each other", name);
    u64 off = m->header - (haddr - load);
    u64 fill = load_end ? load_end - load : m->k->size - off;
    if ((load_end && load_end < load) || (bss_end && bss_end < load + fill))
        return load_fail(l, "%s: the addresses in its multiboot header contradict each other", name);
    return part_load(l, m, off, fill, load, bss_end ? bss_end - load : fill);
}

// ---- ELF (System V ABI, chapter 4 and 5) ---------------------------------------------------------------------------

enum { ELF_CLASS64 = 2, EM_386 = 3, EM_X86_64 = 62, PT_LOAD = 1 };

struct elf_layout {          // where the fields lie, by class
    u8 ehdr, entry, phoff, phentsize, phnum, word;
    u8 p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, phdr;
};
static const struct elf_layout elf32 = {52, 24, 28, 42, 44, 4, 4, 8, 12, 16, 20, 32};
static const struct elf_layout elf64 = {64, 24, 32, 54, 56, 8, 8, 16, 24, 32, 40, 56};

// The entry is a virtual address; where a segment that holds it is loaded elsewhere, so is the entry.
static bool segment_load(struct loader *l, struct mb *m, const struct elf_layout *y, u64 ph, u64 entry)
{
    if (blob_ld(m->k, ph, 4) != PT_LOAD) return true;
    u64 vaddr = blob_ld(m->k, ph + y->p_vaddr, y->word), paddr = blob_ld(m->k, ph + y->p_paddr, y->word);
    u64 memsz = blob_ld(m->k, ph + y->p_memsz, y->word);
    if (entry >= vaddr && entry - vaddr < memsz) m->entry = paddr + (entry - vaddr);
    return part_load(l, m, blob_ld(m->k, ph + y->p_offset, y->word), blob_ld(m->k, ph + y->p_filesz, y->word), paddr, memsz);
}

static bool elf_load(struct loader *l, struct mb *m)
{
    const struct blob *k = m->k;
    if (k->size < elf32.ehdr || blob_ld(k, 0, 4) != 0x464c457f)
        return load_fail(l, "%s has a multiboot header but neither load addresses nor ELF", k->name);
    const struct elf_layout *y = k->data[4] == ELF_CLASS64 ? &elf64 : &elf32;
    u64 machine = blob_ld(k, 18, 2);
    if (k->data[5] != 1 || (machine != EM_386 && machine != EM_X86_64))
        return load_fail(l, "%s is an ELF file for another processor", k->name);
    if (k->size < y->ehdr) return load_fail(l, "%s: its ELF header is cut short", k->name);
    u64 phoff = blob_ld(k, y->phoff, y->word), size = blob_ld(k, y->phentsize, 2), n = blob_ld(k, y->phnum, 2);
    if (size < y->phdr || phoff > k->size || n * size > k->size - phoff)
        return load_fail(l, "%s: its ELF program headers are cut short", k->name);
    u64 entry = blob_ld(k, y->entry, y->word);
    m->entry = entry;
    for (u64 i = 0; i < n; i++)
        if (!segment_load(l, m, y, phoff + i * size, entry)) return false;
    if (!m->end) return load_fail(l, "%s has no ELF segment to load", k->name);
    return true;
}

// ---- the information structure ---------------------------------------------------------------------------------------

static void info_st(struct loader *l, unsigned off, u64 v) { phys_st(l->phys, gpa(LOAD_INFO + off), v, 4); }

static unsigned mmap_fill(struct loader *l)
{
    for (unsigned i = 0; i < l->nmap; i++) {
        unsigned at = AT_MMAP + 24 * i;
        info_st(l, at, 20);                       // size of the rest
        phys_st(l->phys, gpa(LOAD_INFO + at + 4), l->map[i].base, 8);
        phys_st(l->phys, gpa(LOAD_INFO + at + 12), l->map[i].size, 8);
        info_st(l, at + 20, l->map[i].type);
    }
    return 24 * l->nmap;
}

static bool module_load(struct loader *l, const struct mb *m)
{
    const struct blob *rd = &l->rq->initrd;
    if (!rd->data || !rd->size) return true;
    u64 from = max_u64(align_up(m->end, PAGE_SIZE), MIB);
    u64 at = load_place_high(l, rd->size, from, 4 * GIB);
    if (!at) return load_fail(l, "the module %s (%llu MiB) does not fit above the kernel's end (%#llx)", rd->name,
                              (unsigned long long)((rd->size + MIB - 1) / MIB), (unsigned long long)m->end);
    load_put(l, at, rd->data, rd->size);
    info_st(l, AT_MODULE, at);
    info_st(l, AT_MODULE + 4, at + rd->size);
    info_st(l, AT_MODULE + 8, LOAD_INFO + AT_NAME + 0x80);   // its string: empty
    info_st(l, 20, 1);
    info_st(l, 24, LOAD_INFO + AT_MODULE);
    return true;
}

static bool info_fill(struct loader *l, const struct mb *m)
{
    load_zero(l, LOAD_INFO, PAGE_SIZE);
    info_st(l, 4, LOAD_LOW_END / 1024);
    info_st(l, 8, (load_ram_end(l, MIB) - MIB) / 1024);
    info_st(l, 16, LOAD_CMDLINE);
    if (!module_load(l, m)) return false;
    info_st(l, 44, mmap_fill(l));
    info_st(l, 48, LOAD_INFO + AT_MMAP);
    load_put(l, LOAD_INFO + AT_NAME, "Cupel", 6);
    info_st(l, 64, LOAD_INFO + AT_NAME);
    info_st(l, 0, MBI_MEM | MBI_CMDLINE | MBI_MODS | MBI_MMAP | MBI_LOADER);
    return true;
}

bool multiboot_load(struct loader *l)
{
    struct mb m = {.k = &l->rq->kernel, .first = UINT64_MAX};
    if (!header_find(m.k, &m.header)) return load_fail(l, "%s has no multiboot header", m.k->name);
    m.flags = blob_ld(m.k, m.header + 4, 4);
    if (m.flags & MB_REQUIRED & ~MB_REQUIRED_KNOWN)
        return load_fail(l, "%s requires multiboot features %#x, which are not known", m.k->name,
            m.flags & MB_REQUIRED & ~MB_REQUIRED_KNOWN);
    if (m.flags & MB_FLAG_VIDEO) log_warn("%s asks for a video mode; there is none", m.k->name);
    if (!(m.flags & MB_FLAG_ADDRESSES ? flat_load(l, &m) : elf_load(l, &m))) return false;
    if (m.entry < m.first || m.entry >= m.end || m.end > 4 * GIB)
        return load_fail(l, "%s starts at %#llx, outside of what it loads below 4 GiB", m.k->name, (unsigned long long)m.entry);
    if (!load_cmdline(l, LOAD_CMDLINE_MAX - 1) || !info_fill(l, &m)) return false;
    load_gdt(l, false);
    *l->res = (struct load_result){.entry = m.entry, .eax = MB_EAX, .ebx = LOAD_INFO, .gdt_base = l->res->gdt_base,
        .gdt_limit = l->res->gdt_limit,
                                   .cs = l->res->cs, .ds = l->res->ds, .what = "multiboot kernel"};
    return true;
}
