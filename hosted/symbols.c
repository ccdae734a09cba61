// Names for addresses, out of this program's own ELF symbol table (static functions included, which dladdr does not see).
// Used by panics only: the file is mapped anew each time the first name is wanted, and searched from end to end.
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hosted/hosted.h"

extern const Elf64_Ehdr __ehdr_start;   // set by the linker: where the file's first byte is mapped

static const u8 *image_map(u64 *size)
{
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat st;
    const u8 *p = NULL;
    if (fd < 0) return NULL;
    if (fstat(fd, &st) == 0) {
        void *m = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (m != MAP_FAILED) {
            p = m;
            *size = (u64)st.st_size;
        }
    }
    close(fd);
    return p;
}

const char *symbol_find(u64 pc, u64 *offset)
{
    static const u8 *file;
    static u64 size;
    if (!file && !(file = image_map(&size))) return NULL;
    const Elf64_Ehdr *eh = (const Elf64_Ehdr *)file;
    u64 bias = eh->e_type == ET_DYN ? (u64)&__ehdr_start : 0;
    const Elf64_Shdr *sh = (const Elf64_Shdr *)(file + eh->e_shoff);
    if (eh->e_shoff + (u64)eh->e_shnum * sizeof *sh > size) return NULL;
    for (unsigned i = 0; i < eh->e_shnum; i++) {
        if (sh[i].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym *s = (const Elf64_Sym *)(file + sh[i].sh_offset);
        const char *names = (const char *)file + sh[sh[i].sh_link].sh_offset;
        for (u64 k = 0; k < sh[i].sh_size / sizeof *s; k++) {
            u64 at = s[k].st_value + bias;
            if (ELF64_ST_TYPE(s[k].st_info) != STT_FUNC || pc < at || pc >= at + s[k].st_size) continue;
            *offset = pc - at;
            return names + s[k].st_name;
        }
    }
    return NULL;
}
