// The PCI host bridge and what all functions share: configuration space by ports 0xcf8/0xcfc (PCI Local Bus 3.0, 3.2.2.3.2) and
// by ECAM (PCI Express Base 7.2.2), BARs, the interrupt wires and MSI-X.
//
// Configuration space is bytes plus a mask of the bits that a guest may change; after a write the parts with a meaning are acted
// on: BARs and the command register re-map regions, MSI-X control and interrupt disable re-send or withdraw what waits. BAR sizing
// needs nothing of its own: the address bits below the size are not writable. A BAR answers nowhere while its decode bit is off, or
// while it holds zero or all ones (in the midst of sizing).
//
// INTx: slot and pin select one of eight wires, GSI 16..23; devices that share a wire are counted, so that the wire is the OR of them.
#include "devices/pci.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { CAP_MSIX = 0x11, MSIX_ENABLE = 0x8000, MSIX_MASK_ALL = 0x4000 };

struct pci {
    struct phys *phys;
    struct irq gsi[PCI_GSIS];
    unsigned asserted[PCI_GSIS];      // how many functions pull the wire
    u32 address;                      // 0xcf8
    u64 next_mem, next_io;            // where the next BAR goes
    struct pci_dev *dev[PCI_SLOTS];
    struct pci_dev bridge;
};

struct phys *pci_phys(struct pci *b) { return b->phys; }

// ---- interrupts ------------------------------------------------------------------------------------------------

static void intx_update(struct pci_dev *d)
{
    bool wire = d->intx && !(pci_cfg_get(d, PCI_COMMAND, 2) & PCI_CMD_INTX_OFF) && !pci_msix_enabled(d);
    d->cfg[PCI_STATUS] = (d->cfg[PCI_STATUS] & ~PCI_STATUS_INTX) | (d->intx ? PCI_STATUS_INTX : 0);
    if (wire == d->intx_wire) return;
    d->intx_wire = wire;
    struct pci *b = d->bus;
    unsigned n = pci_gsi(d->slot, 0) - PCI_GSI_BASE;
    b->asserted[n] += wire ? 1 : -1;
    irq_set(&b->gsi[n], b->asserted[n] != 0);
}

void pci_intx_set(struct pci_dev *d, bool level)
{
    DEVICE_LOCKED();
    d->intx = level;
    intx_update(d);
}

bool pci_msix_enabled(const struct pci_dev *d)
{
    return d->msix.count && (pci_cfg_get(d, d->msix.cap + 2, 2) & MSIX_ENABLE);
}

static bool msix_masked(const struct pci_dev *d, unsigned v)
{
    return (d->msix.table[v][3] & 1) || (pci_cfg_get(d, d->msix.cap + 2, 2) & MSIX_MASK_ALL);
}

// Notifying is for I/O threads too, which have no BQL: a spinlock of its own guards table and pending bits. This is called with it held.
static void msix_send(struct pci_dev *d, unsigned v)
{
    if (v >= d->msix.count || !pci_msix_enabled(d) || !pci_dma_enabled(d)) return;
    if (msix_masked(d, v)) {
        d->msix.pending |= 1u << v;
        return;
    }
    const u32 *e = d->msix.table[v];
    d->msix.pending &= ~(1u << v);
    lapic_msi((u64)e[1] << 32 | e[0], e[2]);
}

void pci_msix_notify(struct pci_dev *d, unsigned v)
{
    bool irqs = spin_lock(&d->msix.lock);
    msix_send(d, v);
    spin_unlock(&d->msix.lock, irqs);
}

// Sends what became pending under a mask that is open now.
static void msix_flush(struct pci_dev *d)
{
    bool irqs = spin_lock(&d->msix.lock);
    for (unsigned v = 0; v < d->msix.count; v++)
        if ((d->msix.pending >> v & 1) && !msix_masked(d, v)) msix_send(d, v);
    spin_unlock(&d->msix.lock, irqs);
}

// Only aligned dwords and qwords are defined (6.8.2); smaller reads work, smaller writes are dropped.
u64 pci_msix_read(struct pci_dev *d, u64 addr, unsigned size)
{
    DEVICE_LOCKED();
    if (size == 8) return pci_msix_read(d, addr, 4) | pci_msix_read(d, addr + 4, 4) << 32;
    u32 v = 0;
    if (addr >= PCI_MSIX_PBA) v = addr < PCI_MSIX_PBA + 4 ? d->msix.pending : 0;
    else if (addr / 16 < d->msix.count) v = d->msix.table[addr / 16][addr / 4 % 4];
    return bits_zext(v >> 8 * (addr & 3), size);
}

void pci_msix_write(struct pci_dev *d, u64 addr, u64 val, unsigned size)
{
    DEVICE_LOCKED();
    if (size == 8) {
        pci_msix_write(d, addr, val, 4);
        pci_msix_write(d, addr + 4, val >> 32, 4);
        return;
    }
    if (size != 4 || addr / 16 >= d->msix.count) return;
    unsigned field = addr / 4 % 4;
    bool irqs = spin_lock(&d->msix.lock);
    d->msix.table[addr / 16][field] = field == 3 ? val & 1 : field == 0 ? val & ~3ull : val;
    spin_unlock(&d->msix.lock, irqs);
    if (field == 3) msix_flush(d);
}

void pci_msix_init(struct pci_dev *d, unsigned count, unsigned bar, u32 table, u32 pba)
{
    ASSERT(count && count <= PCI_MSIX_MAX, "%u vectors", count);
    d->msix.count = count;
    d->msix.cap = pci_cap_add(d, CAP_MSIX, 12);
    pci_cfg_set(d, d->msix.cap + 2, count - 1, 2);
    pci_cfg_set(d, d->msix.cap + 4, table | bar, 4);
    pci_cfg_set(d, d->msix.cap + 8, pba | bar, 4);
    d->wmask[d->msix.cap + 3] = (MSIX_ENABLE | MSIX_MASK_ALL) >> 8;
    for (unsigned v = 0; v < count; v++) d->msix.table[v][3] = 1;
}

// ---- BARs ------------------------------------------------------------------------------------------------------

static u64 bar_address(const struct pci_dev *d, unsigned n)
{
    const struct pci_bar *bar = &d->bar[n];
    u64 a = pci_cfg_get(d, PCI_BAR0 + 4 * n, 4);
    if (bar->flags & PCI_BAR_64) a |= (u64)pci_cfg_get(d, PCI_BAR0 + 4 * n + 4, 4) << 32;
    return a & ~(bar->size - 1) & ~(bar->flags & PCI_BAR_IO ? 3ull : 15ull);
}

static void bars_remap(struct pci_dev *d)
{
    for (unsigned n = 0; n < PCI_BARS; n++) {
        const struct pci_bar *bar = &d->bar[n];
        if (!bar->size) continue;
        bool io = bar->flags & PCI_BAR_IO;
        u64 a = bar_address(d, n);
        u64 all_ones = ~(bar->size - 1) & (bar->flags & PCI_BAR_64 ? UINT64_MAX : UINT32_MAX);
        bool on = (d->cfg[PCI_COMMAND] & (io ? PCI_CMD_IO : PCI_CMD_MEM)) && a && a != all_ones;
        phys_remap(d->bus->phys, bar->region, a, on);
    }
}

// The next free address, aligned to the size.
static u64 bar_assign(struct pci *b, u64 size, bool io)
{
    u64 *next = io ? &b->next_io : &b->next_mem, limit = io ? 0x10000 : PCI_MEM_END;
    u64 a = align_up(*next, size);
    if (a + size > limit) {
        log_warn("PCI: no room for a BAR of %llu bytes; the guest may still place it", (unsigned long long)size);
        return 0;
    }
    *next = a + size;
    return a;
}

// The first address is assigned at machine build; after a bus reset the same one is programmed again.
static void bar_program(struct pci_dev *d, unsigned n, u64 a)
{
    pci_cfg_set(d, PCI_BAR0 + 4 * n, pci_cfg_get(d, PCI_BAR0 + 4 * n, 1) % 16 | (u32)a, 4);
    if (d->bar[n].flags & PCI_BAR_64) pci_cfg_set(d, PCI_BAR0 + 4 * n + 4, a >> 32, 4);
}

void pci_bar_add(struct pci_dev *d, unsigned n, u64 size, unsigned flags, const struct io_ops *ops, void *opaque, const char *name)
{
    bool io = flags & PCI_BAR_IO;
    ASSERT(n < PCI_BARS && size >= 16 && !(size & (size - 1)), "%s: BAR %u of %#llx bytes", name, n, (unsigned long long)size);
    struct pci_bar *bar = &d->bar[n];
    bar->size = size;
    bar->flags = flags;
    u64 a = bar->assigned = bar_assign(d->bus, size, io);
    pci_cfg_set(d, PCI_BAR0 + 4 * n, (io ? 1 : 0) | (flags & PCI_BAR_64 ? 4 : 0) | (flags & PCI_BAR_PREFETCH ? 8 : 0), 4);
    u64 mask = ~(size - 1);
    for (unsigned i = 0; i < (flags & PCI_BAR_64 ? 8 : 4); i++) d->wmask[PCI_BAR0 + 4 * n + i] = mask >> 8 * i;
    bar_program(d, n, a);
    bar->region = io ? phys_add_ports(d->bus->phys, a, size, ops, opaque, name) : phys_add_mmio(d->bus->phys, gpa(a), size, ops,
        opaque, name);
    d->cfg[PCI_COMMAND] |= io ? PCI_CMD_IO : PCI_CMD_MEM;
    bars_remap(d);
}

u8 pci_cap_add(struct pci_dev *d, u8 id, unsigned len)
{
    u8 at = d->next_cap;
    ASSERT(at + len <= PCI_CFG_SIZE, "capability %#x of %u bytes does not fit", id, len);
    d->cfg[d->last_cap ? d->last_cap + 1 : PCI_CAP_PTR] = at;
    d->cfg[at] = id;
    d->cfg[PCI_STATUS] |= PCI_STATUS_CAPS;
    d->last_cap = at;
    d->next_cap = align_up(at + len, 4);
    return at;
}

// ---- configuration space -------------------------------------------------------------------------------------------

static u32 cfg_read(struct pci *b, unsigned bus, unsigned devfn, unsigned reg, unsigned size)
{
    struct pci_dev *d = bus == 0 && devfn % 8 == 0 ? b->dev[devfn / 8] : NULL;
    if (!d) return bits_zext(UINT32_MAX, size);              // master abort
    if (reg + size > PCI_CFG_SIZE) return 0;                 // no extended configuration space
    if (d->cfg_read) d->cfg_read(d, reg, size);
    return pci_cfg_get(d, reg, size);
}

static bool touches(unsigned reg, unsigned size, unsigned first, unsigned len) { return reg < first + len && first < reg + size; }

static void cfg_write(struct pci *b, unsigned bus, unsigned devfn, unsigned reg, u32 v, unsigned size)
{
    struct pci_dev *d = bus == 0 && devfn % 8 == 0 ? b->dev[devfn / 8] : NULL;
    if (!d || reg + size > PCI_CFG_SIZE) return;
    for (unsigned i = 0; i < size; i++) {
        u8 m = d->wmask[reg + i];
        d->cfg[reg + i] = (d->cfg[reg + i] & ~m) | (v >> 8 * i & m);
    }
    if (touches(reg, size, PCI_BAR0, 4 * PCI_BARS) || touches(reg, size, PCI_COMMAND, 2)) bars_remap(d);
    if (touches(reg, size, PCI_COMMAND, 2)) intx_update(d);
    if (d->msix.count && touches(reg, size, d->msix.cap + 2, 2)) {
        intx_update(d);
        msix_flush(d);
    }
    if (d->cfg_written) d->cfg_written(d, reg, size);
}

static u64 ecam_read(void *opaque, u64 addr, unsigned size)
{
    return cfg_read(opaque, addr >> 20, addr >> 12 & 255, addr & 4095, size);
}

static void ecam_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    cfg_write(opaque, addr >> 20, addr >> 12 & 255, addr & 4095, val, size);
}

// 0xcf8: bit 31 enable, 23-16 bus, 15-8 devfn, 7-2 register. Only dwords reach it; anything smaller is somebody else's port.
static u64 address_read(void *opaque, u64 addr, unsigned size)
{
    struct pci *b = opaque;
    return size == 4 ? b->address : UINT64_MAX;
}

static void address_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct pci *b = opaque;
    if (size == 4) b->address = val & 0x80fffffc;
}

static u64 data_read(void *opaque, u64 addr, unsigned size)
{
    struct pci *b = opaque;
    if (!(b->address >> 31)) return UINT64_MAX;
    return cfg_read(b, b->address >> 16 & 255, b->address >> 8 & 255, (b->address & 0xfc) + addr, size);
}

static void data_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct pci *b = opaque;
    if (b->address >> 31) cfg_write(b, b->address >> 16 & 255, b->address >> 8 & 255, (b->address & 0xfc) + addr, val, size);
}

// ---- functions and the bus -----------------------------------------------------------------------------------------

bool pci_dev_init(struct pci_dev *d, struct pci *b, int slot, const struct pci_ids *ids, bool intx)
{
    for (int i = 1; slot < 0 && i < PCI_SLOTS; i++)
        if (!b->dev[i]) slot = i;
    if (slot < 0 || slot >= PCI_SLOTS || b->dev[slot]) return false;
    d->bus = b;
    d->slot = slot;
    d->next_cap = 0x40;
    pci_cfg_set(d, PCI_VENDOR, ids->vendor, 2);
    pci_cfg_set(d, PCI_DEVICE, ids->device, 2);
    d->cfg[PCI_REVISION] = ids->revision;
    pci_cfg_set(d, PCI_CLASS, ids->class_code, 3);
    pci_cfg_set(d, PCI_SUBVENDOR, ids->subvendor, 2);
    pci_cfg_set(d, PCI_SUBSYSTEM, ids->subsystem, 2);
    d->wmask[PCI_COMMAND] = PCI_CMD_IO | PCI_CMD_MEM | PCI_CMD_MASTER;
    d->wmask[PCI_COMMAND + 1] = PCI_CMD_INTX_OFF >> 8;
    d->wmask[PCI_INT_LINE] = 0xff;
    d->cfg[PCI_INT_PIN] = intx ? 1 : 0;
    d->cfg[PCI_INT_LINE] = intx ? pci_gsi(slot, 0) : 0xff;   // what a firmware with an I/O APIC would leave there
    b->dev[slot] = d;
    return true;
}

static void dev_reset(struct pci_dev *d)
{
    pci_cfg_set(d, PCI_COMMAND, 0, 2);
    for (unsigned n = 0; n < PCI_BARS; n++) {
        if (!d->bar[n].size) continue;
        bar_program(d, n, d->bar[n].assigned);
        d->cfg[PCI_COMMAND] |= d->bar[n].flags & PCI_BAR_IO ? PCI_CMD_IO : PCI_CMD_MEM;
    }
    if (d->msix.count) pci_cfg_set(d, d->msix.cap + 2, d->msix.count - 1, 2);
    for (unsigned v = 0; v < d->msix.count; v++)
        for (unsigned i = 0; i < 4; i++) d->msix.table[v][i] = i == 3;
    d->msix.pending = 0;
    if (d->reset) d->reset(d);
    bars_remap(d);
    pci_intx_set(d, false);
}

void pci_reset(struct pci *b)
{
    DEVICE_LOCKED();
    b->address = 0;
    for (unsigned i = 0; i < PCI_SLOTS; i++)
        if (b->dev[i]) dev_reset(b->dev[i]);
}

struct pci *pci_new(struct phys *p, const struct irq *gsi, unsigned ngsi)
{
    static const struct io_ops ecam = {.read = ecam_read, .write = ecam_write, .max_size = 4};
    static const struct io_ops address = {.read = address_read, .write = address_write, .max_size = 4};
    static const struct io_ops data = {.read = data_read, .write = data_write, .max_size = 4};
    // Intel's Q35 host bridge: drivers know it and ask nothing of it that is not here.
    static const struct pci_ids ids = {.vendor = 0x8086, .device = 0x29c0, .class_code = 0x060000};
    struct pci *b = plat_pages_alloc(sizeof *b);
    if (!b) panic("no memory for the PCI bus");
    b->phys = p;
    b->next_mem = PCI_MEM_BASE;
    b->next_io = PCI_IO_BASE;
    for (unsigned i = 0; i < PCI_GSIS && PCI_GSI_BASE + i < ngsi; i++) b->gsi[i] = gsi[PCI_GSI_BASE + i];
    bool ok = pci_dev_init(&b->bridge, b, 0, &ids, false);
    ASSERT(ok, "slot 0");
    phys_add_ports(p, 0xcf8, 4, &address, b, "pci-address");
    phys_add_ports(p, 0xcfc, 4, &data, b, "pci-data");
    phys_add_mmio(p, gpa(PCI_ECAM_BASE), PCI_ECAM_SIZE, &ecam, b, "pci-ecam");
    return b;
}
