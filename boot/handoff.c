// From a chosen boot entry to the kernel's first instruction.
//
// Everything that can fail comes first, under boot services (boot_prepare): files, kernel image, page tables, description of the
// machine. What is left for after the point of no return (boot_enter_kernel) cannot fail: translate the memory map in place, set
// EFER.NXE, load CR3, jump. The memory map is fetched into room allocated beforehand, because allocating changes the map;
// ExitBootServices may still refuse a stale key, and is then tried again with a fresh map (UEFI 2.10, 7.4.6).
#include "boot/boot.h"

#include <elf.h>
#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/base/date.h"
#include "kernel/base/fmt.h"

enum { MAP_ROOM = 64 * 1024, TRIES = 8 };

static EFI_GUID guid_gop = EFI_GRAPHICS_OUTPUT_PROTOCOL_GUID;
static EFI_GUID guid_acpi2 = ACPI_20_TABLE_GUID;
static EFI_GUID guid_acpi1 = ACPI_TABLE_GUID;

static u64 handoff_tsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (u64)hi << 32 | lo;
}

// The shift of a contiguous 8-bit channel mask.
static u8 mask_shift(u32 mask) { return mask ? (u8)__builtin_ctz(mask) : 0; }

static void info_framebuffer(struct boot *b, struct boot_framebuffer *fb)
{
    EFI_GRAPHICS_OUTPUT_PROTOCOL *gop;
    if (b->bs->LocateProtocol(&guid_gop, NULL, (void **)&gop) != EFI_SUCCESS || !gop->Mode || !gop->Mode->Info) return;
    const EFI_GRAPHICS_OUTPUT_MODE_INFORMATION *m = gop->Mode->Info;
    switch (m->PixelFormat) {
    case PixelRedGreenBlueReserved8BitPerColor: fb->green_shift = 8; fb->blue_shift = 16; break;
    case PixelBlueGreenRedReserved8BitPerColor: fb->red_shift = 16; fb->green_shift = 8; break;
    case PixelBitMask:
        fb->red_shift = mask_shift(m->PixelInformation.RedMask);
        fb->green_shift = mask_shift(m->PixelInformation.GreenMask);
        fb->blue_shift = mask_shift(m->PixelInformation.BlueMask);
        break;
    default: return;   // BltOnly: no framebuffer after boot services
    }
    fb->phys = gop->Mode->FrameBufferBase;
    fb->size = gop->Mode->FrameBufferSize;
    fb->width = m->HorizontalResolution;
    fb->height = m->VerticalResolution;
    fb->stride = m->PixelsPerScanLine;
}

static u64 info_rsdp(struct boot *b)
{
    u64 found = 0;
    for (UINTN i = 0; i < b->st->NumberOfTableEntries; i++) {
        const EFI_CONFIGURATION_TABLE *t = &b->st->ConfigurationTable[i];
        if (!memcmp(&t->VendorGuid, &guid_acpi2, sizeof(EFI_GUID))) return (u64)t->VendorTable;
        if (!memcmp(&t->VendorGuid, &guid_acpi1, sizeof(EFI_GUID))) found = (u64)t->VendorTable;
    }
    return found;
}

static void info_wall_clock(struct boot *b, struct boot_info *info)
{
    EFI_TIME t;
    info->wall_tsc = handoff_tsc();
    if (b->st->RuntimeServices->GetTime(&t, NULL) != EFI_SUCCESS) return;
    s64 s = date_days(t.Year, t.Month, t.Day) * 86400 + t.Hour * 3600 + t.Minute * 60 + t.Second;
    if (t.TimeZone != EFI_UNSPECIFIED_TIMEZONE) s += t.TimeZone * 60;   // local = UTC - zone minutes (UEFI 8.3)
    info->wall_ns = (u64)s * NS_PER_SEC + t.Nanosecond;
}

// CHAR16, which other than ASCII nobody has been seen to use.
static void info_firmware(struct boot *b, struct boot_info *info)
{
    char vendor[64] = "";
    const CHAR16 *v = b->st->FirmwareVendor;
    for (unsigned i = 0; v && v[i] && i + 1 < sizeof(vendor); i++) vendor[i] = v[i] >= ' ' && v[i] < 0x7f ? (char)v[i] : '?';
    fmt_snprintf(info->firmware, sizeof(info->firmware), "%s %u.%u (UEFI %u.%u)", vendor, b->st->FirmwareRevision >> 16,
                 b->st->FirmwareRevision & 0xffff, b->st->Hdr.Revision >> 16, (b->st->Hdr.Revision & 0xffff) / 10);
}

// ---- the kernel's image ----

static bool elf_extent(const Elf64_Ehdr *eh, u64 *size)
{
    if (memcmp(eh->e_ident, ELFMAG, SELFMAG) || eh->e_machine != EM_X86_64) return false;
    const Elf64_Phdr *ph = (const Elf64_Phdr *)((const u8 *)eh + eh->e_phoff);
    *size = 0;
    for (unsigned i = 0; i < eh->e_phnum; i++)
        if (ph[i].p_type == PT_LOAD) *size = max_u64(*size, align_up(ph[i].p_vaddr + ph[i].p_memsz - KERNEL_VIRT, PAGE_SIZE));
    return *size != 0;
}

// Copies the segments; the pages are zeroed already, which is the BSS.
static void elf_copy(const Elf64_Ehdr *eh, u64 phys)
{
    const Elf64_Phdr *ph = (const Elf64_Phdr *)((const u8 *)eh + eh->e_phoff);
    for (unsigned i = 0; i < eh->e_phnum; i++)
        if (ph[i].p_type == PT_LOAD)
            memcpy((void *)(phys + ph[i].p_vaddr - KERNEL_VIRT), (const u8 *)eh + ph[i].p_offset, ph[i].p_filesz);
}

static void info_release(struct boot *b, struct boot_info *info)
{
    boot_pages_free(b, info->kernel.phys, info->kernel.size);
    boot_pages_free(b, info->initrd.phys, info->initrd.size);
    boot_pages_free(b, info->drive.phys, info->drive.size);
    boot_pages_free(b, info->kernel_phys, info->kernel_size);
    boot_pages_free(b, info->mem_map_phys, MAP_ROOM);
    boot_pages_free(b, info->self_phys, sizeof(*info));
}

// A file named on line `line` of the configuration.
static bool info_file(struct boot *b, const char *path, unsigned line, struct boot_file *out, char *err, size_t errlen)
{
    if (!path[0]) return true;
    int n = fmt_snprintf(err, errlen, "\\cupel.conf:%u: ", line);
    boot_print(b, "Loading %s ...\n", path);
    return boot_file_read(b, path, out, err + n, errlen - (size_t)n);
}

bool boot_prepare(struct boot *b, const struct config_entry *e, struct boot_info **out, u64 *entry, char *err, size_t errlen)
{
    const Elf64_Ehdr *eh = (const Elf64_Ehdr *)kernel_elf;
    struct boot_info *info = (struct boot_info *)boot_pages_alloc(b, sizeof(*info));
    fmt_snprintf(err, errlen, "no memory to load the kernel");
    if (!info) return false;
    info->magic = BOOT_INFO_MAGIC;
    info->version = BOOT_INFO_VERSION;
    info->size = sizeof(*info);
    info->self_phys = (u64)info;
    config_apply(e, info);
    info_firmware(b, info);
    bool ok = info_file(b, e->kernel, e->kernel_line, &info->kernel, err, errlen) &&
              info_file(b, e->initrd, e->initrd_line, &info->initrd, err, errlen) &&
              (config_drive_host(e) >= 0 || info_file(b, e->drive, e->drive_line, &info->drive, err, errlen));
    if (ok && !elf_extent(eh, &info->kernel_size)) {
        fmt_snprintf(err, errlen, "the kernel inside cupel.efi is damaged; copy the file anew");
        ok = false;
    }
    if (ok) {
        fmt_snprintf(err, errlen, "no memory to load the kernel");
        info->kernel_phys = boot_pages_alloc(b, info->kernel_size);
        info->mem_map_phys = boot_pages_alloc(b, MAP_ROOM);
        ok = info->kernel_phys && info->mem_map_phys;
    }
    if (!ok) {
        info_release(b, info);
        return false;
    }
    elf_copy(eh, info->kernel_phys);
    info_framebuffer(b, &info->fb);
    info->rsdp_phys = info_rsdp(b);
    info_wall_clock(b, info);
    boot_partition_find(b, &info->partition);
    *out = info;
    *entry = eh->e_entry;
    return true;
}

// ---- the memory map ----

static u32 map_type(u32 efi)
{
    switch (efi) {
    case EfiConventionalMemory: case EfiBootServicesCode: case EfiBootServicesData: case EfiLoaderCode: return BOOT_MEM_FREE;
    case EfiLoaderData: return BOOT_MEM_LOADER;
    case EfiACPIReclaimMemory: case EfiACPIMemoryNVS: case EfiRuntimeServicesCode: case EfiRuntimeServicesData: return BOOT_MEM_ACPI;
    case EfiMemoryMappedIO: case EfiMemoryMappedIOPortSpace: return BOOT_MEM_DEVICE;
    default: return BOOT_MEM_RESERVED;
    }
}

static bool map_is_ram(u32 type) { return type == BOOT_MEM_FREE || type == BOOT_MEM_LOADER || type == BOOT_MEM_ACPI; }

struct efi_map { u8 *raw; UINTN size, key, step; };

static bool map_fetch(struct boot *b, struct efi_map *m)
{
    UINT32 version;
    m->size = MAP_ROOM / 2;
    return b->bs->GetMemoryMap(&m->size, (EFI_MEMORY_DESCRIPTOR *)m->raw, &m->key, &m->step, &version) == EFI_SUCCESS;
}

// First address above all RAM.
static u64 map_ram_top(const struct efi_map *m)
{
    u64 top = 4 * GIB;   // firmware tables and this program are below in any case
    for (UINTN o = 0; o < m->size; o += m->step) {
        const EFI_MEMORY_DESCRIPTOR *d = (const EFI_MEMORY_DESCRIPTOR *)(m->raw + o);
        if (map_is_ram(map_type(d->Type))) top = max_u64(top, d->PhysicalStart + (d->NumberOfPages << PAGE_SHIFT));
    }
    return min_u64(align_up(top, 2 * MIB), DIRECT_MAP_SIZE);
}

// EFI descriptors -> struct boot_mem[], sorted by address and merged. The result is behind the raw map in the same room.
static u64 map_translate(const struct efi_map *m, struct boot_mem *out)
{
    u64 n = 0;
    for (UINTN o = 0; o < m->size; o += m->step) {
        const EFI_MEMORY_DESCRIPTOR *d = (const EFI_MEMORY_DESCRIPTOR *)(m->raw + o);
        struct boot_mem r = {d->PhysicalStart, d->NumberOfPages << PAGE_SHIFT, map_type(d->Type), 0};
        u64 i = n++;
        for (; i && out[i - 1].base > r.base; i--) out[i] = out[i - 1];
        out[i] = r;
    }
    u64 k = 0;
    for (u64 i = 0; i < n; i++) {
        if (k && out[k - 1].type == out[i].type && out[k - 1].base + out[k - 1].size == out[i].base) out[k - 1].size += out[i].size;
        else out[k++] = out[i];
    }
    return k;
}

static void enter(u64 tables, u64 entry, u64 info)
{
    u32 lo, hi;
    __asm__ volatile("cli");
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(0xc0000080));          // EFER.NXE, before the first PTE with NX is used
    __asm__ volatile("wrmsr" : : "a"(lo | 0x800), "d"(hi), "c"(0xc0000080));
    __asm__ volatile("mov %0, %%cr3; jmp *%1" : : "r"(tables), "r"(entry), "D"(info) : "memory");
    __builtin_unreachable();
}

void boot_enter_kernel(struct boot *b, struct boot_info *info, u64 entry)
{
    struct efi_map m = {.raw = (u8 *)info->mem_map_phys};
    struct boot_mem *out = (struct boot_mem *)(info->mem_map_phys + MAP_ROOM / 2);
    if (!map_fetch(b, &m)) {
        boot_print(b, "! The firmware gives no memory map, or one of more than %u KiB.\n", MAP_ROOM / 2048);
        return;
    }
    u64 tables = boot_tables_build(b, kernel_elf, info->kernel_phys, map_ram_top(&m));
    if (!tables) {
        boot_print(b, "! No memory for page tables.\n");
        return;
    }
    for (unsigned i = 0; i < TRIES; i++) {
        if (!map_fetch(b, &m) || b->bs->ExitBootServices(b->image, m.key) != EFI_SUCCESS) continue;
        info->mem_map_count = map_translate(&m, out);
        info->mem_map_phys = (u64)out;
        enter(tables, entry, info->self_phys);
    }
    boot_print(b, "! The firmware refuses to end its boot services.\n");
}
