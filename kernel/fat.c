// What makes a chain trustworthy: it has exactly as many clusters as the file's size needs, each is a cluster of this volume, and the last
// is marked as the end. A chain that runs in circles never gets to an end mark, so that no set of visited clusters is kept. That two files
// share a cluster is not seen here; fsck sees it.
#include "kernel/fat.h"

#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/disk.h"

enum { ENTRY = 32, DIR_MAX = 65536 * ENTRY, NAME_MAX = 255, SLOT_CHARS = 13 };
enum { A_READ_ONLY = 1, A_LABEL = 8, A_DIRECTORY = 0x10, A_LONG = 0x0f, A_LONG_MASK = 0x3f };
enum { FAT12_MOST = 4084, FAT16_MOST = 65524, FAT32_MOST = 0x0ffffff5 };   // clusters, FAT spec. 3.5; FAT32: what 28-bit entries can name

static bool fail(const struct fat *f, char *err, size_t errlen, const char *what)
{
    fmt_snprintf(err, errlen, "%s: %s", f->disk->name, what);
    return false;
}

static u16 get16(const u8 *p) { return *(const u16_any *)p; }
static u32 get32(const u8 *p) { return *(const u32_any *)p; }

// ---- the volume -----------------------------------------------------------------------------------------------------------------

// FAT spec. 3.1; `sector' is in bytes; what has a size is in sectors.
struct bpb { u32 sector, per_cluster, reserved, tables, root_entries; u64 total, per_table; };

static bool bpb_read(const u8 *s, struct bpb *p)
{
    p->sector = get16(s + 11);
    p->per_cluster = s[13];
    p->reserved = get16(s + 14);
    p->tables = s[16];
    p->root_entries = get16(s + 17);
    p->total = get16(s + 19) ? get16(s + 19) : get32(s + 32);
    p->per_table = get16(s + 22) ? get16(s + 22) : get32(s + 36);
    return s[510] == 0x55 && s[511] == 0xaa && p->sector >= BLOCK_SECTOR && p->sector <= FAT_SECTOR_MAX && !(p->sector & (p->sector - 1)) &&
           p->per_cluster && !(p->per_cluster & (p->per_cluster - 1)) && p->reserved && p->tables && p->tables <= 4 &&
           p->total && p->per_table;
}

// The kind of FAT follows from the number of clusters - but FAT32 has a boot sector of its own, and small ones exist.
static bool kind_set(struct fat *f, const u8 *s, const struct bpb *p)
{
    bool wide = !get16(s + 22);
    f->bits = wide ? 32 : f->clusters <= FAT12_MOST ? 12 : 16;
    u32 most = wide ? FAT32_MOST : FAT16_MOST;
    if (!f->clusters || f->clusters > most || p->per_table * f->sector * 8 / f->bits < f->clusters + 2ull) return false;
    if (!wide) return p->root_entries != 0;
    u16 flags = get16(s + 40);                    // bit 7: one table only is kept up to date, which bits 0..3 name
    unsigned table = flags & 0x80 ? flags & 15 : 0;
    f->table += table * p->per_table * f->sector;
    f->root_cluster = get32(s + 44);
    return table < p->tables && !p->root_entries;
}

static bool layout_set(struct fat *f, const u8 *s, u64 size)
{
    struct bpb p;
    if (!bpb_read(s, &p) || p.sector != f->sector || p.total > size / f->sector) return false;
    u64 root = p.reserved + p.tables * p.per_table, data = root + (p.root_entries * ENTRY + f->sector - 1) / f->sector;
    if (data >= p.total) return false;
    f->cluster = p.per_cluster * f->sector;
    u64 n = (p.total - data) / p.per_cluster;
    f->clusters = n > FAT32_MOST ? 0 : (u32)n;
    f->table = (u64)p.reserved * f->sector;
    f->root = root * f->sector;
    f->root_size = (u64)p.root_entries * ENTRY;
    f->data = data * f->sector;
    return kind_set(f, s, &p);
}

bool fat_mount(struct fat *f, struct block *disk, u64 offset, u64 size, u32 sector, char *err, size_t errlen)
{
    *f = (struct fat){.disk = disk, .base = offset, .sector = sector, .cached = UINT64_MAX};
    if (sector < BLOCK_SECTOR || sector > FAT_SECTOR_MAX || (sector & (sector - 1)))
        return fail(f, err, errlen, "blocks are neither of 512 nor of 4096 bytes");
    if (!disk_read(disk, offset, f->dir, sector)) return fail(f, err, errlen, "cannot read the volume's first sector");
    if (layout_set(f, f->dir, size)) return true;
    return fail(f, err, errlen, "the partition holds no FAT file system, or a damaged one; make one anew (mkfs.vfat)");
}

// ---- the table -------------------------------------------------------------------------------------------------------------------

static bool table_byte(struct fat *f, u64 at, u32 *v)
{
    u64 sector = align_down(at, f->sector);
    if (f->cached != sector) {
        f->cached = UINT64_MAX;
        if (!disk_read(f->disk, f->base + f->table + sector, f->buf, f->sector)) return false;
        f->cached = sector;
    }
    *v = f->buf[at - sector];
    return true;
}

// The entry of a cluster of this volume. 12-bit entries lie across bytes, and across sectors too (FAT spec. 4.1).
static bool table_entry(struct fat *f, u32 cluster, u32 *v)
{
    u64 at = (u64)cluster * f->bits / 8;
    *v = 0;
    for (unsigned i = 0; i < (f->bits + 7) / 8; i++) {
        u32 byte;
        if (!table_byte(f, at + i, &byte)) return false;
        *v |= byte << 8 * i;
    }
    if (f->bits == 12) *v = cluster & 1 ? *v >> 4 : *v & 0xfff;
    if (f->bits == 32) *v &= 0x0fffffff;
    return true;
}

static bool is_cluster(const struct fat *f, u32 c) { return c >= 2 && c - 2 < f->clusters; }
// End marks are the eight highest values; the one below them marks a bad cluster.
static bool is_end(const struct fat *f, u32 v) { return v >= (f->bits == 32 ? 0x0ffffff8u : f->bits == 16 ? 0xfff8u : 0xff8u); }
static u64 cluster_offset(const struct fat *f, u32 c) { return f->base + f->data + (u64)(c - 2) * f->cluster; }

// ---- the root directory --------------------------------------------------------------------------------------------------------

// The long name that the entries before a short one put together (FAT spec. 7): pieces come last first.
struct longname { char text[NAME_MAX + SLOT_CHARS + 1]; unsigned left; u8 sum; bool good; };

struct search { const char *name; struct longname l; const u8 *found; bool end; };

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

static bool name_equal(const char *a, const char *b)
{
    while (*a && lower(*a) == lower(*b)) a++, b++;
    return !*a && !*b;
}

static u8 short_sum(const u8 *e)
{
    u8 sum = 0;
    for (unsigned i = 0; i < 11; i++) sum = (u8)((sum >> 1 | sum << 7) + e[i]);
    return sum;
}

// Characters that are not ASCII become one that no name looked for has.
static void long_piece(struct longname *l, const u8 *e)
{
    static const u8 places[SLOT_CHARS] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};
    unsigned order = e[0] & 0x3f;
    if (e[0] & 0x40) {
        *l = (struct longname){.left = order, .sum = e[13], .good = order >= 1 && order <= (NAME_MAX + SLOT_CHARS - 1) / SLOT_CHARS};
    } else if (order != l->left || e[13] != l->sum) l->good = false;
    if (!l->good || !order) { l->good = false; return; }
    l->left = order - 1;
    for (unsigned i = 0; i < SLOT_CHARS; i++) {
        u16 c = get16(e + places[i]);
        l->text[l->left * SLOT_CHARS + i] = c < 0x80 ? (char)c : c == 0xffff ? 0 : '\x7f';
    }
}

static void short_text(const u8 *e, char out[13])
{
    unsigned n = 0, dot = 0;
    for (unsigned i = 0; i < 8; i++) {
        out[i] = (char)e[i];
        if (e[i] != ' ') n = i + 1;
    }
    for (unsigned i = 8; i < 11; i++) {
        if (e[i] == ' ') continue;
        if (!dot) out[dot = n++] = '.';
        out[n++] = (char)e[i];
    }
    out[n] = 0;
}

// Looks at one entry; true: the search is over.
static bool search_entry(struct search *s, const u8 *e)
{
    if (!e[0]) return s->end = true;
    if (e[0] == 0xe5) { s->l.good = false; return false; }
    if ((e[11] & A_LONG_MASK) == A_LONG) { long_piece(&s->l, e); return false; }
    char text[13];
    short_text(e, text);
    bool long_is_its = s->l.good && !s->l.left && s->l.sum == short_sum(e);
    bool equal = name_equal(text, s->name) || (long_is_its && name_equal(s->l.text, s->name));
    s->l.good = false;
    if (e[11] & A_LABEL || !equal) return false;
    s->found = e;
    return true;
}

// `len` bytes of directory at a byte of the disk. False: a sector cannot be read.
static bool search_piece(struct fat *f, struct search *s, u64 offset, u64 len)
{
    for (u64 done = 0; done < len; done += f->sector) {
        if (!disk_read(f->disk, offset + done, f->dir, f->sector)) return false;
        for (u64 i = 0; i < min_u64(f->sector, len - done); i += ENTRY)
            if (search_entry(s, f->dir + i)) return true;
    }
    return true;
}

static bool search_root(struct fat *f, struct search *s, char *err, size_t errlen)
{
    static const char unreadable[] = "cannot read the root directory";
    static const char chain[] = "the root directory's chain of clusters is damaged; run fsck.vfat";
    if (f->bits != 32) return search_piece(f, s, f->base + f->root, f->root_size) || fail(f, err, errlen, unreadable);
    u32 c = f->root_cluster;
    for (u64 done = 0; !s->found && !s->end && !(done && is_end(f, c)); done += f->cluster) {
        if (!is_cluster(f, c) || done >= DIR_MAX) return fail(f, err, errlen, chain);
        if (!search_piece(f, s, cluster_offset(f, c), f->cluster) || !table_entry(f, c, &c)) return fail(f, err, errlen, unreadable);
    }
    return true;
}

// ---- a file -----------------------------------------------------------------------------------------------------------------------

static bool extent_add(const struct fat *f, struct fat_file *file, u32 cluster)
{
    u64 at = cluster_offset(f, cluster);
    struct fat_extent *last = file->n ? &file->extent[file->n - 1] : NULL;
    if (last && last->offset + last->len == at) last->len += f->cluster;
    else if (file->n == FAT_EXTENTS) return false;
    else file->extent[file->n++] = (struct fat_extent){at, f->cluster};
    return true;
}

// Follows the chain to its end and takes it, if `file' is not NULL, into its extents. NULL, or what is wrong.
static const char *chain_walk(struct fat *f, u32 c, u64 need, struct fat_file *file)
{
    for (u64 i = 0; i < need; i++) {
        if (!is_cluster(f, c)) return "'s chain of clusters is damaged (a number that is no cluster); run fsck.vfat";
        if (file && !extent_add(f, file, c)) return " is in too many pieces; copy it to an empty volume";
        if (!table_entry(f, c, &c)) return "'s chain of clusters cannot be read";
    }
    return need && !is_end(f, c) ? "'s chain of clusters is damaged (it does not end where the file does); run fsck.vfat" : NULL;
}

static bool chain_take(struct fat *f, const char *name, u32 first, struct fat_file *file, char *err, size_t errlen)
{
    u64 need = (file->size + f->cluster - 1) / f->cluster;
    const char *wrong = chain_walk(f, first, need, NULL);       // a chain with a circle is not merely one of many pieces
    if (!wrong) wrong = chain_walk(f, first, need, file);
    if (wrong) fmt_snprintf(err, errlen, "%s: %s%s", f->disk->name, name, wrong);
    return !wrong;
}

bool fat_find(struct fat *f, const char *name, struct fat_file *file, char *err, size_t errlen)
{
    struct search s = {.name = name};
    f->cached = UINT64_MAX;
    if (!search_root(f, &s, err, errlen)) return false;
    if (!s.found || s.found[11] & A_DIRECTORY) {
        fmt_snprintf(err, errlen, "%s: %s %s the root directory of Cupel's partition", f->disk->name, name,
                     s.found ? "is itself a directory in" : "is not in");
        return false;
    }
    u32 first = get16(s.found + 26) | (f->bits == 32 ? (u32)get16(s.found + 20) << 16 : 0);
    *file = (struct fat_file){.size = get32(s.found + 28), .read_only = s.found[11] & A_READ_ONLY};
    return chain_take(f, name, first, file, err, errlen);
}
