// Starting the application processors.
#pragma once

#include "kernel/boot_info.h"

// Starts every processor that the MADT calls enabled; those that answer become cores (cores.h), parked until plat_core_start. Needs
// clocks, interrupts and memory; what goes wrong is told, and the machine goes on with fewer cores. Once, on the boot core.
void ap_start_all(const struct boot_info *info);
