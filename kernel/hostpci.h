// The host's PCI functions: configuration space, BARs, capabilities (PCI Local Bus 3.0; the firmware has assigned buses and addresses).
// Any core; not from interrupt context, but for the plain reads and writes.
#pragma once

#include "kernel/base/types.h"

enum { HOSTPCI_ID = 0, HOSTPCI_COMMAND = 4, HOSTPCI_CLASS = 8, HOSTPCI_BAR0 = 0x10 };
enum { HOSTPCI_CAP_POWER = 1, HOSTPCI_CAP_VENDOR = 9, HOSTPCI_CAP_MSIX = 0x11 };
#define HOSTPCI_NONE UINT32_MAX

// bdf: bus << 8 | device << 3 | function; reg: bytes. 32 bits at a time, aligned; any context.
u32 hostpci_read(u32 bdf, unsigned reg);
void hostpci_write(u32 bdf, unsigned reg, u32 v);
u8 hostpci_read8(u32 bdf, unsigned reg);

// The function behind `bdf' (HOSTPCI_NONE: the first) in the order of numbers; HOSTPCI_NONE: there is no more.
u32 hostpci_next(u32 bdf);
// Switches on decoding of memory and bus mastering, switches INTx off, and wakes the function up if it sleeps (D0).
void hostpci_enable(u32 bdf);
// The address in memory BAR n (0..5); 0: absent, or I/O ports.
u64 hostpci_bar(u32 bdf, unsigned n);
// Registers, uncached. NULL: no such BAR, no memory for tables.
volatile u8 *hostpci_bar_map(u32 bdf, unsigned n, u64 offset, u64 length);
// The first capability of this id, or the one behind `after'; 0: none.
unsigned hostpci_cap(u32 bdf, u8 id, unsigned after);
