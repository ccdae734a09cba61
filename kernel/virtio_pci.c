// The host's virtio devices over PCI.
#include "kernel/virtio_pci.h"

#include "kernel/cpu.h"
#include "kernel/hostpci.h"
#include "kernel/lapic.h"

enum { VENDOR = 0x1af4, MODERN = 0x1040 };
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_DEVICE = 4 };
enum { C_DEVICE_SEL = 0, C_DEVICE = 4, C_DRIVER_SEL = 8, C_DRIVER = 0x0c, C_STATUS = 0x14, C_QUEUE_SEL = 0x16, C_QUEUE_SIZE = 0x18,
       C_QUEUE_VECTOR = 0x1a, C_QUEUE_ENABLE = 0x1c, C_NOTIFY_OFF = 0x1e, C_DESC = 0x20, C_AVAIL = 0x28, C_USED = 0x30 };
enum { NO_VECTOR = 0xffff };
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, VERSION_1 = 32 };

static void caps_map(struct vpci *v)
{
    unsigned at = 0;
    for (unsigned steps = 0; steps < 16 && (at = hostpci_cap(v->bdf, HOSTPCI_CAP_VENDOR, at)); steps++) {
        u8 type = hostpci_read8(v->bdf, at + 3), bar = hostpci_read8(v->bdf, at + 4);
        volatile u8 **where = type == CAP_COMMON ? &v->common : type == CAP_NOTIFY ? &v->notify : type == CAP_DEVICE ? &v->config : NULL;
        if (!where || *where) continue;             // 4.1.4.1: the first of a type is the preferred one
        *where = hostpci_bar_map(v->bdf, bar, hostpci_read(v->bdf, at + 8), hostpci_read(v->bdf, at + 12));
        if (type == CAP_NOTIFY) v->notify_step = hostpci_read(v->bdf, at + 16);
    }
}

bool vpci_find(unsigned type, unsigned nth, struct vpci *v)
{
    for (u32 bdf = HOSTPCI_NONE; (bdf = hostpci_next(bdf)) != HOSTPCI_NONE;) {
        u32 id = hostpci_read(bdf, HOSTPCI_ID), device = id >> 16;
        // A transitional device has an old number (block: 0x1001) and, if it has capabilities, the modern interface too.
        if ((id & 0xffff) != VENDOR || (device != MODERN + type && device != 0x1000 + type - 1)) continue;
        *v = (struct vpci){.bdf = bdf};
        hostpci_enable(bdf);
        caps_map(v);
        if (v->common && v->notify && v->config && nth-- == 0) return true;
    }
    return false;
}

static void put8(struct vpci *v, unsigned at, u8 x) { v->common[at] = x; }
static void put16(struct vpci *v, unsigned at, u16 x) { *(volatile u16 *)(v->common + at) = x; }
static void put32(struct vpci *v, unsigned at, u32 x) { *(volatile u32 *)(v->common + at) = x; }
static u16 get16(struct vpci *v, unsigned at) { return *(volatile u16 *)(v->common + at); }
static u32 get32(struct vpci *v, unsigned at) { return *(volatile u32 *)(v->common + at); }
static void put64(struct vpci *v, unsigned at, u64 x)
{
    put32(v, at, (u32)x);
    put32(v, at + 4, x >> 32);
}

bool vpci_start(struct vpci *v, u64 *features)
{
    u64 offered = 0;
    put8(v, C_STATUS, 0);
    for (unsigned spins = 0; v->common[C_STATUS] && spins < 1000000; spins++) cpu_pause();
    put8(v, C_STATUS, ACKNOWLEDGE | DRIVER);
    for (unsigned half = 0; half < 2; half++) {
        put32(v, C_DEVICE_SEL, half);
        offered |= (u64)get32(v, C_DEVICE) << 32 * half;
    }
    *features = (*features | BIT(VERSION_1)) & offered;
    for (unsigned half = 0; half < 2; half++) {
        put32(v, C_DRIVER_SEL, half);
        put32(v, C_DRIVER, *features >> 32 * half);
    }
    put8(v, C_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    return (*features & BIT(VERSION_1)) && (v->common[C_STATUS] & FEATURES_OK);
}

// MSI-X with vector 0 open and sent to this core.
static bool msix_on(struct vpci *v, u8 vector)
{
    unsigned at = hostpci_cap(v->bdf, HOSTPCI_CAP_MSIX, 0);
    if (!at) return false;
    u32 where = hostpci_read(v->bdf, at + 4);
    volatile u32 *entry = (volatile u32 *)hostpci_bar_map(v->bdf, where & 7, where & ~7u, 16);
    if (!entry) return false;
    hostpci_write(v->bdf, at, (hostpci_read(v->bdf, at) & 0x3fffffff) | 1u << 31);
    entry[0] = 0xfee00000 | lapic_id() << 12;       // SDM 3A 11.11
    entry[1] = 0;
    entry[2] = vector;
    entry[3] = 0;
    return lapic_id() < 256;
}

bool vpci_queue(struct vpci *v, u16 *size, u64 desc, u64 avail, u64 used, u8 vector)
{
    put16(v, C_QUEUE_SEL, 0);
    u16 most = get16(v, C_QUEUE_SIZE);
    if (!most || (vector && !msix_on(v, vector))) return false;
    if (most < *size) *size = most;
    put16(v, C_QUEUE_SIZE, *size);
    put64(v, C_DESC, desc);
    put64(v, C_AVAIL, avail);
    put64(v, C_USED, used);
    u16 entry = vector ? 0 : NO_VECTOR;
    put16(v, C_QUEUE_VECTOR, entry);
    if (vector && get16(v, C_QUEUE_VECTOR) != entry) return false;
    v->queue_notify = v->notify + (u64)get16(v, C_NOTIFY_OFF) * v->notify_step;
    put16(v, C_QUEUE_ENABLE, 1);
    return true;
}

void vpci_go(struct vpci *v) { put8(v, C_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK); }

u64 vpci_config(const struct vpci *v, unsigned at, unsigned size)
{
    if (size == 8) return vpci_config(v, at, 4) | vpci_config(v, at + 4, 4) << 32;
    if (size == 4) return *(volatile u32 *)(v->config + at);
    return size == 2 ? *(volatile u16 *)(v->config + at) : v->config[at];
}
