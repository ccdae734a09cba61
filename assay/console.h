// What the assay's guests say while they run, for the machine's configuration. BQL held, in a vCPU's context.
#pragma once

#include "kernel/base/types.h"

// machine_config.serial_out: Linux's console.
void assay_serial_out(const void *buf, size_t len);
// machine_config.debugcon_out: the payload's marks.
void assay_mark_out(const void *buf, size_t len);
