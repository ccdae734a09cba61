// Cupel's own console: serial line and screen out, serial line and keyboard in.
#pragma once

#include "kernel/boot_info.h"

void console_init_early(const struct boot_info *info);    // serial only, polled
void console_init_screen(const struct boot_info *info);   // needs memory
void console_init_input(const struct boot_info *info);    // needs ACPI and the local APIC
// Draws the screen if text changed. From the timer.
void console_refresh(void);
// As plat_console_write, but not onto the screen.
void console_serial_only(const char *text, u64 len);
// Waits until all output is out.
void console_flush(void);
// The end of the machine, or of Cupel: stops all other cores, where possible not in the middle of a line; from now on locks are broken and
// everything is polled and drawn at once. Returns once only: of several cores that get here at a time, one; later calls change nothing.
void console_panic_mode(void);
// From trap_dispatch.
void console_interrupt(bool serial);
void console_unexpected_interrupt(unsigned vector);
