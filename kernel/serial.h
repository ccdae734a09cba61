// The host's serial line: one 16550. The console's lock guards all of it.
#pragma once

#include "kernel/base/types.h"

// Early: the port of the boot entry, or COM1 for BOOT_SERIAL_AUTO; polled. Silent if nothing is there.
void serial_init(u32 port, u32 baud);
// With ACPI known: moves to the SPCR's port if the entry said auto, and from then on input and output are driven by interrupts.
void serial_init_interrupts(u32 port);
bool serial_present(void);
// Queues bytes, without waiting unless the queue is full; then as long as the line needs.
void serial_write(const void *buf, size_t len);
// Waits until all is out.
void serial_flush(void);
// Handles what the chip has: refills its output; returns an input byte or -1 when there is none (call until -1).
int serial_service(void);
