// The payload's ELF file, 32- or 64-bit, into a window where it is not loaded by a guest's boot. It comes with Cupel, but a file beside
// the kernel image can be any file: everything is checked.
#include <string.h>

#include "assay/run.h"
#include "kernel/base/fmt.h"

enum { PT_LOAD = 1, E_CLASS = 4, CLASS_32 = 1, CLASS_64 = 2, EM_386 = 3, EM_X86_64 = 62 };

struct segment { u64 offset, vaddr, filesz, memsz; };

static u64 field(const struct blob *f, u64 at, unsigned bytes)
{
    u64 v = 0;
    for (unsigned i = 0; i < bytes; i++) v |= (u64)f->data[at + i] << 8 * i;
    return v;
}

static struct segment segment_read(const struct blob *f, u64 at, bool wide)
{
    if (wide) return (struct segment){field(f, at + 8, 8), field(f, at + 16, 8), field(f, at + 32, 8), field(f, at + 40, 8)};
    return (struct segment){field(f, at + 4, 4), field(f, at + 8, 4), field(f, at + 16, 4), field(f, at + 20, 4)};
}

static bool segment_fits(const struct blob *f, const struct segment *s)
{
    u64 to = s->vaddr - ASSAY_VIRT;
    return s->filesz <= s->memsz && s->offset <= f->size && s->filesz <= f->size - s->offset && s->vaddr >= ASSAY_VIRT &&
           to <= ASSAY_WINDOW && s->memsz <= ASSAY_WINDOW - to;
}

bool image_load(const struct blob *f, u8 *window, char *err, size_t errlen)
{
    bool elf = f->size >= 64 && field(f, 0, 4) == 0x464c457f && (f->data[E_CLASS] == CLASS_32 || f->data[E_CLASS] == CLASS_64);
    bool wide = elf && f->data[E_CLASS] == CLASS_64;
    u64 table = !elf ? 0 : wide ? field(f, 32, 8) : field(f, 28, 4), step = !elf ? 0 : field(f, wide ? 54 : 42, 2), n = !elf ? 0 : field(f, wide ? 56 : 44, 2);
    if (!elf || step < (wide ? 56u : 32u) || table > f->size || n * step > f->size - table) {
        fmt_snprintf(err, errlen, "assay: %s is no payload of the assay; use the one that was built with this Cupel", f->name);
        return false;
    }
    memset(window, 0, ASSAY_WINDOW);
    for (u64 i = 0; i < n; i++) {
        u64 at = table + i * step;
        if (field(f, at, 4) != PT_LOAD) continue;
        struct segment s = segment_read(f, at, wide);
        if (!s.memsz) continue;
        if (!segment_fits(f, &s)) {
            fmt_snprintf(err, errlen, "assay: %s: segment %llu lies outside the window or the file; build it again", f->name, (unsigned long long)i);
            return false;
        }
        memcpy(window + (s.vaddr - ASSAY_VIRT), f->data + s.offset, s.filesz);
    }
    return true;
}
