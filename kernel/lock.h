// How to wait for a spinlock (cpu.h: struct ticket_lock) on this machine.
#pragma once

// Once, on the boot core, before there are others.
void lock_init(void);
