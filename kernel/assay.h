// The assay as a boot entry.
#pragma once

#include "kernel/boot_info.h"
#include "kernel/machine.h"

// Runs it in place of the guest, with the entry's kernel and RAM disk as its Linux, and ends as its options say. Core 0, after the
// bring-up.
NORETURN void assay_start(const struct boot_info *info, struct machine_config *cfg);
