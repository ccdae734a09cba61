// What the assay's Linux guest says while it runs.
#pragma once

#include "kernel/base/types.h"

// machine_config.serial_out of an assay's machine. BQL held, in a vCPU's context.
void assay_serial_out(const void *buf, size_t len);
