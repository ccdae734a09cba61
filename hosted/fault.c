// Synchronous faults and the end of everything.
//
// A fault in translated code is the guest's (a division, an alignment check, an SSE exception): plat_events.host_fault knows and says where
// to resume. Anything else is a bug of the emulator and ends in plat_panic, with the registers of the faulting place and a backtrace along
// the frame pointers (the program is built with them). The handler runs on a stack of its own, so that even an overflown stack gets its
// report.
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "hosted/hosted.h"
#include "hosted/sys.h"
#include "kernel/base/fmt.h"
#include "tcg/run/vcpu.h"

enum { ALT_STACK = 64 * 1024, EXIT_PANIC = 134 };   // 134: as a shell reports SIGABRT

static void say(const char *fmt, ...) PRINTF(1, 2);
static void say(const char *fmt, ...)
{
    char buf[512];
    va_list ap;
    va_start(ap, fmt);
    int n = fmt_vsnprintf(buf, sizeof buf, fmt, ap);
    va_end(ap);
    sys_write(2, buf, n < (int)sizeof buf ? (size_t)n : sizeof buf - 1);
}

// `back`: 1 for return addresses, since the call may be the last instruction of a function that does not expect to return to.
static void say_symbol(u64 pc, u64 back)
{
    u64 off;
    const char *name = symbol_find(pc - back, &off);
    if (name) say("  %016llx %s+0x%llx\n", (unsigned long long)pc, name, (unsigned long long)(off + back));
    else say("  %016llx\n", (unsigned long long)pc);
}

static void say_registers(const ucontext_t *uc)
{
    static const struct { const char *name; int reg; } r[] = {
        {"rax", REG_RAX}, {"rbx", REG_RBX}, {"rcx", REG_RCX}, {"rdx", REG_RDX}, {"rsi", REG_RSI}, {"rdi", REG_RDI},
        {"rbp", REG_RBP}, {"rsp", REG_RSP}, {"r8", REG_R8}, {"r9", REG_R9}, {"r10", REG_R10}, {"r11", REG_R11},
        {"r12", REG_R12}, {"r13", REG_R13}, {"r14", REG_R14}, {"r15", REG_R15}, {"rip", REG_RIP}, {"efl", REG_EFL},
        {"err", REG_ERR}, {"cr2", REG_CR2},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(r); i++)
        say("  %s %016llx%s", r[i].name, (unsigned long long)uc->uc_mcontext.gregs[r[i].reg], i % 4 == 3 ? "\n" : "");
}

// Frame pointers are followed as long as they grow and stay on this core's stack: translated code uses RBP for the guest.
static void say_backtrace(const struct core *c, u64 pc, u64 fp)
{
    say("backtrace:\n");
    if (pc) say_symbol(pc, 0);
    for (int i = 0; i < 48 && c && fp >= c->stack_lo && fp + 16 <= c->stack_hi && fp % 8 == 0; i++) {
        u64 next = ((u64 *)fp)[0], ret = ((u64 *)fp)[1];
        if (!ret) break;
        say_symbol(ret, 1);
        if (next <= fp) break;
        fp = next;
    }
}

NORETURN void plat_panic(const char *text)
{
    static u32 entered;
    struct core *c = core_self();
    if (__atomic_fetch_add(&entered, 1, __ATOMIC_SEQ_CST)) {   // a panic inside the panic, or a second core's
        say("cupel: panic (again): %s\n", text);
        term_restore();
        sys_exit(EXIT_PANIC);
    }
    output_flush_all();
    say("\ncupel: panic on core %u%s: %s\n", c ? c->id : 0, c && c->in_irq ? " (in an interrupt)" : "", text);
    ucontext_t *uc = c ? c->fault_uc : NULL;
    if (uc) {
        say_registers(uc);
        say_backtrace(c, (u64)uc->uc_mcontext.gregs[REG_RIP], (u64)uc->uc_mcontext.gregs[REG_RBP]);
    } else {
        say_backtrace(c, 0, (u64)__builtin_frame_address(0));
    }
    char buf[512] = "";
    vcpu_describe_now(buf, sizeof buf);
    if (buf[0]) say("%s\n", buf);
    term_restore();
    sys_exit(EXIT_PANIC);
}

NORETURN void plat_exit(int code)
{
    output_flush_all();
    term_restore();
    sys_exit(code);
}

// Vectors where the signal frame's trap number is the CPU's own (SDM 3A 6.3). The kernel gives it for SIGSEGV, SIGBUS, SIGFPE, SIGILL and
// SIGTRAP alike.
static void on_fault(int sig, siginfo_t *si, void *ucv)
{
    ucontext_t *uc = ucv;
    greg_t *g = uc->uc_mcontext.gregs;
    const struct plat_events *ev = core_events();
    struct core *c = core_self();
    bool sent = si->si_code <= 0;   // by kill(2), not by the CPU
    if (!sent && c && ev->host_fault) {
        u64 to = ev->host_fault((unsigned)g[REG_TRAPNO], (u64)g[REG_RIP], (u64)g[REG_EFL]);
        if (to) {
            g[REG_RIP] = (greg_t)to;
            return;
        }
    }
    if (c) c->fault_uc = uc;
    char text[128];
    fmt_snprintf(text, sizeof text, "%s, vector %d, at %p", strsignal(sig), (int)g[REG_TRAPNO], (void *)g[REG_RIP]);
    plat_panic(text);
}

void fault_thread_init(void)
{
    stack_t st = {.ss_size = ALT_STACK};
    st.ss_sp = mmap(NULL, ALT_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (st.ss_sp != MAP_FAILED) sigaltstack(&st, NULL);
}

void fault_init(void)
{
    static const int sigs[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigfillset(&sa.sa_mask);
    for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++) sigdelset(&sa.sa_mask, sigs[i]);
    for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++) sigaction(sigs[i], &sa, NULL);
}
