// Which partition the application was loaded from: the device path of its volume names it (UEFI 2.10, 10.3.5.1), in terms that the kernel
// finds again in the partition table. A volume without such a node (a CD, the network, a stick without a table) stays unknown, and is
// never written.
#include "boot/boot.h"

#include <string.h>

static EFI_GUID guid_image = EFI_LOADED_IMAGE_PROTOCOL_GUID;
static EFI_GUID guid_path = EFI_DEVICE_PATH_PROTOCOL_GUID;
static EFI_GUID guid_block = EFI_BLOCK_IO_PROTOCOL_GUID;

enum { TABLE_MBR = 1, TABLE_GPT = 2, ID_MBR = 1, ID_GUID = 2, NODE_SIZE = 42, PATH_NODES = 64 };

static void partition_take(const HARDDRIVE_DEVICE_PATH *h, struct boot_partition *out)
{
    if (DevicePathNodeLength(&h->Header) < NODE_SIZE) return;
    if (h->MBRType == TABLE_GPT && h->SignatureType == ID_GUID) out->kind = BOOT_PARTITION_GPT;
    else if (h->MBRType == TABLE_MBR && h->SignatureType == ID_MBR) out->kind = BOOT_PARTITION_MBR;
    else return;
    out->number = h->PartitionNumber;
    out->start = h->PartitionStart;
    out->count = h->PartitionSize;
    memcpy(out->id, h->Signature, sizeof(out->id));
}

static bool node_is_usb(const EFI_DEVICE_PATH_PROTOCOL *n)
{
    return DevicePathType(n) == MESSAGING_DEVICE_PATH &&
           (n->SubType == MSG_USB_DP || n->SubType == MSG_USB_WWID_DP || n->SubType == MSG_USB_CLASS_DP);
}

void boot_partition_find(struct boot *b, struct boot_partition *out)
{
    EFI_LOADED_IMAGE *li;
    EFI_DEVICE_PATH_PROTOCOL *n;
    EFI_BLOCK_IO_PROTOCOL *io;
    *out = (struct boot_partition){0};
    if (b->bs->HandleProtocol(b->image, &guid_image, (void **)&li) != EFI_SUCCESS ||
        b->bs->HandleProtocol(li->DeviceHandle, &guid_path, (void **)&n) != EFI_SUCCESS ||
        b->bs->HandleProtocol(li->DeviceHandle, &guid_block, (void **)&io) != EFI_SUCCESS) return;
    out->block_size = io->Media->BlockSize;
    for (unsigned i = 0; i < PATH_NODES && !IsDevicePathEndType(n) && DevicePathNodeLength(n) >= (int)sizeof(*n); i++) {
        if (DevicePathType(n) == MEDIA_DEVICE_PATH && n->SubType == MEDIA_HARDDRIVE_DP)
            partition_take((const HARDDRIVE_DEVICE_PATH *)n, out);
        if (node_is_usb(n)) out->usb = 1;
        n = NextDevicePathNode(n);
    }
}
