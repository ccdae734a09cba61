// The assay on the bare machine: what it asks of the platform. Results go onto the stick that was booted and, marked by lines, over the
// serial line, where a run without a stick finds them.
#include <string.h>

#include "assay/assay.h"
#include "assay/console.h"
#include "kernel/assay.h"
#include "kernel/assay_native.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/console.h"
#include "kernel/cpu.h"
#include "kernel/plat.h"
#include "kernel/pmu.h"
#include "kernel/pmem.h"
#include "kernel/stick.h"

extern const u8 assay_payload[], assay_payload_end[];

// Where the loader found memory: what the firmware took for itself before is not in it.
static u64 memory_bytes(const struct boot_info *info)
{
    const struct boot_mem *m = pmem_virt(info->mem_map_phys);
    u64 sum = 0;
    for (u64 i = 0; i < info->mem_map_count; i++)
        if (m[i].type == BOOT_MEM_FREE || m[i].type == BOOT_MEM_LOADER || m[i].type == BOOT_MEM_ACPI) sum += m[i].size;
    return sum;
}

// SDM 3A 10.11.7.1: Intel's wants a CPUID before; AMD's (PPR, MSR 0000_008B) is in the low half. A hypervisor may have no such register.
static void microcode_read(char *out, size_t len)
{
    struct cpuid id = cpu_cpuid(0, 0);
    if (cpu_cpuid(1, 0).c & BIT(31)) return;
    bool intel = id.b == 0x756e6547, amd = id.b == 0x68747541;
    if (!intel && !amd) return;
    if (intel) cpu_wrmsr(0x8b, 0);
    (void)cpu_cpuid(1, 0);
    u64 v = cpu_rdmsr(0x8b);
    fmt_snprintf(out, len, "0x%08x", (u32)(intel ? v >> 32 : v));
}

// assay_platform.counters.read takes no argument to find it by.
static struct pmu pmu;

static struct pmu_id pmu_cpuid(u32 leaf)
{
    struct cpuid r = cpu_cpuid(leaf, 0);
    return (struct pmu_id){r.a, r.b, r.c, r.d};
}

static void counters_read(u64 *values) { pmu_read(&pmu, values); }

// Of the boot core, where the runs are whose counters are reported.
static void counters_open(struct assay_platform *p)
{
    pmu_find(&pmu, pmu_cpuid);
    pmu_start(&pmu);
    p->counters.n = pmu.n;
    for (unsigned i = 0; i < pmu.n; i++) p->counters.name[i] = pmu.counter[i].name;
    p->counters.read = counters_read;
}

static void print(const char *text)
{
    plat_console_write(text, strlen(text));
    plat_console_write("\n", 1);
}

static bool save(const char *json, u64 len, char *err, size_t errlen)
{
    console_serial_only("\n--- assay.json begins ---\n", 27);
    console_serial_only(json, len);
    console_serial_only("--- assay.json ends ---\n", 24);
    return stick_write("assay.json", json, len, err, errlen);
}

static NORETURN void ended(bool ok, bool power_off)
{
    if (ok) print("assay: complete; assay.json is on the stick. Its page: tools/report assay.json");
    if (power_off) plat_exit(ok ? 0 : 1);
    print("The PC may be switched off now; Ctrl-A x does it.");
    bql_lock();
    for (;;) plat_idle();
}

static void machine_make(const struct boot_info *info, struct machine_config *cfg)
{
    char err[512] = "";
    cfg->kernel = (struct blob){assay_payload, (u64)(assay_payload_end - assay_payload), "the assay's payload"};
    cfg->initrd = (struct blob){0};
    cfg->append = "";
    cfg->serial_out = assay_serial_out;
    cfg->debugcon = true;
    cfg->debugcon_out = assay_mark_out;
    cfg->debug_exit_base = ASSAY_EXIT_PORT;
    cfg->debug_exit_size = 2;
    cfg->exit_poll = cfg->no_chain = false;
    if (!cfg->smp) cfg->smp = (unsigned)min_u64(plat_core_count(), ASSAY_CPUS);
    if (machine_create(cfg, err, sizeof err)) return;
    log_error("[%s] %s", info->title, err);
    plat_exit(1);
}

void assay_start(const struct boot_info *info, struct machine_config *cfg)
{
    static struct assay_platform p;
    struct assay_options o = ASSAY_OPTIONS_DEFAULT;
    struct assay_guests g = {.kernel = cfg->kernel, .initrd = cfg->initrd};
    char err[256];
    if (strcmp(info->assay, "on") && !assay_options_parse(&o, info->assay, err, sizeof err)) {
        log_error("[%s] %s", info->title, err);
        plat_exit(1);
    }
    p.facts = (struct assay_facts){.version = CUPEL_VERSION, .build = CUPEL_BUILD, .platform = "metal", .memory = memory_bytes(info),
                                   .seconds_1970 = plat_wall_ns() / NS_PER_SEC};
    fmt_snprintf(p.facts.firmware, sizeof p.facts.firmware, "%s", info->firmware);
    microcode_read(p.facts.microcode, sizeof p.facts.microcode);
    p.native_why = assay_native_open(&p.native);
    counters_open(&p);
    p.print = print;
    p.save = save;
    machine_make(info, cfg);
    g.payload = cfg->kernel;
    ended(assay_run(&o, &p, &g) == 0, o.power_off);
}
