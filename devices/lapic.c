// The local APIC's registers: xAPIC page, x2APIC MSRs, priorities, EOI (SDM 3A chapter 11 "APIC", in older editions 10).
//
// A vCPU's registers belong to that vCPU: every entry point asserts cpu_is_self(). Interrupts reach them through the mailbox, which
// the vCPU folds in at its exits. So the file has no lock; it takes the BQL only on its way to other devices (EOI to the
// I/O APIC, the timer list, the 8259).
//
// The page at 0xfee00000 is one region for all: the vCPU that runs on this core is the one that accesses. A DMA write to the page
// (the BQL is held then) is not an access to registers but an MSI, as on a real bus.
//
// An EOI, a lower TPR or an opened LINT0 may make an interrupt deliverable that was waiting. The guest's code goes on in translated
// code after these, so they end with a kick.
//
// After power-up the BSP's LINT0 is ExtINT and LINT1 NMI, both unmasked, as every firmware leaves them (MP specification 3.6.2.2
// "virtual wire"): a kernel that is started without firmware expects it. SDM-DIFF: 11.4.7.1 says masked. Test: irqchip_test "power-up".
#include "devices/lapic_state.h"

#define LAPIC_VERSION 0x01050014u   // 0x14, six LVT entries, EOI broadcast can be suppressed
enum { PHYS_BITS_MAX = 52 };

// Bits of the LVT entries that can be written, and those that read as status (writable without effect, never #GP).
static const u32 lvt_bits[LVT_COUNT] = {0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff};
enum { LVT_STATUS = 0x5000 };

// ---- 256-bit vector sets ----
static void set_add(u64 *s, u8 v) { s[v >> 6] |= BIT(v & 63); }
static void set_del(u64 *s, u8 v) { s[v >> 6] &= ~BIT(v & 63); }
static bool set_has(const u64 *s, u8 v) { return s[v >> 6] >> (v & 63) & 1; }
static u32 set_word(const u64 *s, unsigned n) { return (u32)(s[n >> 1] >> ((n & 1) * 32)); }
static int set_highest(const u64 *s)
{
    for (int i = 3; i >= 0; i--)
        if (s[i]) return i * 64 + 63 - __builtin_clzll(s[i]);
    return -1;
}

// ---- priorities (11.8.3) ----
static u32 lapic_ppr(const struct lapic *l)
{
    int isrv = set_highest(l->isr);
    u32 in_service = isrv < 0 ? 0 : (u32)isrv;
    return (l->tpr >> 4) >= (in_service >> 4) ? l->tpr : in_service & 0xf0;
}

// The vector that may interrupt now, or -1.
static int lapic_deliverable(const struct lapic *l)
{
    int v = set_highest(l->irr);
    return v >= 0 && lapic_on(l) && ((u32)v >> 4) > (lapic_ppr(l) >> 4) ? v : -1;
}

static void lapic_look_again(struct lapic *l)
{
    if (lapic_deliverable(l) >= 0) vcpu_kick(l->vcpu);
}

static void lapic_error(struct lapic *l, u32 bit)
{
    u32 e = l->lvt[LVT_ERROR];
    l->errors |= bit;
    if (e & LVT_MASKED || (u8)e < 16) return;
    set_add(l->irr, (u8)e);
    set_del(l->tmr, (u8)e);
    lapic_look_again(l);
}

static void lapic_broadcast_eoi(u8 vector)
{
    bql_lock();
    ioapic_eoi(vector);
    bql_unlock();
}

static void lapic_eoi(struct lapic *l)
{
    int v = set_highest(l->isr);
    if (v < 0) return;
    set_del(l->isr, (u8)v);
    if (set_has(l->tmr, (u8)v) && !(l->svr & SVR_NO_EOI_BROADCAST)) lapic_broadcast_eoi((u8)v);
    lapic_look_again(l);
}

// ---- registers ----
static u32 lapic_ldr(const struct lapic *l)
{
    return lapic_x2(l) ? (l->id >> 4) << 16 | 1u << (l->id & 15) : l->ldr;
}

static void lapic_write_svr(struct lapic *l, u32 val)
{
    bool on = val & SVR_ENABLE;
    l->svr = val & (0xff | SVR_ENABLE | SVR_NO_EOI_BROADCAST);
    vlapic_publish(l);
    if (on) return;
    for (unsigned i = 0; i < LVT_COUNT; i++)   // 11.4.7.2: software disable masks them all
        if (i != LVT_TIMER) l->lvt[i] |= LVT_MASKED;
    vlapic_timer_set_lvt(l, l->lvt[LVT_TIMER] | LVT_MASKED);
}

static void lapic_write_lvt(struct lapic *l, unsigned i, u32 val)
{
    val &= lvt_bits[i];
    if (!(l->svr & SVR_ENABLE)) val |= LVT_MASKED;
    if (i == LVT_TIMER) {
        vlapic_timer_set_lvt(l, l->tsc_hz ? val : val & ~(1u << 18));
        return;
    }
    l->lvt[i] = val;
    if (i != LVT_LINT0 || val & LVT_MASKED) return;
    if ((val >> 8 & 7) != DM_EXTINT) log_once(LOG_WARN, "guest uses LINT0 with delivery mode %u: only ExtINT is wired", val >> 8 & 7);
    vcpu_kick(l->vcpu);
}

static void lapic_write_icr(struct lapic *l, u64 val)
{
    l->icr = val & ~(1ull << 12);
    if (!vlapic_send_ipi(l, l->icr)) lapic_error(l, ESR_SEND_ILLEGAL);
}

// Registers that both modes have. False: there is none to read with that number.
static bool lapic_read_common(struct lapic *l, unsigned r, u64 *val)
{
    switch (r) {
    case LR_VERSION: *val = LAPIC_VERSION; return true;
    case LR_TPR: *val = l->tpr; return true;
    case LR_PPR: *val = lapic_ppr(l); return true;
    case LR_LDR: *val = lapic_ldr(l); return true;
    case LR_SVR: *val = l->svr; return true;
    case LR_ISR ... LR_ISR + 7: *val = set_word(l->isr, r - LR_ISR); return true;
    case LR_TMR ... LR_TMR + 7: *val = set_word(l->tmr, r - LR_TMR); return true;
    case LR_IRR ... LR_IRR + 7: *val = set_word(l->irr, r - LR_IRR); return true;
    case LR_ESR: *val = l->esr; return true;
    case LR_LVT ... LR_LVT + LVT_COUNT - 1: *val = l->lvt[r - LR_LVT]; return true;
    case LR_INITIAL: *val = l->initial; return true;
    case LR_CURRENT: *val = vlapic_timer_current(l); return true;
    case LR_DIVIDE: *val = l->divide; return true;
    default: return false;
    }
}

static bool lapic_write_common(struct lapic *l, unsigned r, u32 val)
{
    switch (r) {
    case LR_TPR:
        l->tpr = val & 0xff;
        lapic_look_again(l);
        return true;
    case LR_EOI: lapic_eoi(l); return true;
    case LR_SVR: lapic_write_svr(l, val); return true;
    case LR_ESR:
        l->esr = l->errors;
        l->errors = 0;
        return true;
    case LR_LVT ... LR_LVT + LVT_COUNT - 1: lapic_write_lvt(l, r - LR_LVT, val); return true;
    case LR_INITIAL: vlapic_timer_set_initial(l, val); return true;
    case LR_DIVIDE: vlapic_timer_set_divide(l, val); return true;
    default: return false;
    }
}

// ---- the xAPIC page ----
static u32 lapic_page_get(struct lapic *l, unsigned r)
{
    u64 val = 0;
    switch (r) {
    case LR_ID: return l->id << 24;
    case LR_DFR: return l->dfr;
    case LR_ICR: return (u32)l->icr;
    case LR_ICR_HIGH: return (u32)(l->icr >> 32);
    case LR_APR:
    case LR_RRD:
    case LR_EOI: return 0;
    default:
        if (!lapic_read_common(l, r, &val)) lapic_error(l, ESR_ILLEGAL_REGISTER);
        return (u32)val;
    }
}

static void lapic_page_set(struct lapic *l, unsigned r, u32 val)
{
    u64 unused;
    switch (r) {
    case LR_LDR:
        l->ldr = val & 0xff000000;
        vlapic_publish(l);
        return;
    case LR_DFR:
        l->dfr = val | 0x0fffffff;
        vlapic_publish(l);
        return;
    case LR_ICR: lapic_write_icr(l, (l->icr >> 32 << 32) | (val & 0xccfff)); return;
    case LR_ICR_HIGH: l->icr = (u32)l->icr | (u64)(val & 0xff000000) << 32; return;
    case LR_ID:
    case LR_APR:
    case LR_RRD: return;   // read-only
    default:
        if (!lapic_write_common(l, r, val) && !lapic_read_common(l, r, &unused)) lapic_error(l, ESR_ILLEGAL_REGISTER);
    }
}

// The APIC that an access to the page reaches, or NULL.
static struct lapic *lapic_accessed(void)
{
    struct lapic *l = vlapic_of(vcpu_current());
    if (!l || !lapic_on(l) || lapic_x2(l)) return NULL;
    LAPIC_OWNED(l);
    return l;
}

// Registers are the first dword of each 16 bytes; the rest reads as zero. Parts of a register can be read but not written.
static u64 lapic_mmio_read(void *opaque, u64 addr, unsigned size)
{
    struct lapic *l = bql_held() ? NULL : lapic_accessed();
    if (!l) return bits_zext(UINT64_MAX, size);
    if (addr & 0xc) return 0;
    return bits_zext(lapic_page_get(l, (unsigned)addr >> 4) >> (addr & 3) * 8, size);
}

static void lapic_mmio_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    if (bql_held()) {
        lapic_msi(APIC_BASE_DEFAULT + addr, (u32)val);
        return;
    }
    struct lapic *l = lapic_accessed();
    if (l && size == 4 && !(addr & 0xf)) lapic_page_set(l, (unsigned)addr >> 4, (u32)val);
}

static const struct io_ops lapic_io = {.read = lapic_mmio_read, .write = lapic_mmio_write, .max_size = 4, .unlocked = true};

// ---- x2APIC MSRs: reserved bits are checked (11.12.1.3) ----
static u64 x2_writable(unsigned r)
{
    switch (r) {
    case LR_TPR:
    case LR_SELF_IPI: return 0xff;
    case LR_SVR: return 0xff | SVR_ENABLE | SVR_NO_EOI_BROADCAST;
    case LR_ICR: return 0xffffffff000ccfff;
    case LR_LVT ... LR_LVT + LVT_COUNT - 1: return lvt_bits[r - LR_LVT] | LVT_STATUS;
    case LR_INITIAL: return 0xffffffff;
    case LR_DIVIDE: return 0xb;
    default: return 0;   // EOI and ESR take only zero
    }
}

static bool x2_read(struct lapic *l, unsigned r, u64 *val)
{
    if (r == LR_ID) *val = l->id;
    else if (r == LR_ICR) *val = l->icr;
    else return lapic_read_common(l, r, val);
    return true;
}

static bool x2_write(struct lapic *l, unsigned r, u64 val)
{
    if (val & ~x2_writable(r)) return false;
    if (r == LR_ICR) {
        lapic_write_icr(l, val);
        return true;
    }
    if (r == LR_SELF_IPI) {
        if (!vlapic_send_ipi(l, (u8)val | 1 << 18)) lapic_error(l, ESR_SEND_ILLEGAL);
        return true;
    }
    return lapic_write_common(l, r, (u32)val);
}

// ---- reset and IA32_APIC_BASE ----
// Everything but base and ID (11.4.7.1, 11.4.7.3). BQL not held.
static void lapic_clear(struct lapic *l)
{
    for (int i = 0; i < 4; i++) l->irr[i] = l->isr[i] = l->tmr[i] = 0;
    l->tpr = l->ldr = l->esr = l->errors = 0;
    l->icr = 0;
    l->dfr = UINT32_MAX;
    l->svr = 0xff;
    for (int i = 0; i < LVT_COUNT; i++) l->lvt[i] = LVT_MASKED;
    if (l->base & APIC_BASE_BSP) {
        l->lvt[LVT_LINT0] = DM_EXTINT << 8;
        l->lvt[LVT_LINT1] = DM_NMI << 8;
    }
    vlapic_timer_reset(l);
    vlapic_publish(l);
}

// By the vCPU itself (INIT), or by the machine while the vCPU does not run: never from interrupt context.
static void lapic_reset(void *apic, bool init)
{
    struct lapic *l = apic;
    ASSERT(!plat_in_interrupt(), "local APIC %u reset in interrupt context", l->id);
    if (!init) l->base = APIC_BASE_DEFAULT | APIC_BASE_EN | (l->id == 0 ? APIC_BASE_BSP : 0);
    lapic_clear(l);
}

// 11.12.5: off -> xAPIC -> x2APIC -> off, and xAPIC -> off; everything else is #GP.
static bool lapic_set_base(struct lapic *l, u64 val)
{
    u64 mode = APIC_BASE_EN | APIC_BASE_EXTD, old = l->base & mode, new = val & mode;
    if (val & 0x2ff || val >> PHYS_BITS_MAX) return false;
    if (new == APIC_BASE_EXTD) return false;
    if (old == mode && new == APIC_BASE_EN) return false;
    if (old == 0 && new == mode) return false;
    if ((val & PAGE_MASK) != APIC_BASE_DEFAULT) log_once(LOG_WARN, "guest moves its local APIC to %#llx; it stays at 0xfee00000",
                                                         (unsigned long long)(val & PAGE_MASK));
    l->base = (val & ~(u64)APIC_BASE_BSP) | (l->base & APIC_BASE_BSP);
    if (new == old) return true;
    if (new == 0) lapic_clear(l);
    if (new == mode) l->icr = 0;   // 11.12.5.1: the two layouts of the destination differ
    vlapic_publish(l);
    return true;
}

// ---- apic_ops ----
static void lapic_fold(void *apic, const u64 vectors[4], const u64 level[4])
{
    struct lapic *l = apic;
    LAPIC_OWNED(l);
    bool takes = lapic_on(l) && (l->svr & SVR_ENABLE);
    for (unsigned i = 0; i < 4 && takes; i++) {
        l->irr[i] |= vectors[i];
        l->tmr[i] = (l->tmr[i] & ~vectors[i]) | (vectors[i] & level[i]);
    }
    // Switched off after they were sent: a level interrupt must not leave the I/O APIC waiting for its EOI.
    for (unsigned v = 0; v < 256 && !takes; v++)
        if (set_has(vectors, (u8)v) && set_has(level, (u8)v)) lapic_broadcast_eoi((u8)v);
}

static bool lapic_pending(void *apic)
{
    struct lapic *l = apic;
    LAPIC_OWNED(l);
    return lapic_deliverable(l) >= 0;
}

static int lapic_ack(void *apic)
{
    struct lapic *l = apic;
    LAPIC_OWNED(l);
    int v = lapic_deliverable(l);
    if (v < 0) return -1;
    set_del(l->irr, (u8)v);
    set_add(l->isr, (u8)v);
    return v;
}

static bool lapic_extint_open(void *apic)
{
    struct lapic *l = apic;
    LAPIC_OWNED(l);
    u32 e = l->lvt[LVT_LINT0];
    return !lapic_on(l) || (!(e & LVT_MASKED) && (e >> 8 & 7) == DM_EXTINT);
}

static int lapic_extint_ack(void *apic)
{
    struct lapic *l = apic;
    LAPIC_OWNED(l);
    return l->pic_ack ? l->pic_ack(l->pic) : -1;
}

static u8 lapic_get_tpr(void *apic) { return (u8)((struct lapic *)apic)->tpr; }

static void lapic_set_tpr(void *apic, u8 tpr)
{
    struct lapic *l = apic;
    LAPIC_OWNED(l);
    l->tpr = tpr;
    lapic_look_again(l);
}

static bool lapic_rdmsr(void *apic, u32 msr, u64 *val)
{
    struct lapic *l = apic;
    LAPIC_OWNED(l);
    if (msr == 0x1b) *val = l->base;
    else if (msr == 0x6e0 && l->tsc_hz) *val = vlapic_timer_deadline(l);
    else return msr >= 0x800 && msr <= 0x83f && lapic_x2(l) && x2_read(l, msr - 0x800, val);
    return true;
}

static bool lapic_wrmsr(void *apic, u32 msr, u64 val)
{
    struct lapic *l = apic;
    LAPIC_OWNED(l);
    if (msr == 0x1b) return lapic_set_base(l, val);
    if (msr == 0x6e0 && l->tsc_hz) {
        vlapic_timer_set_deadline(l, val);
        return true;
    }
    return msr >= 0x800 && msr <= 0x83f && lapic_x2(l) && x2_write(l, msr - 0x800, val);
}

static const struct apic_ops lapic_ops = {
    .fold = lapic_fold, .pending = lapic_pending, .ack = lapic_ack, .extint_open = lapic_extint_open, .extint_ack = lapic_extint_ack,
    .get_tpr = lapic_get_tpr, .set_tpr = lapic_set_tpr, .rdmsr = lapic_rdmsr, .wrmsr = lapic_wrmsr, .reset = lapic_reset,
};

struct lapic *lapic_new(struct phys *p, struct vcpu *c, unsigned id)
{
    struct lapic *l = plat_pages_alloc(sizeof *l);
    ASSERT(l, "no memory for local APIC %u", id);
    l->vcpu = c;
    l->id = id;
    l->shot.masked = true;
    vlapic_timer_init(l);
    lapic_reset(l, false);
    vlapic_bus_add(p, l, &lapic_io);
    vcpu_set_apic(c, &lapic_ops, l);
    return l;
}

void lapic_set_pic(struct lapic *l, struct vcpu *c, int (*ack)(void *pic), void *pic)
{
    ASSERT(l->vcpu == c, "the 8259 is wired to another vCPU than APIC %u's", l->id);
    l->pic_ack = ack;
    l->pic = pic;
}

void lapic_set_tsc(struct lapic *l, u64 tsc_hz, u64 (*read_guest_tsc)(struct vcpu *c))
{
    l->tsc_hz = tsc_hz;
    l->read_guest_tsc = read_guest_tsc;
}
