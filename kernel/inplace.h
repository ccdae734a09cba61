// Overwriting an existing file in place: the one way to change a file system that a power failure at any moment cannot damage, because
// none of its structures is ever written.
#pragma once

#include "kernel/fat.h"

// The first sector of a file while it is being written, and of one that was never written: JSON readers find that it is not complete.
#define INPLACE_UNFINISHED "{\"schema\": \"cupel-assay/1\", \"complete\": false}\n"

// Replaces the file's contents by `len` bytes of text and newlines up to its size, which is a multiple of nothing in particular. Returns
// true when all of it is on stable storage and was read back the same. False with a message; the first sector says then what the file is:
// its old self (nothing was changed), INPLACE_UNFINISHED, or, if even that could not be written, unknown. Buffers are static: one call at
// a time. May wait; BQL not held.
bool inplace_write(const struct fat *f, const struct fat_file *file, const void *data, u64 len, char *err, size_t errlen) MUST_CHECK;
// Reads the first `len` bytes of the file (at most its size). False with a message.
bool inplace_read(const struct fat *f, const struct fat_file *file, void *data, u64 len, char *err, size_t errlen) MUST_CHECK;
