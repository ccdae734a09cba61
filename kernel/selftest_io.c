// `selftest = io': cores given to I/O (io.c), by many wake-ups at the worst moments.
//
// Half of the cores, one at least, serve; the others wake them. Who wakes leaves a number, and waits until the serving core has seen it:
// a wake-up that is lost stops the test. Before the next one it does nothing, or waits for about as long as a serving core looks before it
// goes to sleep, or for much longer; NMIs go to all meanwhile, which may hit between STI and HLT. The serving core asks for attention,
// which core 0 pays: the last question must be answered, too. Where every core but one is given away, one more is asked for, in vain.
//
// The end is a core's that serves: it stops the others, and power-off is any core's right.
#include <string.h>

#include "kernel/base/log.h"
#include "kernel/core.h"
#include "kernel/cores.h"
#include "kernel/cpu.h"
#include "kernel/plat.h"
#include "kernel/selftest.h"

enum { WAKES = 2000, PLANES = 8 };
#define PATIENCE_NS 15000000000ull

struct plane {
    struct plat_io *io;
    u32 asked[CORES_MAX], seen[CORES_MAX];   // by who wakes; atomic
    u32 served, attention;                   // atomic; attention: how often it was asked for
};

static struct {
    struct plane plane[PLANES];
    unsigned planes, wakers;
    u32 attention_seen;                      // atomic
    u32 wrong, ready, end;                   // atomic
} st;

static void st_expect(bool ok, int line)
{
    if (ok) return;
    if (__atomic_fetch_add(&st.wrong, 1, __ATOMIC_RELAXED) < 10) log_error("selftest io: line %d, core %u", line, core_self()->id);
}
#define EXPECT(ok) st_expect(ok, __LINE__)

static NORETURN void st_finish(const char *why)
{
    u32 served = 0;
    for (unsigned i = 0; i < st.planes; i++) served += st.plane[i].served;
    if (why) log_error("selftest io: %s", why);
    log_info("selftest io: %u wake-ups for %u cores by %u, served in %u turns, %u errors", WAKES * st.wakers, st.planes, st.wakers, served, st.wrong);
    log_info("selftest io: %s", why || st.wrong ? "failed" : "passed");
    plat_exit(why || st.wrong ? 1 : 0);
}

// ---- the serving side ----

static void st_serve(void *opaque)
{
    struct plane *p = opaque;
    EXPECT(plat_core_id() == PLAT_NO_CORE && core_self()->id >= plat_core_count() && !bql_held() && !plat_in_interrupt());
    for (unsigned i = 0; i < st.wakers; i++) {
        u32 asked = __atomic_load_n(&p->asked[i], __ATOMIC_ACQUIRE);
        if (asked == p->seen[i]) continue;
        if (asked % 64 == 0) {
            __atomic_fetch_add(&p->attention, 1, __ATOMIC_SEQ_CST);
            plat_attention();
        }
        __atomic_store_n(&p->seen[i], asked, __ATOMIC_RELEASE);
    }
    __atomic_fetch_add(&p->served, 1, __ATOMIC_RELAXED);
    if (__atomic_load_n(&st.end, __ATOMIC_ACQUIRE)) st_finish(NULL);
}

static u32 attention_asked(void)
{
    u32 n = 0;
    for (unsigned i = 0; i < st.planes; i++) n += __atomic_load_n(&st.plane[i].attention, __ATOMIC_SEQ_CST);
    return n;
}

static void st_attention(void)
{
    EXPECT(bql_held() && plat_in_interrupt() && plat_core_id() == 0);
    __atomic_store_n(&st.attention_seen, attention_asked(), __ATOMIC_RELEASE);
}

// ---- the waking side ----

static void pause_ns(u64 ns)
{
    for (u64 t0 = plat_time_ns(); plat_time_ns() - t0 < ns;) cpu_pause();
}

static void wait_for(const u32 *word, u32 value, const char *what)
{
    for (u64 t0 = plat_time_ns(); __atomic_load_n(word, __ATOMIC_ACQUIRE) != value; cpu_pause())
        if (plat_time_ns() - t0 > PATIENCE_NS) st_finish(what);
}

static void st_wake(void *arg)
{
    unsigned me = (unsigned)(u64)arg;
    u64 random = 0x9e3779b97f4a7c15ull * (me + 1);
    for (u32 n = 1; n <= WAKES; n++) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        struct plane *p = &st.plane[(random >> 33) % st.planes];
        u32 asked = __atomic_add_fetch(&p->asked[me], 1, __ATOMIC_RELEASE);
        plat_io_wake(p->io);
        if (n % 4 == 0) plat_io_wake(p->io);
        if (n % 32 == 0) cores_flush((u64)&st, PAGE_SIZE);
        wait_for(&p->seen[me], asked, "a wake-up was lost");
        u64 dice = random >> 40;
        if (dice % 4 == 1) pause_ns((random >> 45) % 150000);
        if (dice % 64 == 2) pause_ns(1000000);
    }
    __atomic_add_fetch(&st.ready, 1, __ATOMIC_RELEASE);
    while (me && !__atomic_load_n(&st.end, __ATOMIC_RELAXED)) cpu_pause();
    if (me) cpu_halt_forever();
}

// ---- all together ----

static void planes_start(void)
{
    char err[256] = "";
    unsigned want = plat_core_count() / 2;
    for (; st.planes < want && st.planes < PLANES; st.planes++) {
        struct plane *p = &st.plane[st.planes];
        unsigned before = plat_core_count();
        p->io = plat_io_start(st_serve, p, err, sizeof(err));
        EXPECT(p->io && plat_core_count() == before - 1 && !plat_core_start(before - 1, st_wake, NULL));
    }
    if (plat_core_count() > 1 && st.planes) return;
    EXPECT(!plat_io_start(st_serve, NULL, err, sizeof(err)) && strstr(err, "one has to remain"));
    if (!st.planes) st_finish(err);
}

void selftest_io(void)
{
    static const struct plat_events events = {.attention = st_attention};
    plat_events_set(&events);
    st.wakers = plat_core_count() - plat_core_count() / 2;
    planes_start();
    EXPECT(st.wakers == plat_core_count() || st.planes == PLANES);
    for (unsigned i = 1; i < st.wakers; i++) EXPECT(plat_core_start(i, st_wake, (void *)(u64)i));
    st_wake(NULL);
    wait_for(&st.ready, st.wakers, "a core that wakes has stopped");
    EXPECT(attention_asked() > WAKES / 128);
    wait_for(&st.attention_seen, attention_asked(), "attention was not paid");
    __atomic_store_n(&st.end, 1, __ATOMIC_RELEASE);
    plat_io_wake(st.plane[0].io);
    cpu_halt_forever();
}
