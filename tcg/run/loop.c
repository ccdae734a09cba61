// The execution loop of a vCPU, and the ways in which the world reaches it.
//
// Order of events in one round: a host fault that was noted; a guest exception that was raised; what icount finds due; the mailboxes, if
// exit_request is set; an interrupt, if one may have become deliverable; HLT; then the next TB, chained to the one that was left.
//
// What the loop does, it tells the profiler (profile.h) as it goes.
//
// Getting out of translated code. Nothing in it polls (unless exit=poll). Whoever wants the vCPU to look sets exit_request and interrupts
// its core. The handler ends with vcpu_interrupted(rip), which sees where the core is: in a TB - take back the chaining of that TB, it
// leaves at its end; between check and jump of the entry - resume at the abort; in the bridge back from C - take back the chaining of the
// TB that it returns to; in C on behalf of a TB - the bridge checks on the way back. So the latency is bounded by the rest of one TB (at
// most TB_MAX_INSNS instructions) plus one helper. Undoing the chaining was chosen over stepping to the boundary because it needs no
// instruction-length knowledge of host code, no trap flag, and works the same in a signal and in an interrupt.
#include <string.h>

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"
#include "tcg/run/softmmu.h"
#include "tcg/run/tcg.h"

enum { MAX_CORES = 256 };
// Which vCPU a core runs: the one piece of per-core data of this layer. Written by the core itself.
static struct vcpu *current[MAX_CORES];

struct vcpu *vcpu_on_core(unsigned id) { return __atomic_load_n(&current[id], __ATOMIC_SEQ_CST); }
struct vcpu *vcpu_current(void) { return current[plat_core_id()]; }
bool cpu_is_self(struct vcpu *c) { return !plat_in_interrupt() && vcpu_current() == c; }
unsigned vcpu_index(const struct vcpu *c) { return c->index; }

bool vcpu_init(struct vcpu *c, struct tcg *t, struct phys *p, const struct guest_ops *ops, unsigned index)
{
    c->self = c;
    c->tcg = t;
    c->phys = p;
    c->ops = ops;
    c->index = index;
    c->parked = 1;
    c->prof.state = PROF_WAIT;
    c->store_page[0] = c->store_page[1] = ~0ull;
    tlb_init(c);
    return tcg_add_vcpu(t, c);
}

// ---- catch and leave ----------------------------------------------------------------------------------------------------------

__attribute__((naked)) void tcg_catch(struct vcpu *c UNUSED, void (*fn)(struct vcpu *c) UNUSED)
{
    __asm__ volatile("push %%rbx\n\tpush %%rbp\n\tpush %%r12\n\tpush %%r13\n\tpush %%r14\n\tpush %%r15\n\t"
                     "push %%rdi\n\tpushq %c0(%%rdi)\n\tsub $8, %%rsp\n\t"
                     "mov %%rsp, %c0(%%rdi)\n\t"
                     "call *%%rsi\n"
                     ".globl tcg_catch_out\n.hidden tcg_catch_out\ntcg_catch_out:\n\t"
                     "add $8, %%rsp\n\tpop %%rax\n\tpop %%rdi\n\tmov %%rax, %c0(%%rdi)\n\t"
                     "pop %%r15\n\tpop %%r14\n\tpop %%r13\n\tpop %%r12\n\tpop %%rbp\n\tpop %%rbx\n\tret"
                     :
                     : "i"(offsetof(struct vcpu, host_rsp)));
}

void vcpu_leave(struct vcpu *c)
{
    ASSERT(cpu_is_self(c) && !bql_held(), "leaving vCPU %u from elsewhere", c->index);
    ASSERT(c->host_rsp, "nothing to leave%s", "");
    if (c->tcg->cfg.icount && c->in_guest && c->helper_ra) icount_leave(c, c->helper_ra - 1);
    c->in_guest = 0;
    c->helper_ra = 0;
    c->last_tb = NULL;
    c->tr->claiming = false;
    __asm__ volatile("mov %0, %%rsp\n\tjmp tcg_catch_out" : : "r"(c->host_rsp) : "memory");
    __builtin_unreachable();
}

void vcpu_sync(struct vcpu *c)
{
    if (!c->in_guest || !c->helper_ra) return;
    struct tb *tb = tb_by_host(c->tcg, c->helper_ra - 1);
    ASSERT(tb, "helper called from %#llx", (unsigned long long)c->helper_ra);
    tb_restore(c, tb, c->helper_ra - 1, 0);
}

void vcpu_fpu_release(struct vcpu *c)
{
    if (!c->fpu_loaded) return;
    c->ops->fpu_save(c);
    c->fpu_loaded = false;
}

// ---- mailboxes ----------------------------------------------------------------------------------------------------------------

// A vCPU that does not run, because others have its core at the moment, gets it: the running one is asked to yield.
void vcpu_kick(struct vcpu *c)
{
    __atomic_store_n(&c->exit_request, 1, __ATOMIC_SEQ_CST);
    struct vcpu *running = c->shares_core ? __atomic_load_n(&current[c->core], __ATOMIC_SEQ_CST) : c;
    if (running && running != c) {
        __atomic_or_fetch(&running->posted_events, VCPU_EV_YIELD, __ATOMIC_SEQ_CST);
        __atomic_store_n(&running->exit_request, 1, __ATOMIC_SEQ_CST);
    }
    if (c->core != plat_core_id() && !__atomic_load_n(&c->polling, __ATOMIC_SEQ_CST)) plat_core_kick(c->core);
}

static void post_event(struct vcpu *c, u32 ev)
{
    __atomic_or_fetch(&c->posted_events, ev, __ATOMIC_SEQ_CST);
    vcpu_kick(c);
}

void vcpu_post_interrupt(struct vcpu *c, u8 vector, bool level)
{
    u64 bit = 1ull << (vector & 63);
    if (level) __atomic_or_fetch(&c->posted_level[vector >> 6], bit, __ATOMIC_SEQ_CST);
    else __atomic_and_fetch(&c->posted_level[vector >> 6], ~bit, __ATOMIC_SEQ_CST);
    __atomic_or_fetch(&c->posted[vector >> 6], bit, __ATOMIC_SEQ_CST);
    vcpu_kick(c);
}

void vcpu_set_extint(struct vcpu *c, bool asserted)
{
    __atomic_store_n(&c->extint, asserted, __ATOMIC_SEQ_CST);
    if (asserted) vcpu_kick(c);
}

void vcpu_post_nmi(struct vcpu *c) { post_event(c, VCPU_EV_NMI); }
void vcpu_post_init(struct vcpu *c) { post_event(c, VCPU_EV_INIT); }
void vcpu_request_reset(struct vcpu *c) { post_event(c, VCPU_EV_RESET); }

void vcpu_post_sipi(struct vcpu *c, u8 page)
{
    __atomic_store_n(&c->posted_sipi, page, __ATOMIC_SEQ_CST);
    post_event(c, VCPU_EV_SIPI);
}

void vcpu_request_shutdown(struct vcpu *c, int code)
{
    __atomic_store_n(&c->shutdown_code, code, __ATOMIC_SEQ_CST);
    post_event(c, VCPU_EV_SHUTDOWN);
}

void vcpu_request_stop(struct vcpu *c) { post_event(c, VCPU_EV_STOP); }
void vcpu_request_yield(struct vcpu *c) { post_event(c, VCPU_EV_YIELD); }
void vcpu_request_tlb_flush(struct vcpu *c) { post_event(c, VCPU_EV_TLB_FLUSH); }

void cpu_run_async(struct vcpu *c, void (*fn)(struct vcpu *c, void *arg), void *arg)
{
    u32 i = __atomic_fetch_add(&c->async_head, 1, __ATOMIC_SEQ_CST);
    ASSERT(i - __atomic_load_n(&c->async_tail, __ATOMIC_SEQ_CST) < ARRAY_SIZE(c->async_q), "work queue of vCPU %u is full", c->index);
    c->async_q[i % ARRAY_SIZE(c->async_q)].arg = arg;
    __atomic_store_n(&c->async_q[i % ARRAY_SIZE(c->async_q)].fn, fn, __ATOMIC_SEQ_CST);
    post_event(c, VCPU_EV_ASYNC);
}

void vcpu_reset_run(struct vcpu *c)
{
    for (unsigned n = 0; n < 4; n++) __atomic_store_n(&c->posted[n], 0, __ATOMIC_SEQ_CST);
    __atomic_and_fetch(&c->posted_events, ~(u32)(VCPU_EV_NMI | VCPU_EV_INIT | VCPU_EV_SIPI | VCPU_EV_RESET), __ATOMIC_SEQ_CST);
    c->last_tb = NULL;             // or the next TB would be chained to where the guest was before
    c->one_insn = c->alone = false;
    c->few_insns = 0;
}

void vcpu_set_apic(struct vcpu *c, const struct apic_ops *ops, void *apic)
{
    c->apic_ops = ops;
    c->apic = apic;
}

static void run_async(struct vcpu *c)
{
    while (c->async_tail != __atomic_load_n(&c->async_head, __ATOMIC_SEQ_CST)) {
        u32 k = c->async_tail % ARRAY_SIZE(c->async_q);
        void (*fn)(struct vcpu *, void *) = __atomic_exchange_n(&c->async_q[k].fn, NULL, __ATOMIC_SEQ_CST);
        if (!fn) return;                        // taken but not yet filled in: its event comes
        void *arg = c->async_q[k].arg;
        __atomic_store_n(&c->async_tail, c->async_tail + 1, __ATOMIC_SEQ_CST);
        fn(c, arg);
    }
}

static void fold_posted(struct vcpu *c)
{
    u64 v[4], l[4], any = 0;
    for (unsigned n = 0; n < 4; n++) {
        v[n] = __atomic_exchange_n(&c->posted[n], 0, __ATOMIC_SEQ_CST);
        l[n] = v[n] & __atomic_load_n(&c->posted_level[n], __ATOMIC_SEQ_CST);
        any |= v[n];
    }
    if (any && c->apic_ops) c->apic_ops->fold(c->apic, v, l);
}

// The mailboxes, after exit_request. NMI, INIT and SIPI stay in posted_events for the guest architecture's take_interrupt.
static void look_at_mail(struct vcpu *c)
{
    __atomic_store_n(&c->exit_request, 0, __ATOMIC_SEQ_CST);
    u32 mine = VCPU_EV_ASYNC | VCPU_EV_TLB_FLUSH | VCPU_EV_RESET | VCPU_EV_SHUTDOWN | VCPU_EV_STOP | VCPU_EV_YIELD;
    u32 ev = __atomic_fetch_and(&c->posted_events, ~mine, __ATOMIC_SEQ_CST);
    if (ev & VCPU_EV_ASYNC) run_async(c);
    if (ev & VCPU_EV_TLB_FLUSH) tlb_flush(c);
    fold_posted(c);
    c->irq_look = true;
    c->run_result |= ev & (VCPU_EV_RESET | VCPU_EV_SHUTDOWN | VCPU_EV_STOP | VCPU_EV_YIELD);
}

// ---- interrupt context -----------------------------------------------------------------------------------------------------------

u64 vcpu_interrupted(u64 rip)
{
    struct vcpu *c = vcpu_current();
    if (!c) return rip;
    struct tcg *t = c->tcg;
    const struct tcg_stubs *s = &t->stubs;
    struct tb *hit = c->in_guest ? tb_by_host(t, rip) : NULL;
    profile_interrupt_end(c, hit ? PROF_CODE : rip >= (u64)t->rx && rip < (u64)s->end ? PROF_BRIDGE : c->prof.activity);
    if (!c->in_guest) return rip;
    if (hit) hit->samples++;
    if (!__atomic_load_n(&c->exit_request, __ATOMIC_SEQ_CST)) return rip;
    if (rip >= (u64)s->enter_check && rip < (u64)s->enter_end) return (u64)s->enter_abort;
    if (t->cfg.exit_poll) return rip;
    for (unsigned n = 0; hit && n < hit->n_ind; n++)
        if (rip == (u64)hit->code + hit->ind[n].jmp) return (u64)hit->code + hit->ind[n].miss;
    // In a bridge or in C: the TB that it leads back to. (If helper_ra is an old one, C has not begun, and the bridge looks afterwards.)
    struct tb *tb = hit ? hit : c->helper_ra ? tb_by_host(t, c->helper_ra - 1) : NULL;
    if (tb) tb_unlink(c, tb);
    return rip;
}

u64 vcpu_host_fault(unsigned vector, u64 rip, u64 eflags)
{
    struct vcpu *c = vcpu_current();
    if (!c || !c->in_guest || !tb_by_host(c->tcg, rip)) return 0;
    c->fault_vector = vector;
    c->fault_rip = rip;
    c->fault_eflags = eflags;
    return (u64)c->tcg->stubs.fault;
}

void vcpu_describe_now(char *buf, size_t len)
{
    struct vcpu *c = vcpu_current();
    if (!c) fmt_snprintf(buf, len, "no vCPU on this core");
    else fmt_snprintf(buf, len, "vCPU %u: guest pc %#llx (at the last exit), last TB %#llx, %s", c->index, (unsigned long long)c->pc,
                      (unsigned long long)(c->last_tb ? c->last_tb->pc : 0), c->in_guest ? "in translated code or a helper" : "in the loop");
}

// From a bridge, on the way back into translated code.
void vcpu_helper_done(struct vcpu *c)
{
    if (c->exit_request && !c->tcg->cfg.exit_poll) {
        struct tb *tb = tb_by_host(c->tcg, c->helper_ra - 1);
        if (tb) tb_unlink(c, tb);
    }
    if (!c->fpu_loaded) c->ops->fpu_load(c);
}

// ---- the loop ----------------------------------------------------------------------------------------------------------------------

// vCPUs that talk to each other halt for microseconds at a time, and getting a core to sleep and awake again takes longer. So after a
// wait that was short, the next one begins with looking at exit_request for POLL_TICKS. Whoever kicks meanwhile either sees `polling` and
// needs no interrupt, or comes too late and is seen below.
enum { POLL_TICKS = 60000, SHORT_TICKS = 4 * POLL_TICKS };

static bool poll_for_kick(struct vcpu *c)
{
    u64 start = __builtin_ia32_rdtsc();
    __atomic_store_n(&c->polling, 1, __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&c->exit_request, __ATOMIC_RELAXED) && __builtin_ia32_rdtsc() - start < POLL_TICKS) __builtin_ia32_pause();
    __atomic_store_n(&c->polling, 0, __ATOMIC_SEQ_CST);
    return __atomic_load_n(&c->exit_request, __ATOMIC_SEQ_CST);
}

static void sleep_for_kick(struct vcpu *c)
{
    u64 start = __builtin_ia32_rdtsc();
    bql_lock();
    if (!__atomic_load_n(&c->exit_request, __ATOMIC_SEQ_CST)) plat_idle();
    bql_unlock();
    c->poll_next = tcg_shared(c->tcg) && __builtin_ia32_rdtsc() - start < SHORT_TICKS;
}

static void idle(struct vcpu *c)
{
    if (c->shares_core) {
        c->run_result |= VCPU_EV_HALT;
        return;
    }
    profile_state(c, PROF_IDLE);
    if (c->tcg->cfg.icount) {
        icount_idle(c);
    } else {
        vcpu_park(c);
        if (!c->poll_next || !poll_for_kick(c)) sleep_for_kick(c);
        vcpu_unpark(c);
    }
    profile_state(c, PROF_RUNS);
}

void vcpu_core_idle(struct vcpu *c)
{
    if (!c->tcg->cfg.icount) {
        plat_idle();
        return;
    }
    icount_sleep(c);
    bql_unlock();
    icount_turn(c);
    bql_lock();
}

static void trace_text(void *o UNUSED, const char *s) { trace_write("%s", s); }

static void trace_exec(struct vcpu *c, const struct tb *tb)
{
    if (trace_mask() & TRACE_EXEC) trace_write("Trace %u: [%#llx/%#x]\n", c->index, (unsigned long long)tb->pc, tb->mode);
    if (trace_mask() & TRACE_CPU) c->ops->dump(c, trace_text, NULL);
}

// The host code to enter for c's state; chains the TB that was left to it.
static const u8 *next_code(struct vcpu *c)
{
    struct tcg *t = c->tcg;
    struct tb *from = c->last_tb;
    unsigned exit = c->last_exit;
    struct tb *tb = tb_get(c);
    if (from && c->last_tb == from) tb_chain(c, from, exit, tb);   // (a full cache has been emptied: last_tb is NULL then)
    if (t->cfg.icount && tb->n_insns > c->icount_left) tb = icount_cut(c);
    if (trace_mask() & (TRACE_EXEC | TRACE_CPU)) trace_exec(c, tb);
    return tb->code + tb->entry_saved;
}

// Where there is nothing to chain, because the guest came by an exception or an interrupt, the jump cache does. Not if the TB that it named
// has just refused, and not for a TB that is made for once.
static const u8 *known_code(struct vcpu *c)
{
    bool refused = c->tb_refused;
    c->tb_refused = false;
    if (c->last_tb || refused || c->one_insn || c->tcg->cfg.icount || (trace_mask() & (TRACE_EXEC | TRACE_CPU)) || tcg_dice(c, 2)) return NULL;
    return vcpu_code_now(c);
}

static void execute(struct vcpu *c)
{
    struct tcg *t = c->tcg;
    const u8 *code = known_code(c);
    if (!code) code = next_code(c);
    c->helper_ra = 0;
    c->n_exits++;
    if (tcg_dice(c, 64)) vcpu_kick(c);
    if (!c->fpu_loaded) c->ops->fpu_load(c);
    c->prof.activity = PROF_HELPER;                   // what C does that a TB calls, unless it says otherwise
    t->stubs.enter((void *)code);
    c->prof.activity = PROF_LOOP;
    if (limits_c_uses_fpu()) vcpu_fpu_release(c);
    c->helper_ra = 0;
    if (c->n_unlinked) tb_relink(c);
    const struct tb *from = c->last_tb;
    if (!from) return;
    const struct tb_exit *x = &from->exits[c->last_exit];
    c->n_exit_kind[x->kind]++;
    if (x->kind <= EXIT_PC) c->pc = x->pc;
    if (x->kind == EXIT_LEAVE) c->irq_look = true;
    if (x->kind >= EXIT_PC) c->last_tb = NULL;
    c->tb_refused = x->kind == EXIT_PC;
    if (x->kind != EXIT_INDIRECT || !c->ops->branched) return;
    c->icount_left++;                                 // if it raises, the branch has not been executed
    c->ops->branched(c, from->pc + from->insn_off[from->n_insns - 1]);
    c->icount_left--;
}

static void fault_noted(struct vcpu *c)
{
    struct tb *tb = tb_by_host(c->tcg, c->fault_rip);
    tb_restore(c, tb, c->fault_rip, c->fault_eflags);
    if (c->tcg->cfg.icount) icount_leave(c, c->fault_rip);
    c->fault_rip = 0;
    c->ops->host_fault(c, c->fault_vector);
}

static void rounds(struct vcpu *c)
{
    for (;;) {
        c->prof.activity = PROF_LOOP;                 // also of who left from anywhere
        exclusive_end(c);
        if (c->n_unlinked) tb_relink(c);
        if (c->fault_rip) fault_noted(c);
        if (c->exc_pending) {
            c->last_tb = NULL;
            c->prof.activity = PROF_EXCEPTION;
            c->ops->deliver_exception(c);
            c->prof.activity = PROF_LOOP;
        }
        if (icount_due(c)) icount_turn(c);
        if (__atomic_load_n(&c->exit_request, __ATOMIC_SEQ_CST)) look_at_mail(c);
        if (c->run_result) return;
        vcpu_pass(c);
        if (c->irq_look) {
            c->irq_look = false;
            c->prof.activity = PROF_EXCEPTION;
            if (c->ops->take_interrupt(c)) c->last_tb = NULL;
            c->prof.activity = PROF_LOOP;
        }
        if (c->halted) {
            c->last_tb = NULL;
            if (!c->ops->has_work(c)) idle(c);
            else c->irq_look = true;
            if (c->ops->has_work(c)) c->halted = false;
            continue;
        }
        if (c->alone) exclusive_begin(c);
        c->alone = false;
        execute(c);
    }
}

u32 vcpu_run(struct vcpu *c)
{
    c->core = plat_core_id();
    __atomic_store_n(&current[c->core], c, __ATOMIC_SEQ_CST);
    plat_bind_vcpu(c);
    profile_state(c, PROF_RUNS);
    vcpu_unpark(c);
    c->run_result = 0;
    c->irq_look = true;
    if (c->tcg->cfg.icount && c->tcg->icount.runs != c) c->tcg->icount.moved = true;   // another's budget
    while (!c->run_result) tcg_catch(c, rounds);
    exclusive_end(c);
    vcpu_fpu_release(c);
    vcpu_park(c);
    u32 r = c->run_result;
    profile_state(c, r & VCPU_EV_HALT ? PROF_IDLE : PROF_WAIT);
    __atomic_store_n(&current[c->core], NULL, __ATOMIC_SEQ_CST);
    return r;
}
