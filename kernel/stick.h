// Results onto the disk that Cupel was booted from, usually a USB stick: a file that is there already, in the root of Cupel's own
// partition, is overwritten in place. No file system structure is ever written, nor any other partition or disk.
//
// Nothing is touched before the first call. That call may start the PC's USB controllers, which takes them from the firmware: a USB
// keyboard that the firmware passes off as a PS/2 one is dead from then on (a message says so).
#pragma once

#include "kernel/boot_info.h"

// Notes which partition that is. Bring-up.
void stick_init(const struct boot_info *info);
// Makes the contents of the file `name` (see fat_find) `len` bytes of text, filled up with newlines to the size that the file has. True:
// it is on stable storage, and was read back. False with a message that names the disk and the step; then the file is as it was, or says
// that it is not complete (INPLACE_UNFINISHED). `data' may be any mapped memory. Waits for seconds, with a disk that fails for longer. Any
// core but one caller at a time, interrupts on, BQL not held.
bool stick_write(const char *name, const void *data, u64 len, char *err, size_t errlen) MUST_CHECK;
// The first `most' bytes of that file: *len are in data. The rest as above.
bool stick_read(const char *name, void *data, u64 most, u64 *len, char *err, size_t errlen) MUST_CHECK;
