// Tests of the bare machine, chosen by `selftest = ...' in a boot entry, in place of a guest.
#pragma once

#include "kernel/boot_info.h"

// Core 0, after the bring-up. Ends by switching the machine off, or, if the test failed or is one of failing, with a message on a halted
// machine.
NORETURN void selftest_run(enum boot_selftest test);

// selftest_cores.c: the platform contract on all cores at once.
NORETURN void selftest_cores(void);

// selftest_stick.c: results onto the disk that Cupel was booted from. Switches the machine off right after the last message.
NORETURN void selftest_stick(void);
// The same file: names the USB disks that there are, with a checksum of their beginnings, and provokes errors that the driver must
// overcome; writes nothing. Switches off.
NORETURN void selftest_usb(void);
// selftest_io.c: cores given to I/O.
NORETURN void selftest_io(void);
