// Free runs of pages in a list by ascending address; the list's nodes lie in the runs themselves, through the direct map. First
// fit, and neighbours are joined when freed. A PC has a few dozen runs and Cupel allocates rarely and in large pieces (guest RAM,
// code cache, heap), so that nothing cleverer would be noticed.
#include "kernel/pmem.h"

#include "kernel/base/log.h"
#include "kernel/cpu.h"

struct run { u64 phys, size; struct run *next; };

static struct { struct ticket_lock lock; struct run *first; u64 free; } pmem;

// Links a run between its neighbours and joins what touches. Lock held.
static void pmem_insert(u64 phys, u64 size)
{
    struct run **at = &pmem.first, *prev = NULL;
    while (*at && (*at)->phys < phys) {
        prev = *at;
        at = &prev->next;
    }
    ASSERT(!prev || prev->phys + prev->size <= phys, "%llx freed twice", (unsigned long long)phys);
    ASSERT(!*at || phys + size <= (*at)->phys, "%llx freed twice", (unsigned long long)phys);
    struct run *r = pmem_virt(phys);
    *r = (struct run){phys, size, *at};
    *at = r;
    if (r->next && phys + size == r->next->phys) {
        r->size += r->next->size;
        r->next = r->next->next;
    }
    if (prev && prev->phys + prev->size == phys) {
        prev->size += r->size;
        prev->next = r->next;
    }
    pmem.free += size;
}

void pmem_init(const struct boot_mem *map, u64 count)
{
    for (u64 i = 0; i < count; i++) {
        u64 from = max_u64(map[i].base, MIB), to = min_u64(map[i].base + map[i].size, DIRECT_MAP_SIZE);
        if (map[i].type == BOOT_MEM_FREE && from < to) pmem_insert(from, to - from);
    }
}

// Cuts [phys, phys + size) out of *at. The cut may leave a run before and one after.
static void pmem_cut(struct run **at, u64 phys, u64 size)
{
    struct run r = **at, *rest = r.next;
    u64 end = phys + size;
    if (end < r.phys + r.size) {
        rest = pmem_virt(end);
        *rest = (struct run){end, r.phys + r.size - end, r.next};
    }
    if (phys > r.phys) {
        (*at)->size = phys - r.phys;
        (*at)->next = rest;
    } else {
        *at = rest;
    }
    pmem.free -= size;
}

u64 pmem_alloc(u64 size, u64 align)
{
    size = align_up(size, PAGE_SIZE);
    u64 found = 0, flags = cpu_irq_save();
    ticket_lock(&pmem.lock);
    for (struct run **at = &pmem.first; size && *at; at = &(*at)->next) {
        u64 phys = align_up((*at)->phys, align);
        if (phys < (*at)->phys || phys - (*at)->phys > (*at)->size || (*at)->size - (phys - (*at)->phys) < size) continue;
        pmem_cut(at, phys, size);
        found = phys;
        break;
    }
    ticket_unlock(&pmem.lock);
    cpu_irq_restore(flags);
    return found;
}

void pmem_free(u64 phys, u64 size)
{
    u64 flags = cpu_irq_save();
    ticket_lock(&pmem.lock);
    pmem_insert(phys, align_up(size, PAGE_SIZE));
    ticket_unlock(&pmem.lock);
    cpu_irq_restore(flags);
}

u64 pmem_free_bytes(void) { return pmem.free; }

u64 pmem_largest_run(void)
{
    u64 most = 0, flags = cpu_irq_save();
    ticket_lock(&pmem.lock);
    for (const struct run *r = pmem.first; r; r = r->next) most = max_u64(most, r->size);
    ticket_unlock(&pmem.lock);
    cpu_irq_restore(flags);
    return most;
}
