// What the files of the UEFI application share. All of it runs on one core under boot services, until boot_enter_kernel leaves them.
#pragma once

#include <efi.h>

#include "boot/config.h"
#include "kernel/boot_info.h"

struct boot {
    EFI_HANDLE image;
    EFI_SYSTEM_TABLE *st;
    EFI_BOOT_SERVICES *bs;
    EFI_FILE_PROTOCOL *root;       // of the volume we were loaded from
    u16 raw_serial;                // UART that the firmware's console does not drive: written by us; 0: none
};

// ---- console.c: text and keys, on whatever the firmware calls its console and on the configured UART ----
void boot_console_init(struct boot *b);
void boot_console_use_serial(struct boot *b, u32 port, u32 baud);
void boot_print(struct boot *b, const char *fmt, ...) PRINTF(2, 3);
enum { KEY_NONE = -1, KEY_UP = 0x100, KEY_DOWN };
int boot_key(struct boot *b);                       // KEY_NONE at once when there is none
void boot_stall_ms(struct boot *b, unsigned ms);

// ---- files.c: the volume. Both give file contents in fresh BOOT_MEM_LOADER pages; false with a message in err ----
bool boot_volume_open(struct boot *b, char *err, size_t errlen) MUST_CHECK;
bool boot_file_read(struct boot *b, const char *path, struct boot_file *out, char *err, size_t errlen) MUST_CHECK;
u64 boot_pages_alloc(struct boot *b, u64 size);     // zeroed; physical address, 0 when there is no memory
void boot_pages_free(struct boot *b, u64 phys, u64 size);

// ---- partition.c: what the device path of that volume says of its partition ----
void boot_partition_find(struct boot *b, struct boot_partition *out);

// ---- menu.c: the entry to boot; -1: back to the firmware ----
int boot_menu(struct boot *b, const struct config *c, bool *countdown);

// ---- handoff.c: everything from the chosen entry to the kernel's first instruction ----
// Fills the boot information, loads the kernel and the guest's files. On failure frees what it took.
bool boot_prepare(struct boot *b, const struct config_entry *e, struct boot_info **out, u64 *entry, char *err, size_t errlen) MUST_CHECK;
// Leaves boot services and enters the kernel. Returns only if the firmware refuses, with boot services still usable.
void boot_enter_kernel(struct boot *b, struct boot_info *info, u64 entry);

// ---- paging.c ---- Page tables for the hand-over, as boot_info.h describes; physical address of the top table, or 0. The kernel's
// segments come from its ELF headers.
u64 boot_tables_build(struct boot *b, const void *elf, u64 kernel_phys, u64 ram_top);

extern const u8 kernel_elf[], kernel_elf_end[];     // the embedded kernel
