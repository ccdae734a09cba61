// The bus between local APICs: who is meant by a destination, and delivery to them (SDM 3A 11.6, 11.11, 11.12.10).
//
// Senders are other vCPUs, the I/O APIC and MSI, in any context and without a lock. They match destinations against each APIC's
// published `route` word, and deliver by the vcpu_post_* functions only. A route that changes while a message is on its way is the
// same race that a real bus has.
//
// Lowest priority: the choice among those that match is by vector, so that one source stays on one vCPU (its caches are warm)
// and several sources spread. Real chips since Pentium 4 leave the choice to the chip set too (SDM 3A 11.6.2.4).
#include "devices/lapic_state.h"

struct lapic_bus {
    unsigned n;                       // highest index in use + 1
    struct lapic *apic[LAPIC_MAX];    // by vcpu_index
};
static struct lapic_bus *bus;         // written before the first vCPU runs

struct message {
    u32 dest;
    bool logical;
    bool wide;           // a 32-bit destination, of an x2APIC's ICR
    u8 mode, vector;     // mode: DM_*
    bool level;
};

void vlapic_bus_add(struct phys *p, struct lapic *l, const struct io_ops *ops)
{
    unsigned i = vcpu_index(l->vcpu);
    ASSERT(i < LAPIC_MAX && l->id < LAPIC_MAX, "vCPU %u with APIC ID %u: at most %d", i, l->id, LAPIC_MAX);
    if (!bus) {
        bus = plat_pages_alloc(sizeof *bus);
        ASSERT(bus, "no memory for the APIC bus");
        phys_add_mmio(p, gpa(APIC_BASE_DEFAULT), PAGE_SIZE, ops, NULL, "lapic");
    }
    bus->apic[i] = l;
    if (i >= bus->n) bus->n = i + 1;
}

struct lapic *vlapic_of(struct vcpu *c)
{
    if (!c || !bus) return NULL;
    unsigned i = vcpu_index(c);
    return i < bus->n ? bus->apic[i] : NULL;
}

void vlapic_publish(struct lapic *l)
{
    u32 r = (l->ldr >> 16 & 0xff00) | (lapic_on(l) ? ROUTE_EN : 0) | (lapic_x2(l) ? ROUTE_X2 : 0) |
            (l->svr & SVR_ENABLE ? ROUTE_SW : 0) | (l->dfr >> 28 == 0xf ? ROUTE_FLAT : 0);
    __atomic_store_n(&l->route, r, __ATOMIC_RELEASE);
}

static bool logical_match(const struct lapic *l, u32 route, u32 dest)
{
    if (route & ROUTE_X2)   // cluster 31:16, bit per APIC 15:0, derived from the ID
        return dest >> 16 == l->id >> 4 && (dest & 1u << (l->id & 15));
    u8 ldr = (u8)(route >> 8);
    if (dest > 0xff) return false;
    if (route & ROUTE_FLAT) return dest & ldr;
    return dest >> 4 == ldr >> 4 && (dest & ldr & 0xf);
}

static bool dest_match(const struct lapic *l, u32 route, const struct message *m)
{
    if (!(route & ROUTE_EN)) return false;
    if (m->dest == (m->wide ? UINT32_MAX : 0xff)) return true;
    return m->logical ? logical_match(l, route, m->dest) : m->dest == l->id;
}

static bool is_fixed(const struct message *m) { return m->mode == DM_FIXED || m->mode == DM_LOWEST; }

// Would l take m, if it is meant? Software-disabled APICs take no fixed interrupts (SDM 3A 11.4.7.2).
static bool takes(u32 route, const struct message *m) { return !is_fixed(m) || (route & ROUTE_SW); }

static bool deliver_to(struct lapic *l, const struct message *m)
{
    switch (m->mode) {
    case DM_FIXED:
    case DM_LOWEST: vcpu_post_interrupt(l->vcpu, m->vector, m->level); return true;
    case DM_NMI: vcpu_post_nmi(l->vcpu); return true;
    case DM_INIT: vcpu_post_init(l->vcpu); return true;
    case DM_SIPI: vcpu_post_sipi(l->vcpu, m->vector); return true;
    default:
        log_once(LOG_WARN, "interrupt message with delivery mode %u (SMI, ExtINT) dropped: the machine has no SMM, and the 8259 uses LINT0",
                 m->mode);
        return false;
    }
}

// Delivers to the APICs that match and take it, except `skip`. True if one did.
static bool deliver(const struct message *m, const struct lapic *skip)
{
    struct lapic *to[LAPIC_MAX];
    unsigned n = 0;
    bool done = false;
    for (unsigned i = 0; bus && i < bus->n; i++) {
        struct lapic *l = bus->apic[i];
        if (!l || l == skip) continue;
        u32 route = __atomic_load_n(&l->route, __ATOMIC_ACQUIRE);
        if (dest_match(l, route, m) && takes(route, m)) to[n++] = l;
    }
    if (n && m->mode == DM_LOWEST) return deliver_to(to[m->vector % n], m);
    for (unsigned i = 0; i < n; i++) done |= deliver_to(to[i], m);
    return done;
}

bool lapic_deliver(u8 dest, bool logical, u8 delivery_mode, u8 vector, bool level)
{
    struct message m = {.dest = dest, .logical = logical, .mode = delivery_mode & 7, .vector = vector, .level = level};
    if (is_fixed(&m) && vector < 16) {
        log_once(LOG_WARN, "interrupt message with illegal vector %u dropped", vector);
        return false;
    }
    return deliver(&m, NULL);
}

// SDM 3A 11.11. The redirection hint needs no look: delivery mode 1 says the same.
void lapic_msi(u64 addr, u32 data)
{
    bool level = data & 1 << 15;
    if (level && !(data & 1 << 14)) return;   // level de-assert carries no interrupt
    lapic_deliver((u8)(addr >> 12), addr & 4, data >> 8 & 7, (u8)data, level);
}

// SDM 3A 11.6.1. The trigger mode of IPIs is ignored but for INIT level de-assert, which processors since Pentium 4 ignore whole.
bool vlapic_send_ipi(struct lapic *from, u64 icr)
{
    bool x2 = lapic_x2(from);
    unsigned shorthand = icr >> 18 & 3;
    struct message m = {.dest = (u32)(icr >> (x2 ? 32 : 56)), .wide = x2, .logical = icr & 1 << 11, .mode = icr >> 8 & 7, .vector = (u8)icr};
    if (m.mode == DM_INIT && (icr & 1 << 15) && !(icr & 1 << 14)) return true;
    if (is_fixed(&m) && m.vector < 16) return false;
    if (shorthand == 0) {
        deliver(&m, NULL);
        return true;
    }
    if (shorthand == 1) {   // self: fixed only
        if (m.mode == DM_FIXED && takes(from->route, &m)) deliver_to(from, &m);
        return true;
    }
    m.logical = false;
    m.dest = UINT32_MAX;
    m.wide = true;
    deliver(&m, shorthand == 3 ? from : NULL);
    return true;
}
