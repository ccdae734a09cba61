// \cupel.conf: an INI file of global keys and one section per boot entry. Parsing is pure: text in, struct out, no EFI; every mistake
// becomes a message that names the line and the mend, kept with the entry it is in so that the others stay bootable.
#pragma once

#include "kernel/base/types.h"

enum { CONFIG_ENTRIES = 16, CONFIG_NAME = 64, CONFIG_PATH = 128, CONFIG_APPEND = 2048, CONFIG_ERROR = 256, CONFIG_ASSAY = 256, CONFIG_TB_SIZE_MIN = 4 << 20 };

struct config_entry {
    char name[CONFIG_NAME];
    unsigned line;                              // of the section header
    char kernel[CONFIG_PATH], initrd[CONFIG_PATH], drive[CONFIG_PATH], append[CONFIG_APPEND];
    unsigned kernel_line, initrd_line, drive_line;
    u64 memory;                                 // bytes
    unsigned smp;                               // 0: not given
    unsigned iothread_line, num_queues_line;    // 0: not given
    u8 iothread, num_queues;                    // as in struct boot_info
    bool exit_poll, no_chain, no_reboot, debugcon, profile;
    bool virtio_rng, virtio_serial, virtio_console;   // serial: the controller, which wants a port
    u64 tb_size;
    u8 thread, icount, icount_shift, icount_sleep_off, seeded, rtc_base, rtc_clock;   // as in struct boot_info
    u64 seed;
    s64 rtc_sec;
    u32 debug_exit_base, debug_exit_size;
    unsigned selftest;                          // enum boot_selftest; such an entry needs no kernel
    char assay[CONFIG_ASSAY];                   // options of an assay in place of a guest; empty: none
    u32 serial_port, serial_baud;               // BOOT_SERIAL_AUTO, 0 none, or a port
    char error[CONFIG_ERROR];                   // first mistake in this section; empty: none
};

struct config {
    int timeout;                                // seconds; -1: wait for ever
    char default_name[CONFIG_NAME];
    unsigned default_index;
    u32 serial_port, serial_baud;               // for the menu, and the entries' default
    struct config_entry entries[CONFIG_ENTRIES];
    unsigned count;
    char error[CONFIG_ERROR];                   // first mistake outside sections
};

// Parses text of `len` bytes called `file` in messages.
void config_parse(struct config *c, const char *file, const char *text, size_t len);

// The number of the host's virtio disk that `drive = virtioN' names; -1: it names a file.
int config_drive_host(const struct config_entry *e);

// Copies what the kernel needs of an entry. Files are the caller's business.
struct boot_info;
void config_apply(const struct config_entry *e, struct boot_info *info);
