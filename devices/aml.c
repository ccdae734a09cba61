// The AML writer. The only subtlety is PkgLength (ACPI 6.4 20.2.4): it counts itself, and its own size depends on the count, so
// aml_close moves the content up by one to four bytes once the length is known. Containers already open begin before the place, so
// nothing else shifts.
#include "devices/aml.h"

void aml_byte(struct aml *a, u8 b)
{
    if (a->len == a->cap) { a->full = true; return; }
    a->buf[a->len++] = b;
}

void aml_bytes(struct aml *a, const void *p, size_t n)
{
    for (const u8 *b = p; n; n--) aml_byte(a, *b++);
}

void aml_le(struct aml *a, u64 v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) aml_byte(a, i < 8 ? v >> 8 * i : 0);
}

void aml_int(struct aml *a, u64 v)
{
    static const struct { u64 max; u8 op, bytes; } kinds[] = {{0xff, 0x0a, 1}, {0xffff, 0x0b, 2}, {0xffffffff, 0x0c, 4}, {UINT64_MAX,
        0x0e, 8}};
    if (v <= 1) { aml_byte(a, v); return; }        // ZeroOp, OneOp
    unsigned k = 0;
    while (v > kinds[k].max) k++;
    aml_byte(a, kinds[k].op);
    aml_le(a, v, kinds[k].bytes);
}

void aml_string(struct aml *a, const char *s)
{
    aml_byte(a, 0x0d);
    do aml_byte(a, *s); while (*s++);
}

void aml_path(struct aml *a, const char *path)
{
    if (*path == '\\') aml_byte(a, *path++);
    size_t n = 0;
    while (path[n]) n++;
    if (n == 8) aml_byte(a, 0x2e);                  // DualNamePrefix
    aml_bytes(a, path, n);
}

void aml_name(struct aml *a, const char *name)
{
    aml_byte(a, 0x08);
    aml_path(a, name);
}

void aml_name_int(struct aml *a, const char *name, u64 v)
{
    aml_name(a, name);
    aml_int(a, v);
}

static unsigned hex(char c) { return c <= '9' ? c - '0' : c - 'A' + 10; }

// Three letters of five bits and four hex digits, stored big endian (19.3.4).
void aml_eisaid(struct aml *a, const char *name, const char *id)
{
    u32 v = (u32)(id[0] & 31) << 26 | (u32)(id[1] & 31) << 21 | (u32)(id[2] & 31) << 16;
    for (unsigned i = 0; i < 4; i++) v |= hex(id[3 + i]) << 4 * (3 - i);
    aml_name(a, name);
    aml_byte(a, 0x0c);
    aml_le(a, __builtin_bswap32(v), 4);
}

size_t aml_open_scope(struct aml *a, const char *path)
{
    aml_byte(a, 0x10);
    size_t at = a->len;
    aml_path(a, path);
    return at;
}

size_t aml_open_device(struct aml *a, const char *name)
{
    aml_byte(a, 0x5b);
    aml_byte(a, 0x82);
    size_t at = a->len;
    aml_path(a, name);
    return at;
}

size_t aml_open_method(struct aml *a, const char *name, unsigned args)
{
    aml_byte(a, 0x14);
    size_t at = a->len;
    aml_path(a, name);
    aml_byte(a, args);
    return at;
}

size_t aml_open_package(struct aml *a, unsigned count)
{
    aml_byte(a, 0x12);
    size_t at = a->len;
    aml_byte(a, count);
    return at;
}

size_t aml_open_if(struct aml *a)
{
    aml_byte(a, 0xa0);
    return a->len;
}

size_t aml_open_else(struct aml *a)
{
    aml_byte(a, 0xa1);
    return a->len;
}

void aml_close(struct aml *a, size_t opened)
{
    size_t n = a->len - opened;
    unsigned bytes = n + 1 <= 0x3f ? 1 : n + 2 <= 0xfff ? 2 : n + 3 <= 0xfffff ? 3 : 4;
    size_t total = n + bytes;
    if (a->len + bytes > a->cap) { a->full = true; return; }
    for (size_t i = n; i-- > 0;) a->buf[opened + bytes + i] = a->buf[opened + i];
    a->len += bytes;
    if (bytes == 1) { a->buf[opened] = total; return; }
    a->buf[opened] = (bytes - 1) << 6 | (total & 15);
    for (unsigned i = 1; i < bytes; i++) a->buf[opened + i] = total >> (8 * i - 4);
}

void aml_buffer(struct aml *a, const void *p, size_t n)
{
    aml_byte(a, 0x11);
    size_t at = a->len;
    aml_int(a, n);
    aml_bytes(a, p, n);
    aml_close(a, at);
}

// ---- resources ------------------------------------------------------------------------------------------------------

// The buffer's size comes before its content, so it is written as a word and patched.
struct aml_crs aml_open_crs(struct aml *a, const char *name)
{
    aml_name(a, name);
    aml_byte(a, 0x11);
    struct aml_crs crs = {.pkg = a->len};
    aml_byte(a, 0x0b);
    aml_le(a, 0, 2);
    crs.start = a->len;
    return crs;
}

void aml_close_crs(struct aml *a, struct aml_crs crs)
{
    aml_byte(a, 0x79);                              // end tag; checksum 0: not used
    aml_byte(a, 0);
    if (a->full) return;
    size_t n = a->len - crs.start;
    a->buf[crs.start - 2] = n;
    a->buf[crs.start - 1] = n >> 8;
    aml_close(a, crs.pkg);
}

void aml_res_io(struct aml *a, u16 base, u8 len)
{
    aml_byte(a, 0x47);
    aml_byte(a, 1);                                 // decodes 16 bits
    aml_le(a, base, 2);
    aml_le(a, base, 2);
    aml_byte(a, 1);
    aml_byte(a, len);
}

void aml_res_irq(struct aml *a, unsigned irq)
{
    aml_byte(a, 0x22);
    aml_le(a, 1u << irq, 2);
}

void aml_res_mem32(struct aml *a, u32 base, u32 len, bool writable)
{
    aml_byte(a, 0x86);
    aml_le(a, 9, 2);
    aml_byte(a, writable);
    aml_le(a, base, 4);
    aml_le(a, len, 4);
}

// Word and dword address space descriptors (6.4.3.5). General flags: both ends fixed, positive decode, producer.
static void window(struct aml *a, u8 tag, u8 type, u8 specific, u32 first, u32 last, unsigned width)
{
    aml_byte(a, tag);
    aml_le(a, 3 + 5 * width, 2);
    aml_byte(a, type);
    aml_byte(a, 0x0c);
    aml_byte(a, specific);
    aml_le(a, 0, width);                            // granularity
    aml_le(a, first, width);
    aml_le(a, last, width);
    aml_le(a, 0, width);                            // translation
    aml_le(a, (u64)last - first + 1, width);
}

void aml_res_bus(struct aml *a, u16 first, u16 last) { window(a, 0x88, 2, 0, first, last, 2); }
// 3: entire range, not only ISA aliases
void aml_res_io_window(struct aml *a, u16 first, u16 last) { window(a, 0x88, 1, 3, first, last, 2); }
void aml_res_mem_window(struct aml *a, u32 first, u32 last) { window(a, 0x87, 0, 1, first, last, 4); }  // 1: writable, not cacheable
