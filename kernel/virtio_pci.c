// The host's virtio devices over PCI. Configuration space is reached by the ports 0xcf8/0xcfc, which every PC with virtio devices has;
// buses are scanned whole, because bridges may have been numbered with gaps. The firmware has assigned the BARs.
#include "kernel/virtio_pci.h"

#include "kernel/cpu.h"
#include "kernel/lapic.h"
#include "kernel/vmem.h"

enum { VENDOR = 0x1af4, MODERN = 0x1040, CMD = 4, HEADER_TYPE = 0x0e, BAR0 = 0x10, CAP_PTR = 0x34, CAP_VENDOR = 9, CAP_MSIX = 0x11 };
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_DEVICE = 4 };
enum { C_DEVICE_SEL = 0, C_DEVICE = 4, C_DRIVER_SEL = 8, C_DRIVER = 0x0c, C_STATUS = 0x14, C_QUEUE_SEL = 0x16, C_QUEUE_SIZE = 0x18,
       C_QUEUE_VECTOR = 0x1a, C_QUEUE_ENABLE = 0x1c, C_NOTIFY_OFF = 0x1e, C_DESC = 0x20, C_AVAIL = 0x28, C_USED = 0x30 };
enum { NO_VECTOR = 0xffff };
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, VERSION_1 = 32 };

static u32 cfg_read(u32 bdf, unsigned reg)
{
    u64 flags = cpu_irq_save();
    cpu_out32(0xcf8, 1u << 31 | bdf << 8 | (reg & 0xfc));
    u32 v = cpu_in32(0xcfc);
    cpu_irq_restore(flags);
    return v;
}

static void cfg_write(u32 bdf, unsigned reg, u32 v)
{
    u64 flags = cpu_irq_save();
    cpu_out32(0xcf8, 1u << 31 | bdf << 8 | (reg & 0xfc));
    cpu_out32(0xcfc, v);
    cpu_irq_restore(flags);
}

static u8 cfg_byte(u32 bdf, unsigned reg) { return cfg_read(bdf, reg) >> 8 * (reg & 3); }

static u64 bar_address(u32 bdf, unsigned n)
{
    if (n > 5) return 0;
    u32 lo = cfg_read(bdf, BAR0 + 4 * n);
    if (lo & 1) return 0;
    return (lo & ~15u) | ((lo & 6) == 4 && n < 5 ? (u64)cfg_read(bdf, BAR0 + 4 * n + 4) << 32 : 0);
}

static volatile u8 *bar_map(u32 bdf, unsigned bar, u32 offset, u32 length)
{
    u64 a = bar_address(bdf, bar);
    return a && length ? vmem_map_phys(a + offset, length, VMEM_WRITE | VMEM_UC) : NULL;
}

// The first capability of this id, or behind `after`; 0: none. A list that runs in circles ends.
static unsigned cap_next(u32 bdf, u8 id, unsigned after)
{
    unsigned at = cfg_byte(bdf, after ? after + 1 : CAP_PTR) & 0xfc;
    for (unsigned steps = 0; at && steps < 64; at = cfg_byte(bdf, at + 1) & 0xfc, steps++)
        if (cfg_byte(bdf, at) == id) return at;
    return 0;
}

static void caps_map(struct vpci *v)
{
    unsigned at = 0;
    for (unsigned steps = 0; steps < 16 && (at = cap_next(v->bdf, CAP_VENDOR, at)); steps++) {
        u8 type = cfg_byte(v->bdf, at + 3), bar = cfg_byte(v->bdf, at + 4);
        volatile u8 **where = type == CAP_COMMON ? &v->common : type == CAP_NOTIFY ? &v->notify : type == CAP_DEVICE ? &v->config : NULL;
        if (!where || *where) continue;             // 4.1.4.1: the first of a type is the preferred one
        *where = bar_map(v->bdf, bar, cfg_read(v->bdf, at + 8), cfg_read(v->bdf, at + 12));
        if (type == CAP_NOTIFY) v->notify_step = cfg_read(v->bdf, at + 16);
    }
}

bool vpci_find(unsigned type, unsigned nth, struct vpci *v)
{
    for (u32 bdf = 0; bdf < 0x10000; bdf++) {
        u32 id = cfg_read(bdf, 0), device = id >> 16;
        if (!(bdf & 7) && (id & 0xffff) == 0xffff) { bdf |= 7; continue; }       // no function 0: no device
        if ((bdf & 7) && !(cfg_byte(bdf & ~7u, HEADER_TYPE) & 0x80)) continue;   // one function only: others may be its echoes
        // A transitional device has an old number (block: 0x1001) and, if it has capabilities, the modern interface too.
        if ((id & 0xffff) != VENDOR || (device != MODERN + type && device != 0x1000 + type - 1)) continue;
        *v = (struct vpci){.bdf = bdf};
        cfg_write(bdf, CMD, (cfg_read(bdf, CMD) & 0xffff) | 0x406);              // memory, bus master, no INTx
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
    unsigned at = cap_next(v->bdf, CAP_MSIX, 0);
    if (!at) return false;
    u32 where = cfg_read(v->bdf, at + 4);
    volatile u32 *entry = (volatile u32 *)bar_map(v->bdf, where & 7, where & ~7u, 16);
    if (!entry) return false;
    cfg_write(v->bdf, at, (cfg_read(v->bdf, at) & 0x3fffffff) | 1u << 31);
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
