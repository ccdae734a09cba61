// The vDSO's clock_gettime: the kernel maps a small ELF library into every process and tells its address in the auxiliary vector. A C
// library's call is a jump into it; so is ours, after the symbol has been looked up by hand (System V gABI: dynamic section, DT_HASH).
#include <linux/auxvec.h>
#include <linux/elf.h>

#include "assay/linux/work.h"

static bool same(const char *a, const char *b)
{
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

vdso_clock *vdso_find(void)
{
    u64 base = work_env->vdso, load = 0, symtab = 0, strtab = 0, hash = 0;
    if (!base) return NULL;
    const Elf64_Ehdr *e = (const Elf64_Ehdr *)base;
    const Elf64_Phdr *ph = (const Elf64_Phdr *)(base + e->e_phoff);
    const Elf64_Dyn *dyn = NULL;
    for (unsigned i = 0; i < e->e_phnum; i++) {
        if (ph[i].p_type == PT_LOAD) load = base + ph[i].p_offset - ph[i].p_vaddr;
        if (ph[i].p_type == PT_DYNAMIC) dyn = (const Elf64_Dyn *)(base + ph[i].p_offset);
    }
    for (; dyn && dyn->d_tag != DT_NULL; dyn++) {
        if (dyn->d_tag == DT_SYMTAB) symtab = load + dyn->d_un.d_ptr;
        if (dyn->d_tag == DT_STRTAB) strtab = load + dyn->d_un.d_ptr;
        if (dyn->d_tag == DT_HASH) hash = load + dyn->d_un.d_ptr;
    }
    if (!symtab || !strtab) return NULL;
    // DT_HASH says how many symbols there are. Where a linker left it out, the strings lie behind the symbols.
    u64 n = hash ? ((const u32 *)hash)[1] : strtab > symtab ? (strtab - symtab) / sizeof(Elf64_Sym) : 0;
    for (const Elf64_Sym *s = (const Elf64_Sym *)symtab; n--; s++)
        if (s->st_shndx && same((const char *)strtab + s->st_name, "__vdso_clock_gettime")) return (vdso_clock *)(load + s->st_value);
    return NULL;
}
