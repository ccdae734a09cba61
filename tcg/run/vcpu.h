// A virtual CPU, as far as every guest architecture shares it. Translated code reaches it GS-relative (plat_bind_vcpu), so the
// offsets of the fields marked [emitted] are baked into code; static asserts in tcg/host/ pin them.
//
// Owner: the core that runs it. Others may touch only the mailbox group, atomically. Guest architectures embed this struct as the
// first member of their own (struct x86_cpu) and hang their semantics on struct guest_ops.
#pragma once

#include "kernel/base/bits.h"
#include "tcg/irq.h"
#include "tcg/limits.h"
#include "tcg/phys.h"
#include "tcg/run/profile.h"

struct tb;
struct ir_block;
struct tcg;   // the translator's shared state: TB cache, code cache (tcg/run/tcg.h)
struct translator;

enum {
    VCPU_NREGS = 32,
    VCPU_NTEMPS = 16,
    VCPUS_MAX = 64,
    UNLINKED_MAX = 4,
    MMU_MODES = 3,        // x86: 0 supervisor, 1 user, 2 supervisor with EFLAGS.AC (SMAP open)
    TLB_SIZE = 1 << TLB_BITS,
    JC_NONE = 0xff,
    CLASS_MEMOS = 4,      // (x86: one per privilege level)
    XTLB_SIZE = 1 << XTLB_BITS,   // instruction-fetch TLB
    JC_SIZE = 1 << JC_BITS,
    DEVICE_PAGES = 8,     // device pages whose translation is remembered, per mmu mode, for reading and for writing
    BOUNCE_SIZE = 128,    // largest single access 64 bytes, kept at the guest address's offset in 64
};

enum access { ACCESS_READ = 1, ACCESS_WRITE = 2, ACCESS_EXEC = 4 };

// One softmmu translation [emitted]. tag: guest page address; xor with the accessed address gives the offset in the page on a
// hit, and one unsigned compare with 4096 - size settles page, crossing and emptiness at once. host: host address of the page. An
// empty entry holds the address of a page that belongs at another index, so no address at all can hit it.
struct tlb_entry { u64 tag, host; };
static inline unsigned tlb_index(u64 a) { return a >> PAGE_SHIFT & (TLB_SIZE - 1); }
static inline u64 tlb_empty_tag(unsigned index) { return index == 0 ? PAGE_SIZE : 0; }
// What a write entry holds for a page with translated code, so that no store hits and the slow path need not walk: a page address that
// belongs at another index as well. (That of page 2 * PAGE_SIZE looks like an empty one, and is taken for it.)
static inline u64 tlb_code_tag(u64 va) { return (va & PAGE_MASK) ^ 2 * PAGE_SIZE; }
_Static_assert(TLB_BITS >= 2, "tlb_code_tag");

// The jump cache [emitted]: guest pc -> host code (entered with the guest's flags in vcpu.cc), one class per TB mode in use, so
// that a near branch, which cannot change the mode, looks only at TBs of its own mode. Empty entries hold a pc that belongs at
// another index. What an entry leads to compares the page's signature, so the mapping may change without anybody looking here.
struct jump_cache { struct { u64 pc; void *host; } at[JC_SIZE]; };
static inline unsigned jc_index(u64 pc) { return ((u32)pc ^ (u32)(pc >> 4)) & (JC_SIZE - 1); }
static inline unsigned xtlb_index(u64 a) { return a >> PAGE_SHIFT & (XTLB_SIZE - 1); }
static inline u64 jc_empty_pc(unsigned index) { return index == 0 ? 1 : 0; }

// Numbers of entries: so many that a flush that looked at every word of such a map would take longer than the entries that there are.
struct entry_set { u64 top, word[BITMAP_WORDS(TLB_SIZE)]; };   // bit n of top is clear: word n is 0
_Static_assert(BITMAP_WORDS(TLB_SIZE) <= 64 && XTLB_SIZE <= 64 * BITMAP_WORDS(TLB_SIZE), "top has a bit for each word");
static inline void entry_set_add(struct entry_set *s, unsigned i)
{
    s->word[i / 64] |= 1ull << (i & 63);
    s->top |= 1ull << (i / 64);
}
static inline void entry_set_del(struct entry_set *s, unsigned i) { s->word[i / 64] &= ~(1ull << (i & 63)); }
static inline void entry_set_clear(struct entry_set *s)
{
    for (; s->top; s->top &= s->top - 1) s->word[__builtin_ctzll(s->top)] = 0;
}
// Runs the statement behind it with i = each number in the set, ascending.
#define FOR_ENTRIES(i, set)                                                                            \
    for (u64 t_ = (set)->top; t_; t_ &= t_ - 1)                                                        \
        for (u64 w_ = __builtin_ctzll(t_), b_ = (set)->word[w_], i; b_ && (i = w_ * 64 + (u64)__builtin_ctzll(b_), true); b_ &= b_ - 1)

struct tlb_fill {         // result of a page walk
    struct gpa page;      // guest-physical page address
    unsigned prot;        // ACCESS_* allowed for this mmu mode
    u64 page_size;        // bytes of the page of the guest's tables that it is part of: invlpg drops all of it
    bool global;
};

// What a guest architecture does for the run-time. All on the vCPU's own core, BQL not held.
struct guest_ops {
    // Mode of the TB to run now: everything besides pc that translation depends on. cs_base: added to pc by the fetch.
    void (*tb_mode)(struct vcpu *c, u64 *cs_base, u32 *mode);
    unsigned (*mmu_mode)(struct vcpu *c, u32 tb_mode);
    unsigned (*code_bits)(u32 tb_mode);           // 64, 32, 16: for disassembly
    // Guest code at c->pc -> IR, at most max_insns instructions. Raises fetch faults (no return) if the first instruction cannot
    // be fetched.
    void (*translate)(struct vcpu *c, struct ir_block *b, unsigned max_insns);
    // Optional. The indirect branch at guest pc `from` went to c->pc, for which the jump cache had nothing. May raise.
    void (*branched)(struct vcpu *c, u64 from);
    // Page walk with side effects (A/D). On failure: raise ? raises the guest's page fault, does not return : returns false.
    bool (*tlb_fill)(struct vcpu *c, struct gva a, enum access acc, unsigned mmu, bool raise, struct tlb_fill *out);
    // Delivers the exception that was raised (c->exc_pending), or the highest-priority interrupt if one can be taken now.
    void (*deliver_exception)(struct vcpu *c);
    bool (*take_interrupt)(struct vcpu *c);       // true: state changed
    bool (*has_work)(struct vcpu *c);             // would HLT end now?
    // a host instruction of translated code faulted; state is synced. Raises the guest's exception
    void (*host_fault)(struct vcpu *c, unsigned vector);
    void (*dump)(struct vcpu *c, void (*out)(void *o, const char *s), void *o);   // "info registers", as QEMU's -d cpu
    void (*fpu_save)(struct vcpu *c);             // host vector/x87 registers -> vCPU state
    void (*fpu_load)(struct vcpu *c);
    void (*reset)(struct vcpu *c);
};

struct vcpu {
    void *platform;                    // first: plat_bind_vcpu
    u64 regs[VCPU_NREGS];              // [emitted] globals; valid outside translated code
    u64 pc;                            // valid outside translated code
    u16 cc;                            // [emitted] arithmetic flags: low byte OF (0/1), high byte LAHF's AH (SZ0A0P1C)
    u32 exit_request;                  // [emitted] nonzero: leave to the loop. Atomic, any context
    u32 in_guest;                      // [emitted] between entry to and exit from translated code (helpers included)
    u64 temps[VCPU_NTEMPS];            // [emitted] spilled IR temporaries
    u64 host_rsp;                      // [emitted] stack of the innermost tcg_catch, for leaving from anywhere
    u64 helper_ra;                     // [emitted] return address into translated code of the helper now running; 0: none
    struct vcpu *self;                 // [emitted] this vCPU, for C called from translated code
    u64 group_addr;                    // [emitted] R14 of a shared lookup while an op borrows the register
    u64 flag_operand[2];               // [emitted] operands kept for a flag recipe
    u64 args[3];                       // [emitted] arguments of IR_CALL on their way to C
    u64 fault_rip, fault_eflags;       // a host fault in translated code, noted by vcpu_host_fault; fault_rip 0: none
    unsigned fault_vector;
    struct tb *last_tb;                // TB whose exit was taken last, for chaining; NULL: none
    u32 last_exit;
    bool exc_pending;
    bool halted;
    bool fpu_loaded;                   // the guest's vector/x87 state is in the host's registers
    bool one_insn;                     // translate the next TB with one instruction, unregistered (self-modification, single step)
    bool tb_refused;                   // a TB's entry has just led to the loop: it is not to be found by the jump cache again
    bool alone;                        // run the next TB with all other vCPUs parked
    bool shares_core;                  // others run on this core in turns: vcpu_run returns on HLT. Constant
    bool crowded;                      // some vCPUs share a core, maybe not this one: PAUSE counts. Constant, the same for all
    u32 n_pauses;

    const struct guest_ops *ops;
    struct tcg *tcg;
    struct translator *tr;
    struct as_sets *as_sets;           // addrspace.c
    struct phys *phys;
    unsigned index;
    unsigned core;                     // plat_core_id of the core that runs it

    // ---- mailbox: atomics, any context ----
    u64 posted[4], posted_level[4];
    u32 posted_events;                 // VCPU_EV_*
    u32 posted_sipi;
    bool extint;
    int shutdown_code;                 // of VCPU_EV_SHUTDOWN
    struct { void (*fn)(struct vcpu *, void *); void *arg; } async_q[64];
    u32 async_head, async_tail;

    // ---- atomics: owner writes, others read (tcg/run/park.c) ----
    u32 seen;                          // tcg.epoch at the last turn of the loop
    u32 parked;                        // does nothing
    u64 flushes;                       // tcg.n_flushes when it last made sure of seeing the new code
    u32 polling;                       // halted, and looks at exit_request itself: a kick needs no interrupt
    bool poll_next;                    // the last wait was short
    struct gpa code_page;              // the page with code that was stored to last, and where it is in the host
    u8 *code_host;                     // (owner only); NULL: none
    u64 store_page[2];                 // guest-physical pages (address >> 12) with code that a store may be on its way to; ~0 none
    struct tb *unlinked[UNLINKED_MAX]; // TBs whose chaining this vCPU took back; tb_lock
    unsigned n_unlinked;

    const struct apic_ops *apic_ops;
    void *apic;

    // ---- counters ----
    u64 n_helper;                      // [emitted] calls of helpers
    struct profiler prof;
    u64 n_exits, n_tlb_miss, n_mmio, n_translated_tb, n_translated_bytes, n_smc, n_exit_kind[5], n_flush, n_flush_page;

    u32 bounce_len;                    // [emitted] bytes of a store pending in bounce[]; 0: none
    u8 bounce_mmu;
    u64 bounce_va;
    bool irq_look;                     // something may have made an interrupt deliverable
    u32 run_result;                    // VCPU_EV_* that ends vcpu_run
    struct { u64 va, page; } xtlb[MMU_MODES][XTLB_SIZE];    // linear page -> guest-physical page; valid where xsig is not 0
    struct { u64 lo, hi; } big[2];     // interval of linear addresses covered by large pages, lower and upper half; lo > hi: none
    s64 icount_left;                   // [emitted] icount: instructions that may still run; meaningless without (tcg/run/icount.c)
    u8 few_insns;                      // icount: not 0: translate the next TB with so many instructions at most, unregistered
    u8 bounce[BOUNCE_SIZE] __attribute__((aligned(64)));   // [emitted]
    struct tlb_entry tlb[MMU_MODES][2][TLB_SIZE];          // [emitted] [mode][0 read, 1 write]
    // Jump-cache classes found lately, by the low bits of the mode, n: of tcg.n_flushes then, and 1.
    struct { u64 cs_base, n; u32 mode; u32 jc_class; } class_memo[CLASS_MEMOS];
    struct jump_cache jc[JC_CLASSES];                      // [emitted]
    // Signature of the code mapping at each xtlb entry: a number that stands for (linear page, physical page, mmu mode), 0 for
    // none. A chained jump into another page compares it, so that it stays chained over TLB flushes that change nothing
    // [emitted].
    u32 xsig[MMU_MODES][XTLB_SIZE];
    // Translations of pages that are not plain memory, by the low bits of the page number; page: guest-physical. va ~0: none.
    struct { u64 va, page; } device_page[MMU_MODES][2][DEVICE_PAGES];
    bool device_pages;                                      // some are there
    // Which entries may hold a translation, by whether a flush of the non-global ones drops it: [0] local, [1] global.
    struct entry_set tlb_held[2][MMU_MODES][2], xsig_held[2][MMU_MODES];
};

enum { VCPU_EV_NMI = 1, VCPU_EV_INIT = 2, VCPU_EV_SIPI = 4, VCPU_EV_ASYNC = 8, VCPU_EV_TLB_FLUSH = 16,
       VCPU_EV_RESET = 32, VCPU_EV_SHUTDOWN = 64, VCPU_EV_STOP = 128,
       VCPU_EV_YIELD = 256,            // another vCPU of this core wants it
       VCPU_EV_HALT = 512 };           // (only as a result of vcpu_run) nothing to do, and others share the core

// Makes c known to the translator. False: no memory for its translator. Before any vCPU runs.
bool vcpu_init(struct vcpu *c, struct tcg *t, struct phys *p, const struct guest_ops *ops, unsigned index) MUST_CHECK;
// Runs c on this core until shutdown or reset is requested (VCPU_EV_*); returns the event. BQL not held.
u32 vcpu_run(struct vcpu *c);
// The vCPU that runs on core `id` at the moment, or NULL. Any context.
struct vcpu *vcpu_on_core(unsigned id);
// No vCPU of this core has anything to do; c is one of them: sleeps until an interrupt, or moves time on under icount. BQL held; given up
// meanwhile.
void vcpu_core_idle(struct vcpu *c);
// What a machine reset takes away besides the guest's registers: interrupts and events on their way to c, and how it left translated code.
// Nobody runs.
void vcpu_reset_run(struct vcpu *c);
// Leaves whatever translated code or helper is running, back into vcpu_run. Own core, BQL not held.
NORETURN void vcpu_leave(struct vcpu *c);
// When a helper called from translated code needs the precise pc and cc: fills c->pc and c->cc for the guest instruction that
// called (its start). No-op outside of helpers. All exception raising goes through it.
void vcpu_sync(struct vcpu *c);
// Host code for c's pc and mode now, if the jump cache has it: entered with the flags in vcpu.cc, and compares its page's signature. Else
// NULL. Own core.
const u8 *vcpu_code_now(struct vcpu *c);
// Makes vcpu_run return VCPU_EV_STOP (VCPU_EV_YIELD); makes c flush its TLB at its next exit. Any context.
void vcpu_request_stop(struct vcpu *c);
void vcpu_request_yield(struct vcpu *c);
void vcpu_request_tlb_flush(struct vcpu *c);
// Guest vector/x87 state out of the host's registers, because libc or another guest is to run. Own core. Cheap when already out.
void vcpu_fpu_release(struct vcpu *c);
// plat_events.interrupted and host_fault for this core's vCPU. (plat_events.entered: profile_interrupt_begin.)
u64 vcpu_interrupted(u64 rip);
u64 vcpu_host_fault(unsigned vector, u64 rip, u64 eflags);
// For panics: "guest RIP ..., TB ..." of the vCPU on this core into buf, as far as it can be known. Any context.
void vcpu_describe_now(char *buf, size_t len);
