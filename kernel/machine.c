// The guest machine: a q35-like PC wired from devices/ around vCPUs from tcg/. See machine.h.
//
// Wires. ISA interrupt n goes to 8259 input n and to I/O APIC pin n, but for the timer: interrupt 0 is pin 2, as on every PC and as the
// MADT says.
// Memory. RAM below the PCI Express window at 0xb0000000, the rest above 4 GiB; 0xa0000-0xbffff is left to a display; 0xc0000-0xfffff is
// RAM.
//
// Reset. The vCPU's loop returns, chips and vCPUs go to their power-up state, and the kernel is loaded again from the images, as firmware
// would.
#include "kernel/machine.h"

#include "devices/clock.h"
#include "devices/devices.h"
#include "devices/icount.h"
#include "devices/load.h"
#include "devices/virtio.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/machine_cores.h"
#include "kernel/machine_profile.h"
#include "kernel/plat.h"
#include "tcg/guest/x86/start.h"
#include "tcg/phys.h"
#include "tcg/run/tcg.h"

enum { ISA_IRQS = 16, GSIS = 24 };
#define LOW_RAM_END 0xb0000000ull

// The machine. One per run of the emulator; the platform's callbacks carry no argument to find it by.
static struct machine {
    struct machine_config cfg;
    struct phys *phys;
    struct tcg *tcg;
    struct vcpu *cpus[VCPUS_MAX];
    struct vcpu *cpu;             // cpus[0], which boots; the chips' wires end there
    struct ioapic *ioapic;
    struct pic *pic;
    struct irq isa[ISA_IRQS], gsi[GSIS];
    struct pit *pit;
    struct hpet *hpet;
    struct rtc *rtc;
    struct serial *serial;
    struct i8042 *i8042;
    struct pci *pci;
    struct acpi_pm *pm;
    struct virtio_console *vcon;
    struct virtio_blk *blk[MACHINE_DRIVES];
    struct plat_io *io[MACHINE_IOTHREADS];
    u8 *ram;
    u64 entropy;
    bool quit, stopped, cores_up, late;
    struct timer limit;           // of machine_run_for
} m;

// ---- wires ----------------------------------------------------------------------------------------------------------------

static void isa_set(void *opaque UNUSED, unsigned n, bool level)
{
    struct irq a = pic_pin(m.pic, n), b = ioapic_pin(m.ioapic, n == 0 ? 2 : n);
    irq_set(&a, level);
    irq_set(&b, level);
}

static u64 read_tsc_hz(void)
{
    // Counted against the platform's clock; 20 ms are good for a few parts per million.
    u64 t0 = plat_time_ns(), c0 = __builtin_ia32_rdtsc(), t1;
    while ((t1 = plat_time_ns()) - t0 < 20000000) __builtin_ia32_pause();
    return muldiv64(__builtin_ia32_rdtsc() - c0, NS_PER_SEC, t1 - t0);
}

static void code_written(void *opaque UNUSED, struct gpa a, u64 len) { (void)tb_invalidate_phys(m.tcg, a, len, 0); }

// splitmix64, as in the vCPU's RDRAND; a stream of its own.
static u64 seeded_next(void)
{
    u64 z = m.entropy += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static void entropy(void *opaque UNUSED, void *buf, size_t len)
{
    u8 *p = buf;
    if (m.cfg.seeded) {
        for (size_t n = 0; n < len; n++) p[n] = (u8)seeded_next();
        return;
    }
    for (size_t n = 0; n < len; n++) {
        u64 v = __builtin_ia32_rdtsc() ^ plat_time_ns() * 0x9e3779b97f4a7c15ull;
        if (n % 8 == 0) __asm__ volatile("1: rdrand %0\n\tjnc 1b" : "=r"(m.entropy) : : "cc");
        p[n] = (u8)(m.entropy >> n % 8 * 8 ^ v >> 32);
    }
}

static void map_changed(void *opaque UNUSED)
{
    for (unsigned n = 0; n < m.cfg.smp; n++) vcpu_request_tlb_flush(m.cpus[n]);
}

// The virtio console, where there is one with a driver, is what the keyboard types into.
static bool console_input(u8 byte)
{
    return m.vcon && virtio_console_driven(m.vcon) ? virtio_console_input(m.vcon, byte) : serial_input(m.serial, byte);
}

static void console_out(const void *buf, size_t len) { plat_console_write(buf, len); }

// ---- time -----------------------------------------------------------------------------------------------------------------------

static u64 count(void) { return icount_now(m.tcg); }
static void moved(void) { icount_moved(m.tcg); }
static u64 virtual_ns(void) { return clock_ns(CLOCK_VIRTUAL_); }

// Before the first device: timers are on the clock then.
static void icount_create(void)
{
    static const struct icount_hooks hooks = {.turn = icount_turn_clock, .idle = icount_wait};
    struct icount_config ic = {.shift = m.cfg.icount.shift, .sleep = !m.cfg.icount.sleep_off, .count = count, .moved = moved};
    icount_set_hooks(m.tcg, &hooks);
    icount_start(&ic);
    for (unsigned n = 0; n < m.cfg.smp; n++) x86_vcpu_set_clock(m.cpus[n], virtual_ns);
}

static void rtc_start(void)
{
    const struct machine_config *c = &m.cfg;
    u64 wall = plat_wall_ns();
    s64 sec = (s64)(wall / NS_PER_SEC);
    u32 ns = (u32)(wall % NS_PER_SEC);
    bool vm = c->rtc.clock == RTC_CLOCK_VM || (c->icount.on && c->rtc.clock == RTC_CLOCK_DEFAULT);
    if (c->rtc.base == RTC_BASE_LOCAL) {
        sec += c->rtc.sec;
    } else if (c->rtc.base == RTC_BASE_DATE || (c->rtc.base == RTC_BASE_DEFAULT && c->icount.on)) {
        sec = c->rtc.base == RTC_BASE_DATE ? c->rtc.sec : ICOUNT_RTC_BASE;
        ns = 0;
    } else if (!vm) {
        return;                                    // the wall clock's UTC: as rtc_new made it
    }
    rtc_set_time(m.rtc, vm, sec, ns);
}

// ---- building ---------------------------------------------------------------------------------------------------------------

static bool fail(char *err, size_t len, const char *text)
{
    fmt_snprintf(err, len, "%s", text);
    return false;
}

// The I/O threads exist before the devices that they serve.
static void io_serve(void *opaque)
{
    struct plat_io **io = opaque;
    for (unsigned i = 0; i < m.cfg.ndrives; i++) {
        struct virtio_blk *s = __atomic_load_n(&m.blk[i], __ATOMIC_ACQUIRE);
        if (s && m.cfg.drive[i].iothread == io - m.io + 1) virtio_blk_serve(s);
    }
}

static void attention(void)
{
    for (unsigned i = 0; i < MACHINE_DRIVES; i++)
        if (m.blk[i]) virtio_blk_attention(m.blk[i]);
}

static bool iothreads_create(char *err, size_t errlen)
{
    char why[256];
    for (unsigned i = 0; i < m.cfg.niothreads; i++) {
        if ((m.io[i] = plat_io_start(io_serve, &m.io[i], why, sizeof why))) continue;
        fmt_snprintf(err, errlen, "iothread: %s", why);
        return false;
    }
    return true;
}

static bool ram_create(char *err, size_t errlen)
{
    u64 size = m.cfg.ram_size, low = min_u64(size, LOW_RAM_END);
    m.ram = plat_pages_alloc(size);
    if (!m.ram) {
        fmt_snprintf(err, errlen, "no %llu MiB of memory for the guest; give less with -m (memory in cupel.conf)", (unsigned long long)(size / MIB));
        return false;
    }
    phys_add_ram(m.phys, gpa(0), 0xa0000, m.ram, "ram-low");
    phys_add_ram(m.phys, gpa(0xc0000), low - 0xc0000, m.ram + 0xc0000, "ram");
    if (size > low) phys_add_ram(m.phys, gpa(4 * GIB), size - low, m.ram + low, "ram-high");
    return true;
}

static void devices_create(u64 tsc_hz)
{
    struct phys *p = m.phys;
    m.ioapic = ioapic_new(p);
    m.pic = pic_new(p, m.cpu);
    for (unsigned n = 0; n < m.cfg.smp; n++) {
        struct lapic *l = lapic_new(p, m.cpus[n], n);
        lapic_set_tsc(l, tsc_hz, x86_vcpu_tsc);
        if (n == 0) lapic_set_pic(l, m.cpu, pic_ack, m.pic);
    }
    for (unsigned n = 0; n < ISA_IRQS; n++) m.isa[n] = (struct irq){isa_set, NULL, n};
    for (unsigned n = 0; n < GSIS; n++) m.gsi[n] = ioapic_pin(m.ioapic, n);
    m.pit = pit_new(p, m.isa[0]);
    m.rtc = rtc_new(p, m.isa[8], m.cfg.ram_size);
    u64 low = min_u64(m.cfg.ram_size, LOW_RAM_END);
    rtc_set_memory(m.rtc, low, m.cfg.ram_size - low);
    rtc_start();
    m.hpet = hpet_new(p, m.gsi, GSIS);
    hpet_set_legacy(m.hpet, m.pit, m.rtc, m.isa[0], m.isa[8]);
    m.serial = serial_new(p, 0x3f8, m.isa[4], m.cfg.serial_out ? m.cfg.serial_out : console_out);
    m.i8042 = i8042_new(p, m.cpu, m.isa[1]);
    m.pci = pci_new(p, m.gsi, GSIS);
    m.pm = acpi_pm_new(p, m.cpu, m.isa[9]);
    if (m.cfg.virtio_rng && !virtio_rng_new(m.pci, entropy, NULL)) panic("virtio-rng: the PCI bus is full");
    if (m.cfg.virtio_console && !(m.vcon = virtio_console_new(m.pci, console_out))) panic("virtio-console: the PCI bus is full");
    for (unsigned i = 0; i < m.cfg.ndrives; i++) {
        const struct machine_drive *d = &m.cfg.drive[i];
        struct virtio_blk *s = virtio_blk_new(m.pci, d->block, d->queues, d->serial, d->iothread ? m.io[d->iothread - 1] : NULL);
        if (!s) panic("virtio-blk: the PCI bus is full");
        __atomic_store_n(&m.blk[i], s, __ATOMIC_RELEASE);
    }
    if (m.cfg.debug_exit_size) debug_exit_new(p, m.cpu, (u16)m.cfg.debug_exit_base, m.cfg.debug_exit_size);
    if (m.cfg.debugcon) debugcon_new(p, 0xe9, m.cfg.debugcon_out ? m.cfg.debugcon_out : console_out);
}

// Loads the kernel and points vCPU 0 at it. Also after every reset.
static bool kernel_start(char *err, size_t errlen)
{
    struct load_request rq = {.kernel = m.cfg.kernel, .initrd = m.cfg.initrd, .cmdline = m.cfg.append};
    struct load_result r = {0};
    rq.rsdp = acpi_tables_build(m.phys, m.cfg.smp);
    if (!load_kernel(m.phys, &rq, &r, err, errlen)) return false;
    for (unsigned n = 0; n < m.cfg.smp; n++) {
        x86_vcpu_reset(m.cpus[n]);
        m.cpus[n]->apic_ops->reset(m.cpus[n]->apic, false);
    }
    struct x86_start s = {.mode64 = r.mode64, .pc = r.entry, .rsi = r.rsi, .rsp = r.rsp, .cr3 = r.cr3, .gdt_base = r.gdt_base,
                          .gdt_limit = r.gdt_limit, .cs = r.cs, .ds = r.ds, .eax = r.eax, .ebx = r.ebx};
    x86_vcpu_start(m.cpu, &s);
    return true;
}

// Why icount is not possible with this configuration, or NULL.
static const char *icount_refusal(const struct machine_config *c)
{
    if (!c->icount.on) return NULL;
    if (c->icount.shift > ICOUNT_SHIFT_MAX) return "icount: shift is 0 to 10";
    if (c->threads == THREADS_MULTI || (c->smp > 1 && c->threads != THREADS_SINGLE))
        return "icount needs the vCPUs one at a time, since it is their instructions that time is made of: use accel tcg,thread=single";
    return NULL;
}

static bool config_check(char *err, size_t errlen)
{
    const struct machine_config *c = &m.cfg;
    if (icount_refusal(c)) return fail(err, errlen, icount_refusal(c));
    if (!c->kernel.data) return fail(err, errlen, "no guest: give a kernel with -kernel (kernel in cupel.conf)");
    if (c->smp > VCPUS_MAX) {
        fmt_snprintf(err, errlen, "smp: at most %d vCPUs, not %u", VCPUS_MAX, c->smp);
        return false;
    }
    u64 cache_min = max_u64(MACHINE_TB_SIZE_MIN, align_up(tcg_cache_min(c->smp), MIB));
    if (c->tb_size && c->tb_size < cache_min) {
        fmt_snprintf(err, errlen, "tb-size: the code cache of %u vCPU%s needs at least %llu MiB", c->smp, c->smp > 1 ? "s" : "",
                     (unsigned long long)(cache_min / MIB));
        return false;
    }
    if (c->ram_size < 16 * MIB || c->ram_size % MIB) return fail(err, errlen, "memory: at least 16 MiB, in whole MiB");
    return true;
}

bool machine_create(const struct machine_config *cfg, char *err, size_t errlen)
{
    static const struct plat_events events = {.timer = clocks_run_expired, .attention = attention, .console_input = console_input,
                                              .entered = profile_interrupt_begin, .interrupted = vcpu_interrupted, .host_fault = vcpu_host_fault};
    m.cfg = *cfg;
    if (!m.cfg.smp) m.cfg.smp = 1;
    if (m.cfg.icount.on && !m.cfg.seeded) m.cfg.seed = ICOUNT_SEED;
    m.cfg.seeded |= m.cfg.icount.on;
    m.entropy = ~m.cfg.seed;           // not the numbers of RDRAND
    if (!config_check(err, errlen)) return false;
    if (host_missing()) {
        fmt_snprintf(err, errlen, "this processor lacks %s, which translated code needs; a PC from 2014 or later has it", host_missing());
        return false;
    }
    u64 cache = cfg->tb_size ? cfg->tb_size : max_u64(TB_CACHE_DEFAULT, align_up(tcg_cache_min(m.cfg.smp), MIB));
    struct tcg_config tc = {.cache_size = cache, .vcpus = m.cfg.smp, .exit_poll = cfg->exit_poll, .no_chain = cfg->no_chain,
                            .max_insns = TB_MAX_INSNS, .icount = cfg->icount.on};
    m.tcg = tcg_new(&tc);
    if (!m.tcg) return fail(err, errlen, "no memory for the code cache; make it smaller with -accel tcg,tb-size=MiB");
    m.phys = phys_new();
    if (!ram_create(err, errlen)) return false;
    u64 tsc_hz = cfg->icount.on ? NS_PER_SEC : read_tsc_hz();     // the host's rate must not reach a deterministic guest
    for (unsigned n = 0; n < m.cfg.smp; n++) {
        if (!(m.cpus[n] = x86_vcpu_new(m.tcg, m.phys, n, m.cfg.smp, tsc_hz))) return fail(err, errlen, "no memory for the vCPUs");
        if (m.cfg.seeded) x86_vcpu_set_seed(m.cpus[n], m.cfg.seed + n);
    }
    m.cpu = m.cpus[0];
    clocks_init();
    profiler_init(m.cpus, m.cfg.smp);
    if (!iothreads_create(err, errlen)) return false;
    plat_events_set(&events);
    bql_lock();
    if (cfg->icount.on) icount_create();
    devices_create(tsc_hz);
    static const struct phys_hooks hooks = {.code_written = code_written, .map_changed = map_changed};
    phys_set_hooks(m.phys, &hooks);
    bool ok = kernel_start(err, errlen);
    bql_unlock();
    return ok;
}

// ---- running -------------------------------------------------------------------------------------------------------------------

static void chips_reset(void)
{
    pic_reset(m.pic);
    ioapic_reset(m.ioapic);
    pit_reset(m.pit);
    hpet_reset(m.hpet);
    rtc_reset(m.rtc);
    serial_reset(m.serial);
    i8042_reset(m.i8042);
    pci_reset(m.pci);
    acpi_pm_reset(m.pm);
}

static void reset_all(void)
{
    char err[256];
    bql_lock();
    chips_reset();
    bool ok = kernel_start(err, sizeof err);
    bql_unlock();
    ASSERT(ok, "reset: %s", err);      // the same images loaded before
}

static void wait_while_stopped(void)
{
    bql_lock();
    clock_pause_vm();
    u64 since = __builtin_ia32_rdtsc();
    while (m.stopped && !m.quit) plat_idle();
    u64 stood = __builtin_ia32_rdtsc() - since;
    for (unsigned n = 0; n < m.cfg.smp; n++) x86_vcpu_tsc_hold(m.cpus[n], stood);
    clock_resume_vm();
    bql_unlock();
}

// FNV-1a, 64 bits (draft-eastlake-fnv).
static u64 ram_hash(void)
{
    u64 h = 0xcbf29ce484222325ull;
    for (u64 n = 0; n < m.cfg.ram_size; n++) h = (h ^ m.ram[n]) * 0x100000001b3ull;
    return h;
}

static void icount_text(char *buf, size_t len)
{
    fmt_snprintf(buf, len, "instructions=%llu virtual_ns=%llu waited_ns=%llu", (unsigned long long)count(), (unsigned long long)icount_ns(),
                 (unsigned long long)icount_waited_ns());
}

static void icount_report(void)
{
    char text[128];
    if (!m.cfg.icount.on || !(trace_mask() & TRACE_ICOUNT)) return;
    icount_text(text, sizeof text);
    trace_write("icount: %s ram_fnv1a64=%016llx\n", text, (unsigned long long)ram_hash());
}

static void trace_text(void *o UNUSED, const char *s) { trace_write("%s", s); }

static void profile_report(void)
{
    if (!(trace_mask() & TRACE_PROFILE)) return;
    bql_lock();
    profiler_switch(false);
    bql_unlock();
    profiler_info(trace_text, NULL);
}

static enum machine_end run(int *code)
{
    while (!m.quit) {
        cores_release();
        u32 ev = cores_run();
        if (m.quit) break;
        if (m.late) return MACHINE_TIMEOUT;
        if (ev & VCPU_EV_SHUTDOWN) {
            *code = m.cpu->shutdown_code;
            return *code ? MACHINE_DEBUG_EXIT : MACHINE_POWEROFF;
        }
        if (ev & VCPU_EV_RESET) {
            if (m.cfg.no_reboot) return MACHINE_RESET;
            reset_all();
        }
        if (ev & VCPU_EV_STOP) wait_while_stopped();
    }
    return MACHINE_QUIT;
}

static void cores_bring_up(void)
{
    if (!m.cores_up) cores_start(m.cpus, m.cfg.smp, m.cfg.threads == THREADS_SINGLE || m.cfg.icount.on);
    m.cores_up = true;
}

static void disks_finish(void)
{
    bql_lock();
    for (unsigned i = 0; i < m.cfg.ndrives; i++) virtio_blk_finish(m.blk[i]);
    bql_unlock();
}

enum machine_end machine_run(int *code)
{
    cores_bring_up();
    bql_lock();
    clock_resume_vm();
    if (trace_mask() & TRACE_PROFILE) profiler_switch(true);
    bql_unlock();
    enum machine_end end = run(code);
    disks_finish();
    bql_lock();
    clock_pause_vm();
    bql_unlock();
    icount_report();
    profile_report();
    return end;
}

// Of whoever runs on core 0: to ask another vCPU would end his turn (machine_cores.c).
static void request_stop(void)
{
    struct vcpu *v = vcpu_on_core(0);
    if (v || m.cpu) vcpu_request_stop(v ? v : m.cpu);
}

static void limit_reached(void *opaque UNUSED)
{
    m.late = true;
    request_stop();
}

enum machine_end machine_run_for(u64 ns, int *code)
{
    m.late = false;
    bql_lock();
    timer_init(&m.limit, CLOCK_REALTIME_, limit_reached, NULL);
    timer_mod_ns(&m.limit, clock_ns(CLOCK_REALTIME_) + ns);
    bql_unlock();
    enum machine_end end = machine_run(code);
    bql_lock();
    timer_del(&m.limit);
    bql_unlock();
    m.late = false;
    return end;
}

bool machine_restart(const struct machine_guest *g, char *err, size_t errlen)
{
    m.cfg.kernel = g->kernel;
    m.cfg.initrd = g->initrd;
    m.cfg.append = g->append;
    if (!config_check(err, errlen)) return false;
    tcg_set_engine(m.tcg, g->exit_poll, g->no_chain);
    bql_lock();
    chips_reset();
    bool ok = kernel_start(err, errlen);
    bql_unlock();
    return ok;
}

void *machine_ram(u64 pa, u64 len)
{
    u64 low = min_u64(m.cfg.ram_size, LOW_RAM_END);
    return pa <= low && len <= low - pa ? m.ram + pa : NULL;
}

unsigned machine_cores(void)
{
    cores_bring_up();
    return cores_count_used();
}

bool machine_on_cores(unsigned n, void (*fn)(unsigned core, void *arg), void *arg)
{
    cores_bring_up();
    return cores_call(n, fn, arg);
}

void machine_quit(void)
{
    m.quit = true;
    request_stop();
}

void machine_reset(void) { vcpu_request_reset(m.cpu); }

void machine_stop(void)
{
    m.stopped = true;
    request_stop();
}

void machine_cont(void)
{
    m.stopped = false;
    plat_core_kick(0);            // it waits in wait_while_stopped
}

void machine_profile(bool on) { profiler_switch(on); }

bool machine_profile_read(unsigned vcpu, struct profile *p, struct vcpu_counters *n)
{
    if (vcpu >= m.cfg.smp) return false;
    profile_read(m.cpus[vcpu], p);
    profile_counters(m.cpus[vcpu], n);
    return true;
}

static void info_icount(void (*out)(void *o, const char *s), void *o)
{
    char text[128];
    if (!m.cfg.icount.on) {
        out(o, "icount is off (option -icount, key icount)\n");
        return;
    }
    icount_text(text, sizeof text);
    out(o, text);
    fmt_snprintf(text, sizeof text, " shift=%u sleep=%s\n", m.cfg.icount.shift, m.cfg.icount.sleep_off ? "off" : "on");
    out(o, text);
}

void machine_info(const char *what, void (*out)(void *o, const char *s), void *o)
{
    if (!__builtin_strcmp(what, "registers")) {
        for (unsigned n = 0; n < m.cfg.smp; n++) {
            char line[32];
            fmt_snprintf(line, sizeof line, "CPU#%u\n", n);
            if (m.cfg.smp > 1) out(o, line);
            m.cpus[n]->ops->dump(m.cpus[n], out, o);
        }
    } else if (!__builtin_strcmp(what, "jit")) tcg_info(m.tcg, out, o);
    else if (!__builtin_strcmp(what, "timers")) clocks_info(out, o);
    else if (!__builtin_strcmp(what, "icount")) info_icount(out, o);
    else if (!__builtin_strcmp(what, "profile")) profiler_info(out, o);
    else if (!__builtin_strcmp(what, "sync-profile")) bql_info(out, o);
    else out(o, "info: registers, jit, timers, icount, profile, sync-profile\n");
}
