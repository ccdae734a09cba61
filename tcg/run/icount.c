// Counting guest instructions exactly (-icount).
//
// The count is the machine's time, so it must not depend on how code happens to be cut into TBs. A vCPU has a budget, icount_left: the
// instructions up to the next moment at which something is due. A TB's entry takes the TB's instructions off it and goes to the loop if
// they do not fit; the loop then runs a TB cut to what is left, so that what is due happens at exactly its instruction. Whoever leaves in
// the middle gives back what did not run: side exits in emitted code, faults and raised exceptions here, where the marks say which
// instruction it was.
//
//     count = icount.end - icount_left (- what the running TB has still before it, when asked from a helper)
//
// An instruction counts when it completes. One that faults does not; a repeated string instruction counts once, at its end; INT n and its
// like count when they have been delivered; delivering an interrupt is no instruction.
//
// Devices. An access to one may raise an interrupt or bring a deadline nearer, and both must take effect at the next instruction. Port
// accesses end their TB anyway. Which memory accesses reach a device is known only when they do: then the TB is left before the
// instruction, and the instruction runs alone (as it does for written code). So neither interrupts nor timers ever see where a TB ends.
//
// Exit requests for other reasons - keys, the host's timers - still end TBs anywhere. They change nothing that the guest can see.
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"
#include "tcg/run/tcg.h"

#define BUDGET_MAX (1ull << 60)

void icount_set_hooks(struct tcg *t, const struct icount_hooks *h) { t->icount.hooks = h; }

// Instructions of the running TB that have not been executed; the one that called the helper is among them.
static u64 ahead(struct vcpu *c)
{
    if (!c->in_guest || !c->helper_ra) return 0;
    struct tb *tb = tb_by_host(c->tcg, c->helper_ra - 1);
    return tb ? tb->n_insns - tb_insn_at(tb, c->helper_ra - 1) : 0;
}

u64 icount_now(struct tcg *t)
{
    struct icount *ic = &t->icount;
    struct vcpu *c = ic->runs;
    if (!c) return ic->seen;
    u64 n = ic->end - (u64)c->icount_left;
    // What an interrupt finds in translated code may have been taken off already; helper_ra may be stale.
    if (plat_in_interrupt()) return max_u64(ic->seen, c->in_guest ? n - min_u64(n, TB_MAX_INSNS + 1) : n);
    return ic->seen = n - ahead(c);
}

void icount_moved(struct tcg *t)
{
    struct vcpu *c = t->icount.runs;
    t->icount.moved = true;
    if (c) vcpu_kick(c);                   // whatever it is about to enter, it looks again first
}

void icount_turn(struct vcpu *c)
{
    struct icount *ic = &c->tcg->icount;
    bql_lock();
    u64 now = icount_now(c->tcg);
    ic->runs = c;
    ic->end = now;
    c->icount_left = 0;
    u64 n = min_u64(ic->hooks->turn(), BUDGET_MAX);
    ASSERT(n, "no instruction may run%s", "");
    ic->end = now + n;
    c->icount_left = (s64)n;
    ic->moved = false;
    bql_unlock();
}

void icount_sleep(struct vcpu *c)
{
    (void)icount_now(c->tcg);
    c->tcg->icount.hooks->idle();
    c->tcg->icount.moved = true;
}

void icount_idle(struct vcpu *c)
{
    bql_lock();
    if (!__atomic_load_n(&c->exit_request, __ATOMIC_SEQ_CST)) icount_sleep(c);
    bql_unlock();
}

struct tb *icount_cut(struct vcpu *c)
{
    c->few_insns = (u8)c->icount_left;     // less than a TB has
    return tb_get(c);
}

void icount_leave(struct vcpu *c, u64 rip)
{
    struct tb *tb = tb_by_host(c->tcg, rip);
    ASSERT(tb, "left at %#llx", (unsigned long long)rip);
    c->icount_left += tb->n_insns - tb_insn_at(tb, rip);
}

void icount_before_io(struct vcpu *c)
{
    if (ahead(c) <= 1) return;
    vcpu_sync(c);
    c->one_insn = true;
    vcpu_leave(c);
}
