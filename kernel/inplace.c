// The order of writing makes every torn write visible, on a disk with a cache that keeps no order of its own:
//
//   1. the first sector becomes INPLACE_UNFINISHED; flush
//   2. everything behind it; flush
//   3. the first sector becomes the data's; flush
//   4. all is read and compared
//
// Power lost before 1 has reached the disk leaves the old file; after that and before 3 one that says that it is not complete; after 3 the
// new one. A sector is what disks write whole or not at all. What does not read back the same gets the mark again.
//
// The bytes behind the end of the file in its last sector belong to it and become newlines too. The cluster's further sectors stay.
#include "kernel/inplace.h"

#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/disk.h"

enum { PIECE = 64 * KIB };

struct walk { const struct fat *f; const struct fat_file *file; const u8 *data; u64 len; char *err; size_t errlen; };

static u8 inplace_out[PIECE], inplace_in[PIECE];

static bool fail(const struct walk *w, const char *what, u64 at)
{
    fmt_snprintf(w->err, w->errlen, "%s: %s, %llu bytes into the file", w->f->disk->name, what, (unsigned long long)at);
    return false;
}

// The disk's bytes for the file's byte `at`; *most: how many follow there.
static u64 place(const struct fat_file *file, u64 at, u64 *most)
{
    unsigned i = 0;
    while (at >= file->extent[i].len) at -= file->extent[i++].len;
    *most = file->extent[i].len - at;
    return file->extent[i].offset + at;
}

// What bytes [at, at + n) of the file are to be.
static void text_at(const struct walk *w, u64 at, u8 *out, u64 n)
{
    u64 have = at < w->len ? min_u64(n, w->len - at) : 0;
    if (have) memcpy(out, w->data + at, have);
    memset(out + have, '\n', n - have);
}

static bool put(const struct walk *w, u64 at, u64 to)
{
    for (u64 n; at < to; at += n) {
        u64 disk = place(w->file, at, &n);
        n = min_u64(min_u64(n, to - at), PIECE);
        text_at(w, at, inplace_out, n);
        if (!disk_write(w->f->disk, disk, inplace_out, n)) return fail(w, "cannot write", at);
    }
    return disk_flush(w->f->disk) || fail(w, "cannot flush the disk's cache", to);
}

static bool compare(const struct walk *w, u64 to)
{
    for (u64 at = 0, n; at < to; at += n) {
        u64 disk = place(w->file, at, &n);
        n = min_u64(min_u64(n, to - at), PIECE);
        text_at(w, at, inplace_out, n);
        if (!disk_read(w->f->disk, disk, inplace_in, n)) return fail(w, "cannot read back what was written", at);
        if (memcmp(inplace_out, inplace_in, n))
            return fail(w, "what was written reads back differently; the disk is worn out or lies about its size", at);
    }
    return true;
}

bool inplace_write(const struct fat *f, const struct fat_file *file, const void *data, u64 len, char *err, size_t errlen)
{
    static const char unfinished[] = INPLACE_UNFINISHED;
    struct walk w = {f, file, data, len, err, errlen};
    struct walk mark = {f, file, (const u8 *)unfinished, sizeof(unfinished) - 1, err, errlen};
    u64 end = align_up(file->size, f->sector);
    if (len > file->size || file->size < f->sector) {
        fmt_snprintf(err, errlen, "%s: the file has room for %llu bytes, and %llu are to be written; make it larger (tools/mkimg.sh makes "
                     "1 MiB)", f->disk->name, (unsigned long long)file->size, (unsigned long long)len);
        return false;
    }
    if (!put(&mark, 0, f->sector)) return false;
    if (put(&w, f->sector, end) && put(&w, 0, f->sector) && compare(&w, end)) return true;
    char why[160];
    struct walk again = mark;
    again.err = why;
    again.errlen = sizeof(why);
    (void)!put(&again, 0, f->sector);     // what cannot be written now is as it is; the first message is the one that matters
    return false;
}

bool inplace_read(const struct fat *f, const struct fat_file *file, void *data, u64 len, char *err, size_t errlen)
{
    struct walk w = {f, file, NULL, 0, err, errlen};
    if (len > file->size) len = file->size;
    for (u64 at = 0, n; at < len; at += n) {
        u64 disk = place(file, at, &n);
        n = min_u64(n, PIECE);
        if (!disk_read(f->disk, disk, inplace_in, n)) return fail(&w, "cannot read", at);
        if (n > len - at) n = len - at;
        memcpy((u8 *)data + at, inplace_in, n);
    }
    return true;
}
