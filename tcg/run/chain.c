// Chaining: jumps from TB to TB, patched in place while other vCPUs run them.
//
// A patched field is four aligned bytes at most (tcg/host/emit.c sees to that where there are several vCPUs), so who executes it sees the
// old or the new. Who sees the old goes to a TB that has just been dropped, say; that TB's own exits lead to the loop, so it stays bounded.
// Chaining is recorded on both sides, so that a TB can be taken out of everybody's jumps before it goes.
//
// A guarded exit is two fields: the code signature that the vCPU's page must have, and the jump. Between compare and jump a vCPU
// relies on the old pair. So an exit with a signature gets another one in two steps: it is taken back and its epoch noted; when every vCPU
// has passed since, it may be given a new one. Until then it goes by the loop.
//
// Unlinking serves exit requests: a vCPU's interrupt handler takes back all jumps of the TB that it interrupted. Other vCPUs that run the
// same TB come out of it as well, and leave it alone; the one that asked puts the jumps back when it is out, the last if several asked.
#include "kernel/base/log.h"
#include "tcg/run/tcg.h"

enum { NO_SIGNATURE = 0xffffffff };

static void patch32(const struct tcg *t, const u8 *at_rx, u32 v) { __atomic_store_n((u32_any *)tb_rw(t, at_rx), v, __ATOMIC_RELEASE); }

static void patch_exit(const struct tcg *t, const struct tb_exit *x, const u8 *dest_rx)
{
    const u8 *rel = x->owner->code + x->rel;
    patch32(t, rel, (u32)(dest_rx - (rel + 4)));
}

static const u8 *entry_for(const struct tb_exit *x, const struct tb *to)
{
    bool saved = x->saved && (!x->host || !to->wants_host);
    return to->code + (saved ? to->entry_saved : to->entry_host);
}

static bool chainable(const struct tb_exit *x) { return x->kind == EXIT_CHAIN || x->kind == EXIT_GUARDED; }
static const u8 *stub_of(const struct tb_exit *x) { return x->owner->code + x->stub; }

static void exit_detach(struct tb_exit *x)
{
    struct tb_exit **p = &x->dest->in_head;
    while (*p && *p != x) p = &(*p)->next_in;
    if (*p) *p = x->next_in;
    x->dest = NULL;
}

// May x get signature sig now? If it has another, that is taken back.
static bool guard_ready(struct vcpu *c, struct tb_exit *x, u32 sig)
{
    struct tcg *t = c->tcg;
    const u8 *at = x->owner->code + x->sig;
    u32 old = *(const u32_any *)at;
    if (!sig) return false;                       // everything has just been flushed
    if (old == sig || !tcg_shared(t)) return true;
    if (old == NO_SIGNATURE) return !x->retired || vcpus_passed(c, x->retired);
    patch32(t, at, NO_SIGNATURE);
    if (x->dest) exit_detach(x);
    patch_exit(t, x, stub_of(x));
    x->retired = vcpus_epoch_next(t);
    return false;
}

static void chain_locked(struct vcpu *c, struct tb_exit *x, struct tb *to)
{
    struct tcg *t = c->tcg;
    u32 sig = 0;
    // Another vCPU may have changed the page tables between the two: then the same linear page is another physical one.
    if (x->kind == EXIT_CHAIN && x->owner->page[0] != to->page[0]) return;
    if (x->kind == EXIT_GUARDED) {
        sig = c->xsig[c->ops->mmu_mode(c, to->mode)][xtlb_index(to->pc + to->cs_base)];
        if (!guard_ready(c, x, sig)) return;
    }
    if (x->dest != to) {
        if (x->dest) exit_detach(x);
        x->dest = to;
        x->next_in = to->in_head;
        to->in_head = x;
        if (!x->owner->unlinked) patch_exit(t, x, entry_for(x, to));
    }
    if (sig) patch32(t, x->owner->code + x->sig, sig);
}

void tb_chain(struct vcpu *c, struct tb *from, unsigned exit, struct tb *to)
{
    struct tcg *t = c->tcg;
    struct tb_exit *x = &from->exits[exit];
    if (t->cfg.no_chain || !chainable(x) || from->oneshot || to->oneshot) return;
    bool irqs = tb_lock(t);
    if (!from->invalid && !to->invalid) chain_locked(c, x, to);
    tb_unlock(t, irqs);
}

// jne rel32 (je, behind RESUME) becomes jmp rel32 of the same length (a prefix that means nothing to it fills the byte), so that nobody is
// ever in the middle: the lookup always misses.
static void patch_miss(const struct tcg *t, const struct tb *tb, bool always)
{
    u16 opcode = always ? 0xe93e : tb->resumes ? 0x840f : 0x850f;
    for (unsigned n = 0; n < tb->n_ind; n++) __atomic_store_n((u16_any *)tb_rw(t, tb->code + tb->ind[n].jne), opcode, __ATOMIC_RELEASE);
}

static void jumps_off(const struct tcg *t, const struct tb *tb)
{
    for (unsigned n = 0; n < tb->n_exits; n++)
        if (chainable(&tb->exits[n])) patch_exit(t, &tb->exits[n], stub_of(&tb->exits[n]));
    patch_miss(t, tb, true);
}

static void jumps_on(const struct tcg *t, const struct tb *tb)
{
    for (unsigned n = 0; n < tb->n_exits; n++)
        if (tb->exits[n].dest) patch_exit(t, &tb->exits[n], entry_for(&tb->exits[n], tb->exits[n].dest));
    patch_miss(t, tb, false);
}

void tb_unlink(struct vcpu *c, struct tb *tb)
{
    struct tcg *t = c->tcg;
    bool irqs = tb_lock(t), known = tb->invalid;
    for (unsigned n = 0; n < c->n_unlinked; n++) known |= c->unlinked[n] == tb;
    if (!known) {
        if (!tb->unlinked++) jumps_off(t, tb);
        // No room to note it: its jumps stay off until the cache is emptied.
        if (c->n_unlinked < UNLINKED_MAX) c->unlinked[c->n_unlinked++] = tb;
    }
    tb_unlock(t, irqs);
}

void tb_relink(struct vcpu *c)
{
    struct tcg *t = c->tcg;
    bool irqs = tb_lock(t);
    for (unsigned n = 0; n < c->n_unlinked; n++)
        if (!--c->unlinked[n]->unlinked && !c->unlinked[n]->invalid) jumps_on(t, c->unlinked[n]);
    c->n_unlinked = 0;
    tb_unlock(t, irqs);
}

void tb_unchain(struct tcg *t, struct tb *tb)
{
    for (struct tb_exit *x = tb->in_head; x; x = x->next_in) {
        x->dest = NULL;
        patch_exit(t, x, stub_of(x));
    }
    tb->in_head = NULL;
    for (unsigned n = 0; n < tb->n_exits; n++)
        if (tb->exits[n].dest) exit_detach(&tb->exits[n]);
    jumps_off(t, tb);                             // if it is running, it must not go on into others
}
