// What the loader (boot/ under UEFI, multiboot.c on a BIOS PC) tells the kernel: the header that boot/ and kernel/ share, free of EFI
// types.
//
// The structure and everything it points to by physical address lie in BOOT_MEM_LOADER pages, which the kernel never frees. On entry the
// processor is in long mode with interrupts off and runs on the loader's page tables: the kernel's image at KERNEL_VIRT (W^X by
// segment), all RAM below BOOT_MAP_MAX at DIRECT_MAP_BASE and, for the loader's last instructions, also at its physical address.
// RDI = physical address of struct boot_info, RSP = nothing usable.
#pragma once

#include "kernel/base/types.h"

#define BOOT_INFO_MAGIC   0x6f66496c65707543ull   // "CupelIfo", little endian
#define BOOT_INFO_VERSION 6

#define KERNEL_VIRT     0xffffffff80000000ull     // linker.ld
#define DIRECT_MAP_BASE 0xffff800000000000ull     // PML4 slots 256..263
#define DIRECT_MAP_SIZE (4096ull * GIB)

enum boot_mem_type {
    BOOT_MEM_FREE,        // conventional, or boot services' once they are gone
    BOOT_MEM_LOADER,      // holds the kernel, guest images, this structure
    BOOT_MEM_ACPI,        // ACPI tables, NVS, runtime services: RAM, not ours
    BOOT_MEM_RESERVED,
    BOOT_MEM_DEVICE,
};

struct boot_mem { u64 base, size; u32 type, pad; };

struct boot_file { u64 phys, size; char name[128]; };

// Tests of the bare machine that take the place of a guest (kernel/selftest.h).
enum boot_selftest {
    SELFTEST_NONE, SELFTEST_CORES, SELFTEST_PANIC, SELFTEST_OVERFLOW, SELFTEST_RESET, SELFTEST_STICK, SELFTEST_USB, SELFTEST_IO,
};

// A linear framebuffer of 32-bit pixels; phys 0: none.
struct boot_framebuffer {
    u64 phys, size;
    u32 width, height, stride;             // stride in pixels
    u8 red_shift, green_shift, blue_shift, pad;
};

// The partition that Cupel was loaded from, as the firmware names it (UEFI 2.10, 10.3.5.1): the only one that is ever written.
enum boot_partition_kind { BOOT_PARTITION_UNKNOWN, BOOT_PARTITION_GPT, BOOT_PARTITION_MBR };
struct boot_partition {
    u8 kind;                               // enum boot_partition_kind; unknown: there is none (BIOS, network, a volume without a table)
    u8 usb;                                // its disk is behind a USB controller
    u8 pad[2];
    u32 block_size;                        // bytes, the unit of start and count
    u32 number, pad2;                      // from 1
    u64 start, count;
    u8 id[16];                             // GPT: the partition's unique GUID; MBR: the disk's signature in the first four
};

struct boot_info {
    u64 magic;
    u32 version, size;
    u64 self_phys;                         // of this structure, page-aligned
    u64 kernel_phys, kernel_size;          // the loaded image, contiguous
    u64 mem_map_phys, mem_map_count;       // struct boot_mem[], ascending, not overlapping
    u64 rsdp_phys;                         // 0: none
    u64 wall_ns, wall_tsc;                 // wall clock (ns since 1970 UTC) and the TSC at which it was read
    struct boot_framebuffer fb;

    // The chosen boot entry, checked by the loader.
    struct boot_file kernel, initrd, drive;   // size 0: none. drive: image of the guest's disk
    u64 guest_ram;                         // bytes
    u32 smp;                               // 0: as many as there are cores (assay)
    u8 exit_poll, no_chain, no_reboot, debugcon, virtio_rng, virtio_console;
    u8 drive_host;                         // 1 + number of the host's virtio disk that is the guest's; 0: none
    u8 thread;                             // 0 default, 1 single, 2 multi
    u8 icount, icount_shift, icount_sleep_off;
    u8 seeded;
    u8 rtc_base, rtc_clock;                // base: 0 default, 1 UTC, 2 rtc_sec; clock: 0 default, 1 host, 2 virtual
    u8 selftest;                           // enum boot_selftest
    u8 profile;
    u8 iothread;                           // cores given to I/O, which serve the drive; 0: under the BQL
    u8 num_queues;                         // of the drive; 0: one per vCPU
    u8 pad[2];
    u64 seed;
    s64 rtc_sec;                           // seconds since 1970
    u64 tb_size;                           // 0: default
    u32 debug_exit_base, debug_exit_size;  // size 0: absent
    u32 serial_port;                       // I/O port; 0: none; BOOT_SERIAL_AUTO: as SPCR says, else COM1
    u32 serial_baud;                       // 0: as the firmware left it
    struct boot_partition partition;
    char firmware[96];                     // who made it and which version; empty: unknown
    char assay[256];                       // options of the assay in place of a guest; empty: none
    char title[64];
    char append[2048];
    char error[256];                       // what is wrong with the entry, for the kernel to say; empty: nothing
};

#define BOOT_SERIAL_AUTO 0xffffffffu
