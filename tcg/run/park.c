// How vCPUs wait for each other: passing, parking, and running alone.
//
// A vCPU *passes* once a turn of its loop. At that moment it holds nothing that another may want to take away: no host address from a TLB
// entry, no TB it is about to enter, no store on its way to a page. A vCPU that idles, waits here or does not run at all is *parked*: it
// holds nothing either. This is RCU with the loop's turn as the quiescent state, and it costs a load and a store a turn.
//
// Epochs. Who takes something away does so visibly, draws the next epoch number and, where it must be sure that nobody uses the old thing
// any more, waits until every vCPU has noted an epoch at least as late (vcpus_wait_passed kicks them, so it takes as long as leaving
// translated code takes) or asks later whether they have (vcpus_passed, for what is not urgent). A vCPU notes the epoch by copying it to
// c->seen: its earlier stores come before that one, its later loads after the load of the epoch, since x86 keeps both orders.
//
// Two vCPUs may wait for each other: who waits is parked, so both are released. But unparking takes as long as another runs alone, who may
// be waiting for what this one has promised: that is done before (vcpus_park_until_passed).
//
// Running alone (exclusive) is for what cannot be done beside others: emptying the code cache, a locked access over two pages. The owner
// waits until all others are parked. A vCPU that unparks looks once more: either it sees the owner, or the owner sees it unparked.
#include "kernel/plat.h"
#include "tcg/irq.h"
#include "tcg/run/tcg.h"

enum {
    KICK_AGAIN = 1 << 14,          // turns of a waiting loop after which those waited for are kicked once more
    LATE_TURNS = 1 << 10,          // the stress build now and then unparks late, as a vCPU does whose processor was taken away
};

static bool is_parked(const struct vcpu *v) { return __atomic_load_n(&v->parked, __ATOMIC_SEQ_CST); }
static struct vcpu *owner(const struct tcg *t) { return __atomic_load_n(&t->exclusive, __ATOMIC_SEQ_CST); }

// Code was written where this processor may have fetched other code from: it must execute a serialising instruction first (SDM 3A 8.1.3).
static void see_new_code(struct vcpu *c)
{
    u64 now = __atomic_load_n(&c->tcg->n_flushes, __ATOMIC_ACQUIRE);
    u32 a = 0, b, r, d;
    if (c->flushes == now) return;
    c->flushes = now;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(r), "=d"(d) : : "memory");
}

void vcpu_park(struct vcpu *c) { __atomic_store_n(&c->parked, 1, __ATOMIC_SEQ_CST); }

void vcpu_unpark(struct vcpu *c)
{
    struct tcg *t = c->tcg;
    for (unsigned n = tcg_dice(c, 8) ? LATE_TURNS : 0; n; n--) plat_relax(n);
    for (;;) {
        __atomic_store_n(&c->parked, 0, __ATOMIC_SEQ_CST);
        struct vcpu *o = owner(t);
        if (!o || o == c) break;
        vcpu_park(c);
        u8 was = profile_enter(&c->prof, PROF_WAIT);
        for (unsigned n = 1; owner(t); n++) plat_relax(n);
        profile_leave(&c->prof, was);
    }
    see_new_code(c);
    __atomic_store_n(&c->seen, __atomic_load_n(&t->epoch, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
}

void vcpu_pass(struct vcpu *c)
{
    struct tcg *t = c->tcg;
    c->store_page[0] = c->store_page[1] = ~0ull;
    __atomic_store_n(&c->seen, __atomic_load_n(&t->epoch, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
    struct vcpu *o = owner(t);
    if (!o || o == c) return;
    vcpu_park(c);
    vcpu_unpark(c);
}

u32 vcpus_epoch_next(struct tcg *t)
{
    u32 e = __atomic_add_fetch(&t->epoch, 1, __ATOMIC_SEQ_CST);
    return e ? e : __atomic_add_fetch(&t->epoch, 1, __ATOMIC_SEQ_CST);
}

static bool has_passed(const struct vcpu *v, u32 epoch)
{
    return is_parked(v) || (s32)(__atomic_load_n(&v->seen, __ATOMIC_ACQUIRE) - epoch) >= 0;
}

bool vcpus_passed(const struct vcpu *c, u32 epoch)
{
    const struct tcg *t = c->tcg;
    for (unsigned n = 0; n < t->n_vcpus; n++)
        if (t->vcpus[n] != c && !has_passed(t->vcpus[n], epoch)) return false;
    return true;
}

void vcpus_park_until_passed(struct vcpu *c)
{
    struct tcg *t = c->tcg;
    if (!tcg_shared(t)) return;
    u32 epoch = vcpus_epoch_next(t);
    u8 was = profile_enter(&c->prof, PROF_WAIT);
    vcpu_park(c);
    for (unsigned n = 0; n < t->n_vcpus; n++) {
        struct vcpu *v = t->vcpus[n];
        if (v == c) continue;
        for (unsigned turn = 0; !has_passed(v, epoch); turn++) {
            if (turn % KICK_AGAIN == 0) vcpu_kick(v);
            plat_relax(turn);
        }
    }
    profile_leave(&c->prof, was);
}

void vcpus_wait_passed(struct vcpu *c)
{
    vcpus_park_until_passed(c);
    vcpu_unpark(c);
}

void exclusive_begin(struct vcpu *c)
{
    struct tcg *t = c->tcg;
    if (!tcg_shared(t) || owner(t) == c) return;
    u8 was = profile_enter(&c->prof, PROF_WAIT);
    vcpu_park(c);
    struct vcpu *nobody = NULL;
    for (unsigned n = 1; !__atomic_compare_exchange_n(&t->exclusive, &nobody, c, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); n++) {
        nobody = NULL;
        plat_relax(n);
    }
    for (unsigned n = 0; n < t->n_vcpus; n++) {
        struct vcpu *v = t->vcpus[n];
        if (v == c) continue;
        for (unsigned turn = 0; !is_parked(v); turn++) {
            if (turn % KICK_AGAIN == 0) vcpu_kick(v);
            plat_relax(turn);
        }
    }
    vcpu_unpark(c);
    profile_leave(&c->prof, was);
    t->n_exclusive++;
}

void exclusive_end(struct vcpu *c)
{
    if (c->tcg->exclusive == c) __atomic_store_n(&c->tcg->exclusive, NULL, __ATOMIC_SEQ_CST);
}
