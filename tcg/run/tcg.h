// The translator's shared state: translation blocks, the code cache they live in, and how they are found, chained and dropped.
//
// A TB is keyed by guest-physical address, guest pc, code-segment base and mode word. Its host code has two entries: `entry_host`
// takes the guest's arithmetic flags in the host's EFLAGS, `entry_saved` in vcpu.cc; each exit says which of the two ways it
// leaves, so that an edge pays for moving flags only when producer and consumer differ.
//
// Owner: code cache and hash belong to the vCPU loop (one translating core at present); unlinking for an exit request happens in
// interrupt context and touches only the patched jumps of one TB.
#pragma once

#include "tcg/ir/ir.h"
#include "tcg/run/vcpu.h"

// Room that a block takes at most, in the code cache and once more in the arena: by its number of ops, and for entry and ways out. Several
// times what has been seen (127 bytes an op, 9 KiB a block); host_tb_emit asserts it for every block. TB_CODE_MAX: for the largest block
// that can be.
enum { TB_MAX_EXITS = 24, TB_MAX_INSNS = 64 };
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
    u32 second_sig;       // TB of two pages: offset of the second's signature (imm32), which the entry compares; 0: no such check
    u8 jc_class;
    bool invalid;
    bool oneshot;         // never registered: run once
    bool unlinked;        // an exit request took its chaining back
    u8 n_exits;
    struct tb_exit *exits;
    struct tb_exit *in_head;
    // jump-cache lookups (a block ends with at most one): offsets of the miss branch (jne rel32), of the indirect jump, of the miss path
    u8 n_ind;
    bool wants_host;      // prefers to be entered with flags in EFLAGS
    struct { u32 jne, jmp, miss; } ind[1];
    u16 n_marks, n_recipes;
    struct tb_mark *marks;
    struct flag_recipe *recipes;
    u16 *insn_off;        // pc of instruction i = pc + insn_off[i]
    u32 host_insns;       // on the straight path
    u32 samples;          // interrupts that found it running
};

struct tcg_config {
    u64 cache_size;       // bytes; at least TB_CODE_MAX and the common code (the machine asks for more: MACHINE_TB_SIZE_MIN)
    bool exit_poll, no_chain;
    unsigned max_insns;   // per TB, 1..TB_MAX_INSNS
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
    u64 size, used;       // bytes of code
    u8 *arena;            // TB structs and metadata
    u64 arena_size, arena_used;
    struct tcg_stubs stubs;
    struct tb **hash;
    struct tb ***pages;   // [page >> 9][page & 511]: TBs on a guest-physical page
    u64 n_page_chunks;
    struct tb **order;    // TBs by ascending code address, for tb_by_host
    u32 n_tbs, max_tbs;
    u32 class_mode[JC_CLASSES];
    u64 class_base[JC_CLASSES];
    u32 n_classes, class_restarts;
    struct ir_block *block;
    struct emit *emit;    // working memory of the emitter
    struct code_sig { u64 va, page; u32 sig; u8 mmu; } *sigs;   // open hash
    u32 n_sigs, last_sig;
    struct vcpu *vcpus[64];
    unsigned n_vcpus;
    u64 n_flushes, n_host_insns, n_guest_insns, translate_ticks;
    u64 dice;             // stress build: state of the random numbers
};

// Stress build: true once in `one_in` calls, at random but the same in every run; otherwise never. On the vCPU's core, not in
// interrupt context.
static inline bool tcg_dice(struct tcg *t, unsigned one_in)
{
    if (!limits_stress()) return false;
    t->dice = t->dice * 6364136223846793005ull + 1442695040888963407ull;
    return (t->dice >> 33) % one_in == 0;
}

struct tcg *tcg_new(const struct tcg_config *cfg);      // NULL: no memory for the code cache
void tcg_add_vcpu(struct tcg *t, struct vcpu *c);

// The number that stands for this mapping of a code page, never reused.
u32 tcg_code_signature(struct tcg *t, u64 va, u64 page, unsigned mmu);

// ---- tb.c; on the vCPU's core, not in interrupt context unless said ----
// The TB for c's state now; translates if there is none. May raise the guest's fetch fault.
struct tb *tb_get(struct vcpu *c);
void tb_chain(struct vcpu *c, struct tb *from, unsigned exit, struct tb *to);
// The TB whose code contains host address `rip` (executable mapping), or NULL. Any context.
struct tb *tb_by_host(struct tcg *t, u64 rip);
// Takes back tb's chaining so that it leaves to the loop at its next exit. Interrupt context allowed.
void tb_unlink(struct tcg *t, struct tb *tb);
// Puts it back.
void tb_relink(struct tcg *t, struct tb *tb);
// Drops every TB that has a byte in [a, a+len). True if `current` was among them.
bool tb_invalidate_phys(struct tcg *t, struct gpa a, u64 len, const struct tb *current);
bool tb_page_has_code(struct tcg *t, struct gpa a);
void tb_flush_all(struct tcg *t);
// Architectural pc and flags at host address rip within tb. eflags: host EFLAGS, for FR_HOST.
void tb_restore(struct vcpu *c, const struct tb *tb, u64 rip, u64 eflags);
u16 flags_recompute(const struct vcpu *c, const struct flag_recipe *r);   // FR_OP: the flags, in the format of vcpu.cc
u16 cc_from_eflags(u64 eflags);                        // to the format of vcpu.cc

// "info jit": sizes, counts, and the blocks that interrupts found running most often with their host instructions per guest
// instruction. BQL held.
void tcg_info(const struct tcg *t, const struct vcpu *c, void (*out)(void *o, const char *s), void *o);

// ---- cpu loop ----
// Calls fn(c); returns when fn does or when something in it calls vcpu_leave(c). Nests.
void tcg_catch(struct vcpu *c, void (*fn)(struct vcpu *c));

// ---- tcg/host ----
// What emitted code needs and this processor lacks ("BMI2"), or NULL.
const char *host_missing(void);
void host_prologue_emit(struct tcg *t);
u64 host_emit_size(void);                              // bytes of working memory that host_tb_emit needs in t->emit
// Emits block b as tb's code at the end of the cache. tb's key fields are set. Allocates marks, recipes and insn_off from the
// arena.
void host_tb_emit(struct tcg *t, struct ir_block *b, struct tb *tb);
void *tcg_arena_alloc(struct tcg *t, u64 size);        // zeroed; never fails (tb_get makes room beforehand)

// ---- called from emitted code (context: a helper) ----
u8 *softmmu_slow_load(struct vcpu *c, u64 va, u64 desc);     // desc: size | mmu << 8; returns where the bytes are
// desc as above | reads too << 16 | may end up not storing << 17; sets bounce_len when a commit must follow
u8 *softmmu_slow_store(struct vcpu *c, u64 va, u64 desc);
void softmmu_commit(struct vcpu *c);
void vcpu_helper_done(struct vcpu *c);                       // before going back into translated code
