// The platform contract for tests: one core, no interrupts, no timer; time stands where a test would see it move. Synchronous faults of
// translated code arrive through the tests' own signal handlers (translated.c). Compiled, like every platform, without vector registers.
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/base/bits.h"
#include "kernel/plat.h"
#include "tests/insn/state.h"

static struct plat_events events;
static bool bql;

const struct plat_events *testplat_events(void);
const struct plat_events *testplat_events(void) { return &events; }

void *plat_pages_alloc(u64 size)
{
    void *p = mmap(NULL, align_up(size, PAGE_SIZE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void plat_pages_free(void *p, u64 size)
{
    munmap(p, align_up(size, PAGE_SIZE));
}

bool plat_code_alloc(u64 size, u8 **rw, u8 **rx)
{
    int fd = memfd_create("code cache", 0);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) return false;
    u8 *area = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) return false;
    *rw = mmap(area, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    *rx = mmap(area + size, size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0);
    close(fd);
    return *rw != MAP_FAILED && *rx != MAP_FAILED;
}

u64 plat_time_ns(void) { return 1; }
u64 plat_wall_ns(void) { return 1; }
void plat_timer_arm(u64 deadline_ns) {}

void bql_lock_at(const char *file, int line)
{
    if (bql) plat_panic("BQL taken twice");
    bql = true;
}

void bql_unlock_at(const char *file, int line)
{
    if (!bql) plat_panic("BQL released unheld");
    bql = false;
}

bool bql_held(void) { return bql; }

bool plat_irq_save(void) { return true; }
void plat_irq_restore(bool saved) {}
void plat_relax(unsigned turn) {}

unsigned plat_core_count(void) { return 1; }
bool plat_bql_stats(unsigned id, struct lockstat *s) { return false; }
unsigned plat_core_id(void) { return 0; }
bool plat_in_interrupt(void) { return false; }
bool plat_core_start(unsigned id, void (*fn)(void *), void *arg) { return false; }
void plat_core_kick(unsigned id) {}
// Nothing would ever end the sleep.
void plat_idle(void)
{
    bql = false;
    run_abort(RUN_HUNG);
}

void plat_bind_vcpu(void *vcpu)
{
    *(void **)vcpu = vcpu;
    syscall(SYS_arch_prctl, ARCH_SET_GS, vcpu);
}

void plat_console_write(const void *buf, size_t len)
{
    if (write(1, buf, len) < 0) return;
}

void plat_events_set(const struct plat_events *ev) { events = *ev; }
void plat_console_ready(void) {}

void plat_log_write(const char *text, size_t len, bool trace)
{
    if (write(2, text, len) < 0) return;
}

// Tests trace nothing.
void plat_disassemble(u64 pc, const u8 *code, size_t len, unsigned bits) {}

NORETURN void plat_exit(int code) { _exit(code); }

void plat_panic(const char *text)
{
    plat_log_write("panic: ", 7, false);
    plat_log_write(text, strlen(text), false);
    plat_log_write("\n", 1, false);
    bql = false;
    run_abort(RUN_PANICKED);
}
