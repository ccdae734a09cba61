// Controllers, from PCI to running, and their root ports (xHCI 1.2, 4.2 and 4.3).
//
// The firmware is asked for the controller (USBLEGSUP, 7.1.1) and given a second; then SMIs are switched off whether it answered or not,
// and the controller is reset, so that nothing of the firmware's is left in it. Memory for it is never given back, since it can still
// write there.
#include "kernel/xhci.h"

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/cpu.h"
#include "kernel/hostpci.h"
#include "kernel/hwtimer.h"
#include "kernel/pmem.h"
#include "kernel/vmem.h"

enum { CLASS_XHCI = 0x0c0330, WINDOW = 512 * 1024, EXT_STEPS = 64, LINK_U0 = 0, LINK_POLLING = 7 };
#define MS 1000000ull

static struct { struct xhci hc[XHCI_MAX]; unsigned n; bool started; } all;

bool xhci_fail(struct xhci *hc, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fmt_vsnprintf(hc->trouble, sizeof(hc->trouble), fmt, ap);
    va_end(ap);
    return false;
}

static u32 get(const volatile u8 *base, unsigned reg) { return *(const volatile u32 *)(base + reg); }
static void put(volatile u8 *base, unsigned reg, u32 v) { *(volatile u32 *)(base + reg) = v; }
static void put64(volatile u8 *base, unsigned reg, u64 v)      // 5.1: low half first
{
    put(base, reg, (u32)v);
    put(base, reg + 4, v >> 32);
}

// Waits until (reg & mask) == want. False: not within that time, or the controller is gone (all ones).
static bool wait_for(const volatile u8 *base, unsigned reg, u32 mask, u32 want, u64 ns)
{
    for (u64 end = hwtimer_now_ns() + ns;; cpu_pause()) {
        u32 v = get(base, reg);
        if (v != UINT32_MAX && (v & mask) == want) return true;
        if (hwtimer_now_ns() > end) return false;
    }
}

// ---- extended capabilities ------------------------------------------------------------------------------------------------------

// USBLEGSUP and, behind it, USBLEGCTLSTS.
static void legacy_take(struct xhci *hc, unsigned at)
{
    put(hc->cap, at, get(hc->cap, at) | LEGACY_OS_OWNED);
    if (!wait_for(hc->cap, at, LEGACY_BIOS_OWNED, 0, 1000 * MS)) {
        log_warn("%s: the firmware does not give the controller up; it is taken", hc->name);
        put(hc->cap, at, get(hc->cap, at) & ~(u32)LEGACY_BIOS_OWNED);
    }
    put(hc->cap, at + 4, (get(hc->cap, at + 4) & LEGACY_CTL_KEEP) | LEGACY_CTL_EVENTS);
}

// Supported Protocol (7.2): which root ports speak which USB.
static void protocol_note(struct xhci *hc, unsigned at)
{
    u32 ports = get(hc->cap, at + 8);
    u8 major = get(hc->cap, at) >> 24, type = get(hc->cap, at + 12) & 31;
    for (unsigned i = 0, n = ports & 255; i < (ports >> 8 & 255) && n + i < XHCI_PORTS; i++) {
        hc->protocol[n + i] = major;
        hc->slot_type[n + i] = type;
    }
}

static void extended_walk(struct xhci *hc, void (*legacy)(struct xhci *, unsigned), void (*protocol)(struct xhci *, unsigned))
{
    unsigned at = get(hc->cap, CAP_HCCPARAMS1) >> 16 << 2, next;
    for (unsigned i = 0; at && at + 16 <= WINDOW && i < EXT_STEPS; i++, at = next ? at + next : 0) {
        u32 v = get(hc->cap, at);
        next = (v >> 8 & 255) << 2;
        if ((v & 255) == EXT_LEGACY && legacy) legacy(hc, at);
        if ((v & 255) == EXT_PROTOCOL && protocol) protocol(hc, at);
    }
}

// ---- start ------------------------------------------------------------------------------------------------------------------------

static bool registers_find(struct xhci *hc)
{
    hc->cap = hostpci_bar_map(hc->bdf, 0, 0, WINDOW);
    if (!hc->cap) return xhci_fail(hc, "its registers have no address");
    u32 first = get(hc->cap, CAP_LENGTH), params = get(hc->cap, CAP_HCSPARAMS1), doorbells = get(hc->cap, CAP_DBOFF) & ~3u;
    u32 runtime = get(hc->cap, CAP_RTSOFF) & ~31u, hcc = get(hc->cap, CAP_HCCPARAMS1);
    if (first == UINT32_MAX) return xhci_fail(hc, "its registers do not answer");
    if (doorbells > WINDOW - 4 * 256 || runtime > WINDOW - 0x40)
        return xhci_fail(hc, "its registers lie further apart than this driver maps");
    hc->op = hc->cap + (first & 255);
    hc->rt = hc->cap + runtime;
    hc->doorbell = (volatile u32 *)(hc->cap + doorbells);
    hc->slots = params & 255;
    hc->ports = params >> 24;
    hc->wide = hcc & HCC_AC64;
    hc->context = hcc & HCC_CSZ ? 64 : 32;
    return hc->slots && hc->ports ? true : xhci_fail(hc, "it has no ports");
}

// 4.2 and 5.4.1: halted, reset, and left alone for a moment, since some controllers hang when they are read in the first millisecond.
static bool controller_reset(struct xhci *hc)
{
    if (!wait_for(hc->op, OP_USBSTS, STS_CNR, 0, 1000 * MS)) return xhci_fail(hc, "it is not ready within 1 s");
    put(hc->op, OP_USBCMD, get(hc->op, OP_USBCMD) & ~(u32)CMD_RUN);
    if (!wait_for(hc->op, OP_USBSTS, STS_HALTED, STS_HALTED, 100 * MS)) return xhci_fail(hc, "it does not halt");
    put(hc->op, OP_USBCMD, CMD_RESET);
    hwtimer_wait_ns(2 * MS);
    if (!wait_for(hc->op, OP_USBCMD, CMD_RESET, 0, 1000 * MS) || !wait_for(hc->op, OP_USBSTS, STS_CNR, 0, 1000 * MS))
        return xhci_fail(hc, "its reset does not end within 1 s");
    return true;
}

// Pages that the controller keeps its own state in (4.20).
static bool scratchpad_give(struct xhci *hc)
{
    u32 p = get(hc->cap, CAP_HCSPARAMS2), n = (p >> 21 & 31) << 5 | p >> 27;
    u64 page = (u64)(get(hc->op, OP_PAGESIZE) & 0xffff) << PAGE_SHIFT, array_phys;
    page &= -page;
    if (!n) return true;
    u64 *array = page ? xhci_memory(hc, n * 8 > PAGE_SIZE ? 2 * PAGE_SIZE : PAGE_SIZE, &array_phys) : NULL;
    for (unsigned i = 0; array && i < n; i++)
        if (!xhci_memory(hc, page, &array[i])) return false;
    if (!array) return xhci_fail(hc, "no memory for its scratchpad");
    hc->dcbaa[0] = array_phys;
    return true;
}

static bool memory_give(struct xhci *hc)
{
    u64 dcbaa, table, *segment = xhci_memory(hc, PAGE_SIZE, &table);    // event ring segment table, 6.5: one segment
    hc->dcbaa = xhci_memory(hc, PAGE_SIZE, &dcbaa);
    if (!segment || !hc->dcbaa || !scratchpad_give(hc)) return false;
    if (!xhci_ring_init(hc, &hc->commands, true) || !xhci_ring_init(hc, &hc->events, false)) return false;
    segment[0] = hc->events.phys;
    segment[1] = XHCI_RING;
    put(hc->op, OP_CONFIG, hc->slots);
    put64(hc->op, OP_DCBAAP, dcbaa);
    put64(hc->op, OP_CRCR, hc->commands.phys | 1);                      // ring cycle state 1
    put(hc->rt, RT_ERSTSZ, 1);
    put64(hc->rt, RT_ERDP, hc->events.phys);
    put64(hc->rt, RT_ERSTBA, table);                                    // last: 4.9.4
    return true;
}

static void ports_power(struct xhci *hc)
{
    for (unsigned n = 1; n <= hc->ports; n++) {
        volatile u8 *p = hc->op + OP_PORTSC + OP_PORT_STEP * (n - 1);
        if (!(get(p, 0) & PORTSC_PP)) put(p, 0, (get(p, 0) & PORTSC_KEEP) | (u32)PORTSC_PP);
    }
}

static bool controller_start(struct xhci *hc)
{
    hostpci_enable(hc->bdf);
    if (!registers_find(hc)) return false;
    extended_walk(hc, legacy_take, NULL);
    if (!controller_reset(hc)) return false;
    extended_walk(hc, NULL, protocol_note);
    if (!memory_give(hc)) return false;
    put(hc->op, OP_USBCMD, CMD_RUN);
    if (!wait_for(hc->op, OP_USBSTS, STS_HALTED, 0, 100 * MS)) return xhci_fail(hc, "it does not start");
    ports_power(hc);
    return true;
}

static void controller_found(u32 bdf)
{
    struct xhci *hc = &all.hc[all.n];
    *hc = (struct xhci){.bdf = bdf};
    fmt_snprintf(hc->name, sizeof(hc->name), "USB %02x:%02x.%u", bdf >> 8, bdf >> 3 & 31, bdf & 7);
    log_info("%s: the controller is taken from the firmware; a USB keyboard passed off as PS/2 does not work from now on", hc->name);
    if (!controller_start(hc)) {
        log_warn("%s: the controller is left out: %s", hc->name, hc->trouble);
        return;
    }
    log_info("%s: %u ports, %u slots, contexts of %u bytes", hc->name, hc->ports, hc->slots, hc->context);
    all.n++;
}

unsigned xhci_start_all(void)
{
    if (all.started) return all.n;
    all.started = true;
    for (u32 bdf = HOSTPCI_NONE; (bdf = hostpci_next(bdf)) != HOSTPCI_NONE;) {
        u32 class = hostpci_read(bdf, HOSTPCI_CLASS) >> 8;
        if (class == CLASS_XHCI && all.n < XHCI_MAX) controller_found(bdf);
        else if (class >> 8 == CLASS_XHCI >> 8 && class < 0x0c0340)      // UHCI, OHCI, EHCI; beyond are devices and USB4
            log_info("USB %02x:%02x.%u: not an xHCI (class %06x), left to the firmware", bdf >> 8, bdf >> 3 & 31, bdf & 7, class);
    }
    return all.n;
}

struct xhci *xhci_get(unsigned i) { return &all.hc[i]; }

// ---- root ports -------------------------------------------------------------------------------------------------------------------

static volatile u8 *port_of(struct xhci *hc, unsigned n) { return hc->op + OP_PORTSC + OP_PORT_STEP * (n - 1); }

bool xhci_port_connected(struct xhci *hc, unsigned n, bool *changed)
{
    u32 v = get(port_of(hc, n), 0);
    if (v == UINT32_MAX) return false;
    *changed = v & PORTSC_CSC;
    if (*changed) put(port_of(hc, n), 0, (v & PORTSC_KEEP) | (u32)PORTSC_CSC);
    return v & PORTSC_CCS;
}

// One bit says that a reset has ended, or another that a warm one has.
static bool port_reset_end(const volatile u8 *p)
{
    for (u64 end = hwtimer_now_ns() + 800 * MS; hwtimer_now_ns() < end; cpu_pause())
        if (get(p, 0) & (PORTSC_PRC | PORTSC_WRC) && !(get(p, 0) & PORTSC_PR)) return true;
    return false;
}

// 4.19.5. A SuperSpeed port trains by itself and is enabled at once, or needs a warm reset; others need a reset.
bool xhci_port_enable(struct xhci *hc, unsigned n, unsigned *speed)
{
    volatile u8 *p = port_of(hc, n);
    bool super = hc->protocol[n] >= 3;
    if (super) (void)wait_for(p, 0, (u32)PORTSC_PED, (u32)PORTSC_PED, 200 * MS);
    u32 v = get(p, 0);
    if (!super || !(v & PORTSC_PED) || portsc_link(v) != LINK_U0) {
        put(p, 0, (v & PORTSC_KEEP) | (super ? (u32)PORTSC_WPR : (u32)PORTSC_PR));
        if (!port_reset_end(p)) return xhci_fail(hc, "the port's reset does not end");
        put(p, 0, (get(p, 0) & PORTSC_KEEP) | (super ? PORTSC_CHANGES3 : PORTSC_CHANGES2));
        hwtimer_wait_ns(20 * MS);                                        // USB 2.0 7.1.7.5: recovery
        v = get(p, 0);
    }
    if (v == UINT32_MAX || !(v & PORTSC_PED)) return xhci_fail(hc, "the port does not come up after its reset (PORTSC %08x)", v);
    *speed = portsc_speed(v);
    return true;
}
