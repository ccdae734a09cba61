// Reading whole files from the volume that the application was loaded from, and pages for them. Everything is allocated as EfiLoaderData,
// which reaches the kernel as BOOT_MEM_LOADER.
#include "boot/boot.h"

#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"

static EFI_GUID guid_image = EFI_LOADED_IMAGE_PROTOCOL_GUID;
static EFI_GUID guid_volume = EFI_SIMPLE_FILE_SYSTEM_PROTOCOL_GUID;
static EFI_GUID guid_info = EFI_FILE_INFO_ID;

u64 boot_pages_alloc(struct boot *b, u64 size)
{
    EFI_PHYSICAL_ADDRESS a = 0;
    u64 pages = align_up(size, PAGE_SIZE) >> PAGE_SHIFT;
    if (b->bs->AllocatePages(AllocateAnyPages, EfiLoaderData, pages, &a) != EFI_SUCCESS) return 0;
    memset((void *)a, 0, pages << PAGE_SHIFT);
    return a;
}

void boot_pages_free(struct boot *b, u64 phys, u64 size)
{
    if (phys) b->bs->FreePages(phys, align_up(size, PAGE_SIZE) >> PAGE_SHIFT);
}

bool boot_volume_open(struct boot *b, char *err, size_t errlen)
{
    EFI_LOADED_IMAGE *li;
    EFI_SIMPLE_FILE_SYSTEM_PROTOCOL *fs;
    if (b->bs->HandleProtocol(b->image, &guid_image, (void **)&li) != EFI_SUCCESS ||
        b->bs->HandleProtocol(li->DeviceHandle, &guid_volume, (void **)&fs) != EFI_SUCCESS || fs->OpenVolume(fs, &b->root) != EFI_SUCCESS) {
        fmt_snprintf(err, errlen, "cannot open the volume that cupel.efi was loaded from; start it from a FAT file system");
        return false;
    }
    return true;
}

static u64 file_size(EFI_FILE_PROTOCOL *f)
{
    static u8 room[sizeof(EFI_FILE_INFO) + 512] __attribute__((aligned(8)));
    UINTN n = sizeof(room);
    if (f->GetInfo(f, &guid_info, &n, room) != EFI_SUCCESS) return 0;
    const EFI_FILE_INFO *fi = (const EFI_FILE_INFO *)room;
    return fi->Attribute & EFI_FILE_DIRECTORY ? 0 : fi->FileSize;
}

// In pieces: some firmware fails on reads of many megabytes at once.
static bool file_read_all(EFI_FILE_PROTOCOL *f, u8 *dst, u64 size)
{
    while (size) {
        UINTN n = min_u64(size, MIB);
        if (f->Read(f, &n, dst) != EFI_SUCCESS || n == 0) return false;
        dst += n;
        size -= n;
    }
    return true;
}

bool boot_file_read(struct boot *b, const char *path, struct boot_file *out, char *err, size_t errlen)
{
    CHAR16 wide[CONFIG_PATH];
    size_t n = strlen(path);
    for (size_t i = 0; i <= n; i++) wide[i] = (u8)path[i];
    EFI_FILE_PROTOCOL *f;
    *out = (struct boot_file){0};
    if (b->root->Open(b->root, &f, wide, EFI_FILE_MODE_READ, 0) != EFI_SUCCESS) {
        fmt_snprintf(err, errlen, "%s is not on this volume; copy it there or mend the path", path);
        return false;
    }
    u64 size = file_size(f);
    if (!size) {
        fmt_snprintf(err, errlen, "%s is empty or a directory; name a file", path);
    } else if (!(out->phys = boot_pages_alloc(b, size))) {
        fmt_snprintf(err, errlen, "no memory for the %llu KiB of %s", (unsigned long long)(size / KIB), path);
    } else if (!file_read_all(f, (u8 *)out->phys, size)) {
        fmt_snprintf(err, errlen, "%s cannot be read; the volume may be damaged", path);
        boot_pages_free(b, out->phys, size);
        out->phys = 0;
    }
    f->Close(f);
    if (!out->phys) return false;
    out->size = size;
    memcpy(out->name, path, n + 1);
    return true;
}
