// Signal plumbing shared by both sides: synchronous faults go to whichever side is running; the watchdog ends a translated run that hangs.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/insn/state.h"

static void on_fault(int sig, siginfo_t *si, void *uc)
{
    if (native_signal(uc) || translated_signal(sig, uc)) return;
    greg_t *g = ((ucontext_t *)uc)->uc_mcontext.gregs;
    char text[160];
    int len = snprintf(text, sizeof text, "insn test: signal %d outside of a test, trap %lld at %#llx, address %#llx\n", sig, (long long)g[REG_TRAPNO],
                       (long long)g[REG_RIP], (long long)g[REG_CR2]);
    if (write(2, text, (size_t)len) < 0) _exit(3);
    _exit(2);
}

static void on_alarm(int sig, siginfo_t *si, void *uc)
{
    translated_signal(sig, uc);
}

void signals_init(void)
{
    enum { ALT = 1 << 18 };
    stack_t ss = {.ss_sp = mmap(NULL, ALT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), .ss_size = ALT};
    sigaltstack(&ss, NULL);
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigemptyset(&sa.sa_mask);
    sigaddset(&sa.sa_mask, SIGALRM);   // the watchdog must not come up while the FS base is a test's
    for (unsigned i = 0; i < ARRAY_SIZE(faults); i++) sigaction(faults[i], &sa, NULL);
    sa.sa_sigaction = on_alarm;
    sa.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigaction(SIGALRM, &sa, NULL);
    struct itimerval it = {{1, 0}, {1, 0}};
    setitimer(ITIMER_REAL, &it, NULL);
}
