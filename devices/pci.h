// The guest's PCI bus: one root bus (segment 0, bus 0), conventional functions, no bridges below. What a device needs to be one.
//
// There is no firmware in a direct boot, so pci_bar_add assigns an address and switches decoding on; a guest that knows better
// moves BARs as it likes. All calls: BQL held, or before the first vCPU runs; what may be called from interrupt context says so.
// Configuration space is little endian as the host is.
#pragma once

#include "devices/devices.h"
#include "kernel/base/types.h"
#include "kernel/base/spin.h"

// Windows of the memory map that belong to PCI; the ACPI tables and the loaders' memory maps say the same.
#define PCI_ECAM_BASE 0xb0000000ull
#define PCI_ECAM_SIZE 0x10000000ull      // 256 buses of 1 MiB
#define PCI_MEM_BASE  0xc0000000ull
#define PCI_MEM_END   0xfec00000ull      // exclusive
#define PCI_IO_BASE   0xc000             // where assignment starts; the window is 0x1000..0xffff

enum { PCI_CFG_SIZE = 256, PCI_BARS = 6, PCI_SLOTS = 32, PCI_MSIX_MAX = 32, PCI_GSI_BASE = 16, PCI_GSIS = 8 };

// Configuration registers, PCI Local Bus 3.0 chapter 6.1.
enum {
    PCI_VENDOR = 0, PCI_DEVICE = 2, PCI_COMMAND = 4, PCI_STATUS = 6, PCI_REVISION = 8, PCI_CLASS = 9, PCI_HEADER_TYPE = 0x0e,
        PCI_BAR0 = 0x10,
    PCI_SUBVENDOR = 0x2c, PCI_SUBSYSTEM = 0x2e, PCI_ROM = 0x30, PCI_CAP_PTR = 0x34, PCI_INT_LINE = 0x3c, PCI_INT_PIN = 0x3d,
};
enum { PCI_CMD_IO = 1, PCI_CMD_MEM = 2, PCI_CMD_MASTER = 4, PCI_CMD_INTX_OFF = 0x400 };
enum { PCI_STATUS_INTX = 8, PCI_STATUS_CAPS = 16 };
enum pci_bar_flags { PCI_BAR_IO = 1, PCI_BAR_64 = 2, PCI_BAR_PREFETCH = 4 };

// class_code: 24 bits, class.subclass.interface
struct pci_ids { u16 vendor, device, subvendor, subsystem; u32 class_code; u8 revision; };

struct pci_bar {
    u64 size;                    // 0: absent
    unsigned flags;
    u64 assigned;                // address chosen when the machine was built
    struct region *region;
};

struct pci_msix {
    unsigned count;              // 0: no MSI-X
    u8 cap;
    u32 table[PCI_MSIX_MAX][4];  // address low, high, data, vector control (bit 0: masked)
    u32 pending;
    struct spinlock lock;        // over table and pending: notifying needs no BQL
};

// A function. Embedded by the device; zeroed before pci_dev_init.
struct pci_dev {
    struct pci *bus;
    u8 slot;
    u8 cfg[PCI_CFG_SIZE];
    u8 wmask[PCI_CFG_SIZE];      // bits the guest may write
    struct pci_bar bar[PCI_BARS];
    u8 next_cap;                 // first free byte of capability space
    u8 last_cap;                 // the capability that the next one is linked behind; 0: none
    bool intx;                   // the device asserts INTx (before the disable bit)
    bool intx_wire;              // what its share of the wire is now
    struct pci_msix msix;
    // Both optional. cfg_read is called before size bytes at reg are read, so that the device can refresh them; cfg_written after
    // they changed.
    void (*cfg_read)(struct pci_dev *d, unsigned reg, unsigned size);
    void (*cfg_written)(struct pci_dev *d, unsigned reg, unsigned size);
    void (*reset)(struct pci_dev *d);
};

// Puts d on the bus at `slot`, or at the first free one if slot is negative. intx: the function has an INTA pin. False when the
// slots are full.
bool pci_dev_init(struct pci_dev *d, struct pci *b, int slot, const struct pci_ids *ids, bool intx) MUST_CHECK;
// BAR n of `size` bytes (a power of two, at least 16; 64-bit ones take n and n + 1), assigned and decoded at once.
void pci_bar_add(struct pci_dev *d, unsigned n, u64 size, unsigned flags, const struct io_ops *ops, void *opaque, const char *name);
// A capability of len bytes (header of two included, which is filled in) at the returned offset; the caller fills the rest.
u8 pci_cap_add(struct pci_dev *d, u8 id, unsigned len);

// The MSI-X capability with `count` vectors; table at `table` and pending bits at `pba` in BAR `bar`. The BAR's owner forwards
// accesses to the two ranges: pci_msix_read/write with addr relative to the table (16 bytes a vector), or PCI_MSIX_PBA and up for
// the pending bits.
enum { PCI_MSIX_PBA = 0x800 };
void pci_msix_init(struct pci_dev *d, unsigned count, unsigned bar, u32 table, u32 pba);
u64 pci_msix_read(struct pci_dev *d, u64 addr, unsigned size);
void pci_msix_write(struct pci_dev *d, u64 addr, u64 val, unsigned size);
bool pci_msix_enabled(const struct pci_dev *d);
// Sends vector v, or marks it pending while masked. Any context, BQL or not.
void pci_msix_notify(struct pci_dev *d, unsigned v);
// The device's INTA level. Interrupt context allowed.
void pci_intx_set(struct pci_dev *d, bool level);
// May the device access memory (bus master enable)?
static inline bool pci_dma_enabled(const struct pci_dev *d) { return d->cfg[PCI_COMMAND] & PCI_CMD_MASTER; }

// The GSI that pin (0 INTA .. 3 INTD) of a slot is wired to: what _PRT says.
static inline unsigned pci_gsi(unsigned slot, unsigned pin) { return PCI_GSI_BASE + (slot + pin) % PCI_GSIS; }
struct phys *pci_phys(struct pci *b);

static inline u32 pci_cfg_get(const struct pci_dev *d, unsigned reg, unsigned size)
{
    u32 v = 0;
    for (unsigned i = 0; i < size; i++) v |= (u32)d->cfg[reg + i] << 8 * i;
    return v;
}
static inline void pci_cfg_set(struct pci_dev *d, unsigned reg, u32 v, unsigned size)
{
    for (unsigned i = 0; i < size; i++) d->cfg[reg + i] = v >> 8 * i;
}
