// The whole guest machine, as both platforms start it: a configuration in, an exit reason out. machine.c is the one file that
// knows tcg/ and devices/ together.
#pragma once

#include "kernel/base/types.h"

struct blob { const u8 *data; u64 size; const char *name; };   // name: for messages

struct block;                     // devices/block.h
struct machine_drive {
    struct block *block;
    unsigned queues;              // of the virtio-blk device, 1..16
    const char *serial;           // NULL: none
    unsigned iothread;            // 1..niothreads: served by that I/O thread; 0: under the BQL
};
enum { MACHINE_DRIVES = 8, MACHINE_IOTHREADS = 4 };

struct machine_config {
    u64 ram_size;                 // bytes; 16 MiB..; multiple of 1 MiB
    unsigned smp;
    struct blob kernel, initrd;   // kernel: bzImage or multiboot-1 ELF; data NULL: none
    const char *append;
    bool exit_poll;               // accel tcg,exit=poll; default: exit=interrupt
    bool no_chain;                // accel tcg,chain=off
    bool no_reboot;
    u64 tb_size;                  // code cache bytes; 0: default
    unsigned debug_exit_base, debug_exit_size;   // isa-debug-exit; size 0: absent
    bool virtio_rng, virtio_console;   // on the PCI bus; the console takes the keyboard from the serial port while a driver runs it
    struct machine_drive drive[MACHINE_DRIVES];
    unsigned ndrives, niothreads;
    bool debugcon;                // port 0xe9 ...
    void (*debugcon_out)(const void *buf, size_t len);   // ... comes here; NULL: plat_console_write. BQL held
    // Output of the first serial port; NULL: plat_console_write. BQL held.
    void (*serial_out)(const void *buf, size_t len);
};

enum machine_end { MACHINE_POWEROFF, MACHINE_RESET, MACHINE_DEBUG_EXIT, MACHINE_QUIT };

// Builds the machine and checks the configuration. On failure returns false with a message that names the thing and the mend in
// err.
bool machine_create(const struct machine_config *cfg, char *err, size_t errlen) MUST_CHECK;
// Runs vCPU 0 on this core until the guest ends. *code: the value written to isa-debug-exit ((v << 1) | 1) or 0. A guest reset is
// carried out inside unless no_reboot.
enum machine_end machine_run(int *code);
// Any context: makes machine_run return MACHINE_QUIT / carries out a reset.
void machine_quit(void);
void machine_reset(void);
// Stops and resumes all vCPUs with the virtual clock (monitor stop/cont). BQL held.
void machine_stop(void);
void machine_cont(void);
// Monitor texts. `out` gets zero-terminated pieces.
void machine_info(const char *what, void (*out)(void *o, const char *s), void *o);   // "registers", "jit"
