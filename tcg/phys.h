// Guest physical memory and I/O ports: who answers at which address. One of the two headers of tcg/ that
// devices/ includes (the other is tcg/irq.h).
//
// The map is a set of non-overlapping regions per space after resolution; a region added later covers earlier
// ones where they overlap (BARs over RAM do not happen; ROM shadows do). Changing the map needs the BQL and makes every
// vCPU's softmmu TLB forget what it knew, at its next exit. Reads of the map take no lock.
#pragma once

#include "kernel/base/types.h"

struct phys;   // a guest's physical address space and its port space

enum region_kind { REGION_RAM, REGION_ROM, REGION_MMIO };

// Device accesses: addr is relative to the region; size is 1, 2, 4 or 8 and never larger than max_size (larger or unaligned
// accesses are split by the dispatcher); a read returns the value in its low `size` bytes. BQL held unless `unlocked`.
struct io_ops {
    u64 (*read)(void *opaque, u64 addr, unsigned size);
    void (*write)(void *opaque, u64 addr, u64 val, unsigned size);
    u8 max_size;      // 0 means 8 for MMIO, 4 for ports
    bool unlocked;    // dispatched without the BQL, and with the guest's vector state possibly live: must not reach libc
};

struct region {
    struct region *next;        // later-added first
    u64 base, size;             // guest physical address or first port
    enum region_kind kind;
    u8 *host;                   // RAM and ROM: host memory
    const struct io_ops *ops;   // MMIO and ports
    void *opaque;
    const char *name;
};

struct phys *phys_new(void);
// Regions are owned by the phys; the returned pointer names one for phys_remove. base and size of memory regions are page-aligned
// for RAM and ROM. Names are static strings, for mtree. BQL held (or before the first vCPU runs).
struct region *phys_add_ram(struct phys *p, struct gpa base, u64 size, u8 *host, const char *name);
struct region *phys_add_rom(struct phys *p, struct gpa base, u64 size, u8 *host, const char *name);
struct region *phys_add_mmio(struct phys *p, struct gpa base, u64 size, const struct io_ops *ops, void *opaque, const char *name);
struct region *phys_add_ports(struct phys *p, u16 base, unsigned count, const struct io_ops *ops, void *opaque, const char *name);
void phys_remove(struct phys *p, struct region *r);
// Moves r to `base` (mapped) or takes it off the map for now (not mapped); a base at which r runs off the space leaves it
// unmapped. For BARs. BQL held.
void phys_remap(struct phys *p, struct region *r, u64 base, bool mapped);

// The region that answers at `a`, or NULL. Any context; no lock.
struct region *phys_find(struct phys *p, struct gpa a);
// Host address of RAM or ROM at a (valid to the end of its page at least), or NULL.
u8 *phys_host(struct phys *p, struct gpa a);

// Both at once.
struct region *phys_find_host(struct phys *p, struct gpa a, u8 **host);

// Accesses by devices (DMA) and by the loader: any length, any alignment, crossing regions. RAM is written with written-code tracking, so
// that translated code stays exact; MMIO inside is dispatched. Returns false if some byte had no region (reads give 0xff there, writes are
// dropped). BQL held; not needed where the range is RAM, which is also all that interrupt context and I/O threads may access.
bool phys_read(struct phys *p, struct gpa a, void *buf, u64 len);
bool phys_write(struct phys *p, struct gpa a, const void *buf, u64 len);
// RAM was written behind phys_write's back, through phys_host (a disk's own DMA). BQL held; interrupt context allowed.
void phys_written(struct phys *p, struct gpa a, u64 len);
u64 phys_ld(struct phys *p, struct gpa a, unsigned size);             // little endian, 1..8 bytes
void phys_st(struct phys *p, struct gpa a, u64 val, unsigned size);

// One MMIO access of a vCPU, split to what the region takes; absent regions read as all ones. Takes and releases the BQL as
// the region demands (so: BQL not held by the caller).
u64 phys_mmio_read(struct phys *p, struct gpa a, unsigned size);
void phys_mmio_write(struct phys *p, struct gpa a, u64 val, unsigned size);
// The same for ports; size 1, 2, 4.
u64 phys_port_read(struct phys *p, u16 port, unsigned size);
void phys_port_write(struct phys *p, u16 port, u64 val, unsigned size);

// Called by phys_write/phys_st after RAM changed (drops translations of the bytes) and after the map changed. Any context.
struct phys_hooks {
    void (*code_written)(void *opaque, struct gpa a, u64 len);
    void (*map_changed)(void *opaque);
    void *opaque;
};
void phys_set_hooks(struct phys *p, const struct phys_hooks *h);
// Visits every region, memory first then ports (for the monitor's mtree). BQL held.
void phys_walk(struct phys *p, void (*fn)(void *opaque, const struct region *r, bool port), void *opaque);
