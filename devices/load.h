// Direct boot: puts a kernel and what it wants to be told into guest memory, as a boot loader would, and says how the processor
// must start. bzImage by the Linux boot protocol, or an ELF (or flat) image with a multiboot-1 header. File contents are untrusted:
// whatever is in them ends in a loaded kernel or an error text.
#pragma once

#include "kernel/base/types.h"
#include "kernel/machine.h"
#include "tcg/phys.h"

struct load_request {
    struct blob kernel;         // required
    struct blob initrd;         // data NULL: none
    const char *cmdline;        // NULL: empty
    struct gpa rsdp;            // from acpi_tables_build; 0: none
};

// How vCPU 0 starts. Interrupts off, all other general registers zero; the other processors wait for SIPI.
struct load_result {
    bool mode64;                // long mode with paging on at cr3; otherwise 32-bit protected mode, paging off
    u64 entry;                  // RIP, or linear EIP
    u64 rsi;                    // Linux: boot_params
    u32 eax, ebx;               // multiboot: magic and information structure
    u64 rsp;                    // 0: none
    u64 cr3;                    // identity map of the first 4 GiB in 2 MiB pages; meaningful if mode64
    u64 gdt_base;               // flat GDT in guest memory: 0x10 code of the starting mode, 0x18 data (base 0, limit 4 GiB)
    u16 gdt_limit;
    u16 cs, ds;                 // selectors to load; ds also into es, ss, fs, gs
    const char *what;           // "Linux 6.1.0 (64-bit entry)" for the log; static or inside the request's kernel
};

// Loads rq->kernel into the RAM of p, as the regions of p describe it. On failure false, with one line that names the reason and, where
// there is one, the mend in err. May be called again after a guest reset. BQL held, or before the first vCPU runs.
bool load_kernel(struct phys *p, const struct load_request *rq, struct load_result *res, char *err, size_t errlen) MUST_CHECK;

// ---- between the loaders ------------------------------------------------------------------------------------------

// Low memory that loaders use; all below 0x9fc00, where the BIOS data begins.
enum {
    LOAD_GDT = 0x7000,
    LOAD_STACK_TOP = 0x8000,
    LOAD_INFO = 0x10000,        // boot_params or the multiboot information
    LOAD_CMDLINE = 0x20000, LOAD_CMDLINE_MAX = 0x10000,
    LOAD_PAGES = 0x30000,       // PML4, PDPT, four PDs
    LOAD_LOW_END = 0x9fc00,
};

enum e820_type { E820_RAM = 1, E820_RESERVED = 2 };
struct load_range { u64 base, size; u32 type; };
enum { LOAD_RANGES = 32 };

struct loader {
    struct phys *phys;
    const struct load_request *rq;
    struct load_result *res;
    char *err;
    size_t errlen;
    struct load_range map[LOAD_RANGES];   // the memory map to tell the guest, ascending
    unsigned nmap;
};

// Formats the message and returns false.
bool load_fail(struct loader *l, const char *fmt, ...) PRINTF(2, 3);
// Is [a, a + len) inside one RAM range of the map?
bool load_in_ram(const struct loader *l, u64 a, u64 len);
// The highest page-aligned address of len bytes of RAM within [from, to), or 0.
u64 load_place_high(const struct loader *l, u64 len, u64 from, u64 to);
// End of the RAM range that holds a, or a itself.
u64 load_ram_end(const struct loader *l, u64 a);
void load_put(struct loader *l, u64 a, const void *data, u64 len);
void load_zero(struct loader *l, u64 a, u64 len);
// The command line, zero-terminated, at LOAD_CMDLINE; false with a message when it is longer than max.
bool load_cmdline(struct loader *l, u64 max) MUST_CHECK;
// The GDT; fills gdt_base, gdt_limit, cs, ds.
void load_gdt(struct loader *l, bool mode64);

bool linux_probe(const struct blob *k);
bool linux_load(struct loader *l) MUST_CHECK;
bool multiboot_probe(const struct blob *k);
bool multiboot_load(struct loader *l) MUST_CHECK;

// Little-endian fields of an image; the caller has checked that off + size is inside.
static inline u64 blob_ld(const struct blob *b, u64 off, unsigned size)
{
    u64 v = 0;
    for (unsigned i = 0; i < size; i++) v |= (u64)b->data[off + i] << 8 * i;
    return v;
}
