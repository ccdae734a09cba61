// The translator's shared state: translation blocks, the code cache they live in, and how they are found, chained and dropped.
//
// A TB is keyed by guest-physical address, guest pc, code-segment base and mode word. Its host code has two entries: `entry_host`
// takes the guest's arithmetic flags in the host's EFLAGS, `entry_saved` in vcpu.cc; each exit says which of the two ways it
// leaves, so that an edge pays for moving flags only when producer and consumer differ.
//
// Several vCPUs share TBs. Three rules make that work:
//   - Translating takes no lock: each vCPU has a struct translator of its own, with working memory and a region of the code cache.
//   - Whatever changes the TBs' relations (hash, lists by page, chaining) holds tb_lock, which is taken with interrupts off, so interrupt
//     handlers may take it too. Readers of the hash take nothing.
//   - What is taken away from others (a TB, a jump's target, a page's write right) is only used for something else once every vCPU has
//     passed its loop since (park.c).
#pragma once

#include "kernel/base/spin.h"
#include "kernel/plat.h"
#include "tcg/ir/ir.h"
#include "tcg/run/vcpu.h"

enum { PAGE_CHUNK_BITS = 9, MAX_PHYS_BITS = 40 };   // table of code pages
// Room that a block takes at most, in the code cache and once more in the arena: by its number of ops, and for entry and ways out. Several
// times what has been seen (127 bytes an op, 9 KiB a block); host_tb_emit asserts it for every block. TB_CODE_MAX: for the largest block
// that can be.
enum { TB_MAX_EXITS = 48, TB_MAX_INSNS = 64 };
enum { TB_CODE_PER_OP = 256, TB_CODE_FIXED = 2048, TB_CODE_MAX = TB_CODE_FIXED + IR_MAX_OPS * TB_CODE_PER_OP };
static inline u64 tb_room(const struct ir_block *b) { return TB_CODE_FIXED + b->n * TB_CODE_PER_OP; }

// How flags can be had at a fault point (tcg/host/flags.c).
struct flag_recipe {
    u8 kind;              // FR_*
    u8 opc, size;         // FR_OP: the IR op that defined them
    // registers (globals) holding operands or the result as they are at the fault; IR_IMM: imm; FR_SLOT0/1: flag_operand[]
    u8 a, b;
    s32 imm;
};
enum { FR_SLOT0 = 64, FR_SLOT1 };
enum { FR_SAVED,          // vcpu.cc holds them
       FR_HOST,           // the trapping host instruction's EFLAGS hold them
       FR_OP };           // recompute from a and b

// Where in the host code something can fault: from `off` on (to the next mark) it belongs to guest instruction `insn`.
struct tb_mark { u32 off; u16 insn; u16 recipe; };

enum exit_kind { EXIT_CHAIN,      // to pc, same page: patched to the next TB
                 EXIT_GUARDED,    // to pc in another page: patched, behind a compare of that page's code signature
                 EXIT_PC,         // to pc, by way of the loop
                 EXIT_INDIRECT,   // vcpu.pc has been set; through the jump cache
                 EXIT_LEAVE };    // vcpu.pc has been set; events are looked at

struct tb_exit {
    u64 pc;               // guest pc it leads to (EXIT_CHAIN, EXIT_PC)
    u8 kind;
    u32 rel;              // EXIT_CHAIN, EXIT_GUARDED: offset of the rel32 to patch
    u32 sig;              // EXIT_GUARDED: offset of the signature (imm32)
    u32 stub;             // offset of its way out to the loop
    u32 retired;          // EXIT_GUARDED: epoch in which it got its last signature; 0: never
    bool saved, host;     // where the flags are: vcpu.cc, EFLAGS, or both
    struct tb *owner;
    struct tb *dest;      // chained to
    struct tb_exit *next_in;   // list of exits chained to the same TB
};

struct tb {
    u64 pc, cs_base;
    u32 mode;
    u16 len, n_insns;
    struct gpa gpa;       // of the first byte
    u64 page[2];          // guest-physical pages (address >> 12); page[1] ~0
    struct tb *hash_next;
    struct tb *page_next[2];
    u8 *code;             // executable address
    u32 code_size, hot_size;
    u32 entry_host, entry_saved;
    u32 entry_checked;    // as entry_saved, for the jump cache: compares the page's code signature first
    u32 first_sig;        // its offset (imm32)
    u32 second_sig;       // TB of two pages: offset of the second's signature (imm32), which the entry compares; 0: no such check
    u8 jc_class;
    bool invalid;
    bool oneshot;         // never registered: run once
    u8 listed;            // bit n: in the list of page[n]; tb_lock
    u16 unlinked;         // so many exit requests have taken its chaining back
    u8 n_exits;
    struct tb_exit *exits;
    struct tb_exit *in_head;
    // jump-cache lookups (a block ends with at most one): offsets of the miss branch (jne rel32), of the indirect jump, of the miss path
    u8 n_ind;
    bool wants_host;      // prefers to be entered with flags in EFLAGS
    struct { u32 jne, jmp, miss; } ind[1];   // (RESUME: je, as `resumes' says)
    bool resumes;
    u16 n_marks, n_recipes;
    struct tb_mark *marks;
    struct flag_recipe *recipes;
    u16 *insn_off;        // pc of instruction i = pc + insn_off[i]
    u32 host_insns;       // on the straight path
    u32 samples;          // interrupts that found it running
};

struct tcg_config {
    u64 cache_size;       // bytes; tcg_cache_min(vcpus) at least
    bool exit_poll, no_chain;
    bool icount;          // count guest instructions exactly (tcg/run/icount.c)
    unsigned max_insns;   // per TB, 1..TB_MAX_INSNS
    unsigned vcpus;       // how many there will be; 0 counts as 1
};

// What one vCPU translates with. Owner: its core; the rest may look while it is parked.
struct translator {
    struct ir_block *block;
    struct emit *emit;    // working memory of the emitter
    struct code_region *region;   // of the code cache; NULL: none yet
    u64 used, end;        // bytes from the start of the code cache
    u64 arena_used, arena_end;
    struct { u64 page; u32 version; } claim[2];   // pages that the block being made was read from
    unsigned n_claims;
    bool claiming;
    u64 n_host_insns, n_guest_insns, ticks;
    u64 dice;             // stress build: state of the random numbers
};

// A part of the code cache that one vCPU fills.
struct code_region { struct tb **order; u32 n_tbs; };   // TBs by ascending code address, for tb_by_host

// What is known of a guest-physical page that holds, or may soon hold, translated code. Under tb_lock; state and version are read without.
struct code_page {
    struct tb *head;      // TBs with bytes on it
    u32 version;          // counts writes
    u16 state;            // CODE_PAGE_*
    u16 quiet;            // stores since it held a TB
    u64 map[2];           // bit n: TBs have bytes in the n-th CODE_GRAIN bytes. May say so wrongly; cleared in page_written only
};
enum { CODE_GRAIN = PAGE_SIZE / 128, CODE_PAGE_PATIENCE = 64 };
enum { CODE_PAGE_NONE,    // may be in write TLBs
       CODE_PAGE_NEW,     // leaves the write TLBs: some vCPU may still be storing through one
       CODE_PAGE_YES };   // every store to it is seen

// What a machine does with the count. Both are called by the vCPU's loop with the BQL held, never in interrupt context.
struct icount_hooks {
    // Runs what is due at this count; returns how many instructions may run before something is due again, 1 at least.
    u64 (*turn)(void);
    // The vCPU is halted and nothing is pending: moves time on, or sleeps (giving the BQL up meanwhile). May return for no reason.
    void (*idle)(void);
};

// Owner: the vCPU that runs; there is one at a time under icount.
struct icount {
    const struct icount_hooks *hooks;
    struct vcpu *runs;    // whose icount_left counts; NULL before the first
    u64 end;              // the count at which its icount_left is 0
    u64 seen;             // what icount_now said last
    bool moved;           // something is due earlier than icount_left knows
};

// Addresses of the common code at the head of the cache (executable addresses), made by host_prologue_emit.
struct tcg_stubs {
    u64 (*enter)(void *code);              // runs translated code; returns at the next exit
    u8 *enter_check, *enter_end, *enter_abort;   // an interrupt between check and end resumes at abort
    u8 *exit_host, *exit_saved;            // r13: TB, r12d: exit number; flags in EFLAGS / vcpu.cc
    u8 *slow_load, *slow_store, *commit;   // softmmu misses: see tcg/host/prologue.c
    u8 *call;                              // IR_CALL
    u8 *fault;                             // a host fault was noted; spills and leaves
    u8 *end;
};

struct tcg {
    struct tcg_config cfg;
    u8 *rw, *rx;          // the two mappings
    u64 size;             // bytes of code
    u8 *arena;            // TB structs and metadata, divided like the code
    u64 arena_size;
    struct tcg_stubs stubs;
    u64 first, region_size;                // region n begins at first + n * region_size
    struct code_region *regions;
    u32 n_regions, next_region, max_tbs;   // max_tbs: of a region
    struct vcpu *vcpus[VCPUS_MAX];
    unsigned n_vcpus;
    struct spinlock lock; // tb_lock
    // ---- tb_lock ----
    struct tb **hash;
    struct code_page **pages;   // [page >> 9][page & 511]
    u64 n_page_chunks, top_chunk;   // top_chunk: those above it are empty
    u32 class_mode[JC_CLASSES];
    u64 class_base[JC_CLASSES];
    u32 n_classes, class_restarts;
    struct code_sig { u64 va, page; u32 sig; u8 mmu; } *sigs;   // open hash
    u32 n_sigs, last_sig;
    u64 n_flushes, n_retries, n_claims, n_exclusive;
    // ---- park.c ----
    u32 epoch;
    struct vcpu *exclusive;     // runs while all others are parked
    struct icount icount;
    // ---- profile.c; atomic ----
    u64 interrupt_cost, timer_cost;   // TSC ticks; 0: not measured yet
};

static inline bool tcg_shared(const struct tcg *t) { return t->n_vcpus > 1; }

// The lock of the TBs' relations: short, never while waiting for another vCPU. Returns what tb_unlock wants. Any context.
static inline bool tb_lock(struct tcg *t) { return spin_lock(&t->lock); }
static inline void tb_unlock(struct tcg *t, bool irqs) { spin_unlock(&t->lock, irqs); }

// Stress build: true once in `one_in` calls, at random but the same in every run; otherwise never. On the vCPU's core, not in
// interrupt context.
static inline bool tcg_dice(struct vcpu *c, unsigned one_in)
{
    if (!limits_stress()) return false;
    struct translator *tr = c->tr;
    tr->dice = tr->dice * 6364136223846793005ull + 1442695040888963407ull;
    return (tr->dice >> 33) % one_in == 0;
}

struct tcg *tcg_new(const struct tcg_config *cfg);      // NULL: no memory for the code cache
u64 tcg_cache_min(unsigned vcpus);                      // smallest useful tcg_config.cache_size, in bytes
// Other code from now on: drops every TB. While no vCPU is in vcpu_run; not in interrupt context.
void tcg_set_engine(struct tcg *t, bool exit_poll, bool no_chain);
bool tcg_add_vcpu(struct tcg *t, struct vcpu *c) MUST_CHECK;   // before any vCPU runs; false: no memory

// The number that stands for this mapping of a code page, never reused.
u32 tcg_code_signature(struct tcg *t, u64 va, u64 page, unsigned mmu);

// ---- tb.c; on the vCPU's core, not in interrupt context unless said ----
// The TB for c's state now; translates if there is none. May raise the guest's fetch fault.
struct tb *tb_get(struct vcpu *c);
void tb_chain(struct vcpu *c, struct tb *from, unsigned exit, struct tb *to);
// The TB whose code contains host address `rip` (executable mapping), or NULL. Any context.
struct tb *tb_by_host(struct tcg *t, u64 rip);
// Takes back tb's chaining, for c, so that it leaves to the loop at its next exit. c's core; interrupt context allowed.
void tb_unlink(struct vcpu *c, struct tb *tb);
// c has left: what it unlinked is put back.
void tb_relink(struct vcpu *c);
// Bytes [a, a+len) of RAM have been or are being written: drops every TB that has one. True if the one whose code contains host address
// `running` (0: none) was among them. Any context. A
// vCPU that stores through translated code calls it before the store, and names the page in c->store_page first; everyone
// else after the bytes are in place.
bool tb_invalidate_phys(struct tcg *t, struct gpa a, u64 len, u64 running);
// As tb_invalidate_phys, for bytes of one page: false if no TB has one of them, and all is done. Needs no lock.
bool tb_write_matters(struct tcg *t, struct gpa a, u64 len);
// Does somebody depend on seeing stores to a's page? Any context.
bool tb_page_has_code(struct tcg *t, struct gpa a);
void tb_drop(struct tcg *t, struct tb *tb);            // tb_lock held
void tb_unchain(struct tcg *t, struct tb *tb);         // no jump leads to tb or out of it any more. tb_lock held
// Gives tb back its entry in the lists of its pages. tb_lock held.
void tb_page_add(struct tcg *t, struct tb *tb);
// Before tb's claims are looked at for the last time: stores to its bytes will find it. tb_lock held.
void tb_page_announce(struct tcg *t, const struct tb *tb);
void tb_page_remove(struct tcg *t, struct tb *tb);
// No page lists a TB any more, and no claim holds; only while exclusive.
void tb_pages_reset(struct tcg *t);
// c is about to translate bytes of guest-physical page `page` (address >> 12): from now on every store to it is seen. May park c.
void tb_page_claim(struct vcpu *c, u64 page);
// True if nothing was written to the pages that c claimed. tb_lock held.
bool tb_claims_hold(struct vcpu *c);

// ---- addrspace.c ----
struct as_sets *as_sets_new(void);                     // NULL: no memory

// ---- region.c ----
void region_need(struct vcpu *c, u64 room);            // makes `room` bytes in c's region and its arena; may empty the whole cache
struct tb *region_add(struct vcpu *c, struct tb *tb);  // the TB just emitted becomes known to tb_by_host
void tcg_flush_all(struct vcpu *c);                    // drops every TB
static inline u8 *tb_rw(const struct tcg *t, const u8 *rx) { return (u8 *)rx - (t->rx - t->rw); }

// ---- park.c: waiting for other vCPUs. On the vCPU's core, outside translated code and helpers, BQL not held ----
void vcpu_pass(struct vcpu *c);                        // once a turn of the loop: c holds nothing of others' any more
void vcpu_park(struct vcpu *c);                        // c does nothing until unparked (idle, not running, waiting)
void vcpu_unpark(struct vcpu *c);
void vcpus_wait_passed(struct vcpu *c);                // returns when every other vCPU has passed or was parked. Parks c meanwhile
void vcpus_park_until_passed(struct vcpu *c);          // the same, but c stays parked: for what others wait for, who may run alone
u32 vcpus_epoch_next(struct tcg *t);                   // names this moment for vcpus_passed. Any context
bool vcpus_passed(const struct vcpu *c, u32 epoch);    // has every vCPU but c passed since? Any context
void exclusive_begin(struct vcpu *c);                  // all other vCPUs are parked when it returns
void exclusive_end(struct vcpu *c);
// Architectural pc and flags at host address rip within tb. eflags: host EFLAGS, for FR_HOST.
void tb_restore(struct vcpu *c, const struct tb *tb, u64 rip, u64 eflags);
// Index of the guest instruction within tb that host address rip belongs to; exact where something can fault or call C.
unsigned tb_insn_at(const struct tb *tb, u64 rip);
u16 flags_recompute(const struct vcpu *c, const struct flag_recipe *r);   // FR_OP: the flags, in the format of vcpu.cc
u16 cc_from_eflags(u64 eflags);                        // to the format of vcpu.cc

// "info jit": sizes, counts, and the blocks that interrupts found running most often with their host instructions per guest
// instruction. BQL held.
void tcg_info(const struct tcg *t, void (*out)(void *o, const char *s), void *o);

// ---- cpu loop ----
// Calls fn(c); returns when fn does or when something in it calls vcpu_leave(c). Nests.
void tcg_catch(struct vcpu *c, void (*fn)(struct vcpu *c));

// ---- icount.c; nothing here is called without tcg_config.icount ----
void icount_set_hooks(struct tcg *t, const struct icount_hooks *h);    // before the first vCPU runs
// Guest instructions completed so far, exact in helpers and in the loop. Any context: in an interrupt, a lower bound that never goes back.
u64 icount_now(struct tcg *t);
// Something has become due earlier: the loop asks the hooks at the next instruction boundary. Any context.
void icount_moved(struct tcg *t);
// For the loop. The budget is used up or no longer right; a halted vCPU; the TB for c's state, cut to the budget.
void icount_turn(struct vcpu *c);
void icount_idle(struct vcpu *c);
void icount_sleep(struct vcpu *c);                                       // BQL held
struct tb *icount_cut(struct vcpu *c);
// Translated code is left in the middle, at host address rip: gives back the instructions from there on.
void icount_leave(struct vcpu *c, u64 rip);
// A device is about to be accessed by translated code or a helper: unless the instruction is its TB's last, leaves before it and runs
// it alone.
void icount_before_io(struct vcpu *c);
static inline bool icount_due(const struct vcpu *c)
{
    return c->tcg->cfg.icount && (c->icount_left <= 0 || c->tcg->icount.moved || c->tcg->icount.runs != c);
}

// ---- tcg/host ----
// What emitted code needs and this processor lacks ("BMI2"), or NULL.
const char *host_missing(void);
void host_prologue_emit(struct tcg *t);
u64 host_emit_size(void);                              // bytes of working memory that host_tb_emit needs in c->tr->emit
// Emits block b as tb's code at the end of c's region of the cache. tb's key fields are set. Allocates marks, recipes and insn_off from the
// arena.
void host_tb_emit(struct vcpu *c, struct ir_block *b, struct tb *tb);
void *tcg_arena_alloc(struct vcpu *c, u64 size);       // zeroed, from c's region; never fails (region_need makes room beforehand)

// ---- called from emitted code (context: a helper) ----
u8 *softmmu_slow_load(struct vcpu *c, u64 va, u64 desc);     // desc: size | mmu << 8; returns where the bytes are
// desc as above | reads too << 16 | may end up not storing << 17 | locked << 18; sets bounce_len when a commit must follow
u8 *softmmu_slow_store(struct vcpu *c, u64 va, u64 desc);
void softmmu_commit(struct vcpu *c);
void vcpu_helper_done(struct vcpu *c);                       // before going back into translated code
