// Panics: text, registers, backtrace with names, and what the vCPU was doing. It may run in any state of the machine, so it
// believes nothing: every address is checked against the page tables before it is read, the other cores are stopped and the console's
// locks broken, and a second fault while it prints only halts.
#include "kernel/panic.h"

#include "kernel/base/fmt.h"
#include "kernel/console.h"
#include "kernel/core.h"
#include "kernel/cores.h"
#include "kernel/cpu.h"
#include "kernel/plat.h"
#include "kernel/traps.h"
#include "kernel/vmem.h"
#include "tcg/run/vcpu.h"

enum { FRAMES = 32 };

static void panic_print(const char *fmt, ...) PRINTF(1, 2);
static void panic_print(const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    int n = fmt_vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    plat_log_write(text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1, false);
}

static void panic_print_address(const char *what, u64 a)
{
    u64 off;
    const char *name = symbol_find(a, &off);
    if (name) panic_print("  %s%016llx %s+0x%llx\n", what, (unsigned long long)a, name, (unsigned long long)off);
    else panic_print("  %s%016llx\n", what, (unsigned long long)a);
}

// Frames are linked by RBP; each holds the caller's RBP and the return address.
static void panic_backtrace(u64 rip, u64 rbp)
{
    panic_print("backtrace:\n");
    if (rip) panic_print_address("at   ", rip);
    for (unsigned i = 0; i < FRAMES && rbp && !(rbp & 7); i++) {
        if (!vmem_is_mapped(rbp) || !vmem_is_mapped(rbp + 8)) break;
        const u64 *frame = (const u64 *)rbp;
        if (!frame[1]) break;
        panic_print_address("from ", frame[1]);
        if (frame[0] <= rbp) break;
        rbp = frame[0];
    }
}

static void panic_registers(const struct trap_frame *f)
{
    static const struct { const char *name; u8 at; } regs[] = {
#define R(r) {#r, offsetof(struct trap_frame, r)}
        R(rax), R(rbx), R(rcx), R(rdx), R(rsi), R(rdi), R(rbp), R(rsp), R(r8), R(r9), R(r10), R(r11), R(r12), R(r13), R(r14), R(r15),
#undef R
    };
    for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
        panic_print("%4s %016llx%s", regs[i].name, *(const unsigned long long *)((const u8 *)f + regs[i].at), i % 4 == 3 ? "\n" : " ");
    panic_print(" rip %016llx  rflags %08llx  cs %02llx ss %02llx error %04llx\n",
                (unsigned long long)f->rip, (unsigned long long)f->rflags,
                (unsigned long long)f->cs, (unsigned long long)f->ss, (unsigned long long)f->error);
    panic_print(" cr0 %08llx cr2 %016llx cr3 %012llx cr4 %08llx\n", (unsigned long long)cpu_cr0(), (unsigned long long)cpu_cr2(),
                (unsigned long long)cpu_cr3(), (unsigned long long)cpu_cr4());
}

static struct core *panic_begin(void)
{
    (void)cpu_irq_save();
    struct core *c = core_self();
    if (c->dying) cpu_halt_forever();
    c->dying = true;
    console_panic_mode();
    return c;
}

static NORETURN void panic_end(void)
{
    char text[512];
    vcpu_describe_now(text, sizeof(text));
    if (text[0]) panic_print("%s\n", text);
    panic_print("The machine has stopped. Switch it off or reset it.\n");
    console_flush();
    cpu_halt_forever();
}

void panic_trap(struct trap_frame *f)
{
    static const char *const names[32] = {
        "#DE divide error", "#DB debug", "NMI", "#BP breakpoint", "#OF overflow", "#BR bounds", "#UD invalid opcode", "#NM no FPU",
        "#DF double fault", "#9", "#TS invalid TSS", "#NP segment not present", "#SS stack fault",
        "#GP general protection", "#PF page fault", "#15",
        "#MF x87 error", "#AC alignment", "#MC machine check", "#XM SIMD error", "#VE", "#CP control protection",
    };
    const struct core *c = panic_begin();
    const char *name = f->vector < 32 && names[f->vector] ? names[f->vector] : "exception";
    panic_print("\ncupel: fatal: %s (vector %llu) on core %u\n", name, (unsigned long long)f->vector, c->id);
    const char *guard = f->vector == 8 || f->vector == 14 ? core_guard_name(cpu_cr2()) : NULL;
    if (guard) panic_print("%s\n", guard);
    else if (f->vector == 14)
        panic_print("%s of %016llx: %s\n", f->error & 16 ? "execution" : f->error & 2 ? "write" : "read", (unsigned long long)cpu_cr2(),
                    f->error & 1 ? "not allowed there" : "nothing is mapped there");
    panic_registers(f);
    panic_backtrace(f->rip, f->rbp);
    panic_end();
}

void plat_panic(const char *text)
{
    const struct core *c = panic_begin();
    panic_print("\ncupel: panic: %s\n", text);
    if (cores_count() > 1) panic_print("on core %u\n", c->id);
    panic_backtrace(0, (u64)__builtin_frame_address(0));
    if (c->frame) {
        panic_print("in a handler (vector %llu); interrupted:\n", (unsigned long long)c->frame->vector);
        panic_registers(c->frame);
        panic_backtrace(c->frame->rip, c->frame->rbp);
    }
    panic_end();
}
