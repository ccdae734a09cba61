// How to wait for a spinlock (cpu.h: struct ticket_lock) on this machine.
#pragma once

struct ticket_lock;

// Once, on the boot core, before there are others.
void lock_init(void);
// For the end of the machine: takes a lock that will never be released, waiting some tenths of a second for it. If that was in vain, who
// waits for it after us waits for ever.
void ticket_lock_last(struct ticket_lock *l);
