// Emission of one TB: what emit.c (order of events, exits, cold code), regs.c (scratch and temporaries), flags.c, mem.c and ops.c
// share. Lives on the stack of host_tb_emit; one core, not in interrupt context.
#pragma once

#include "tcg/host/layout.h"

enum { EMIT_MAX_COLD = 1024, EMIT_MAX_MARKS = 4096 };

// Code to be emitted out of line once the hot part is done.
enum cold_kind { COLD_LOAD, COLD_STORE, COLD_EXIT, COLD_POLL, COLD_COUNT, COLD_GROUP };
struct cold {
    u8 kind;
    u8 *jump;                 // rel32 of the branch that leads here
    const u8 *body, *after;   // COLD_LOAD/STORE: where the access is, and its end
    u32 desc;                 // softmmu descriptor
    s32 tlb_off;              // to undo the tag xor
    bool xored;
    u16 insn, recipe;         // fault point
    u16 exit;                 // COLD_EXIT: number
    u16 group;                // COLD_GROUP: number
    u16 uncounted;            // COLD_EXIT: instructions behind a side exit, which icount takes back
};

struct flags_at { bool host, saved; int def; u16 recipe; u64 written; };   // as in struct emit

// A run of ops whose accesses share one lookup (group.c).
struct group {
    unsigned first, last;     // ops
    unsigned last_member;     // behind it only steps
    s32 lo, hi;               // window of offsets from the base's value at `first`
    u8 mmu;
    bool write;
    unsigned insn;
    struct flags_at start;
    bool end_host, end_saved;
    const u8 *hot_end;
};

struct emit {
    struct as as;
    struct vcpu *c;           // who translates
    struct tcg *t;
    struct ir_block *b;
    struct tb *tb;
    u8 *start;                // writable address of the TB's code
    unsigned i;               // op being emitted
    unsigned insn;            // guest instruction it belongs to

    // ---- registers ----
    u8 busy;                  // scratch in use in this op: bit n is R12 + n
    u8 temp_reg[IR_NTEMPS];   // host register of a temporary, or H_NONE: in vcpu.temps
    u8 r14_temp;              // temporary living in R14, or IR_NONE
    u8 held[3];               // global or temporary that scratch R12 + n holds in this op, or IR_NONE
    u16 temp_last[IR_MAX_OPS];   // per op: temporaries (bits) that die with it

    // ---- flags ----
    bool fl_host;             // the guest's flags are in EFLAGS
    bool fl_saved;            // and/or in vcpu.cc
    int fl_def;               // op that defined them, -1: block entry
    u16 fl_recipe;            // how to rebuild them where neither holds
    u64 fl_written;           // registers written since fl_def
    u16 fl_pending;           // recipe made before the defining op was emitted
    u16 recipe_at[IR_MAX_OPS];   // recipe for what the op defines, or NO_RECIPE
    bool again;               // the op is emitted a second time, out of line (group.c)

    // ---- shared lookups ----
    struct group groups[EMIT_MAX_GROUPS];
    unsigned n_groups, next_group;
    struct group *group;      // the one that is open, or NULL
    bool r14_kept;            // R14 holds the open group's host address
    bool r14_lent;            // and rests in vcpu.temps while this op uses R14
    bool no_temp_r14;         // temporaries stay out of R14
    u8 put_off;               // global whose steps are put off within the open group, or IR_NONE
    s64 step;                 // their sum
    u16 member_of[IR_MAX_OPS];   // group number + 1, 0: none
    s32 member_at[IR_MAX_OPS];   // offset from the base at the group's first op
    bool shared;              // the op being emitted is a member

    struct cold cold[EMIT_MAX_COLD];
    unsigned n_cold;
    struct tb_mark marks[EMIT_MAX_MARKS];
    unsigned n_marks;
    struct flag_recipe recipes[EMIT_MAX_RECIPES];
    unsigned n_recipes;
    u16 insn_off[TB_MAX_INSNS + 2];
};

static inline u32 emit_off(const struct emit *e, const u8 *p) { return (u32)(p - e->start); }

// ---- regs.c ----
void emit_temps_plan(struct emit *e);                       // once per block: last uses
u8 emit_scratch(struct emit *e);                            // a scratch register for this op
u8 emit_use(struct emit *e, u8 r);                          // host register that holds global or temporary r
u8 emit_def(struct emit *e, u8 r, bool keep);               // host register to compute r in; keep: its old value is needed
void emit_def_done(struct emit *e, u8 r, u8 h);             // writes it back where it lives in memory
void emit_op_end(struct emit *e, const struct ir_op *o);    // releases scratch, forgets dead temporaries

void emit_spill_temp(struct emit *e);                       // whatever temporary is in R14, to memory

// ---- flags.c ----
void emit_flags_start(struct emit *e);
void emit_flags_before_clobber(struct emit *e);             // EFLAGS are about to be overwritten by non-guest code
// the op about to be emitted reads or partly keeps the guest's flags: into EFLAGS
void emit_flags_need(struct emit *e);
void emit_flags_ready(struct emit *e, const struct ir_op *o);   // what o, about to be emitted, needs of them is in EFLAGS
// A condition of the guest's flags as one of EFLAGS now, which need not hold the guest's.
enum ir_cc emit_flags_cond(struct emit *e, enum ir_cc cc);
void emit_flags_save(struct emit *e);                       // into vcpu.cc
void emit_flags_before_def(struct emit *e, const struct ir_op *o);   // o is about to be emitted
void emit_flags_after(struct emit *e, const struct ir_op *o);   // o has been emitted
u16 emit_flags_recipe(struct emit *e);                      // for a fault point here
void emit_mark(struct emit *e, u16 insn, u16 recipe);       // fault point from here on
bool emit_op_keeps_flags(const struct ir_op *o);            // op needs EFLAGS beforehand

// ---- mem.c ----
// Address computation and softmmu lookup for o's memory operand; afterwards its bytes are at the returned rm. Opens the
// out-of-line path, which emit_mem_end closes after the access.
struct rm emit_mem_begin(struct emit *e, const struct ir_op *o);
void emit_mem_end(struct emit *e, const struct ir_op *o);
unsigned emit_mem_size(const struct ir_op *o);
void emit_ea(struct emit *e, const struct ir_mem *m, u8 d);      // effective address without segment into d (64 bits, wrapped)

// Linear address in h -> offset in its page in h, R13 + cold.tlb_off: the page's entry (clobbers EFLAGS); opens the cold path of that kind.
struct cold *emit_lookup(struct emit *e, unsigned mmu, bool write, unsigned size, u8 h, enum cold_kind kind);

// ---- group.c ----
void emit_groups_plan(struct emit *e);                      // once per block
void emit_group_begin(struct emit *e);                      // before each op: opens a group that starts here
bool emit_group_member(struct emit *e, struct rm *rm);
bool emit_group_step(struct emit *e, const struct ir_op *o);   // o, about to be emitted, has been put off. (What o wants has been done)
void emit_group_end(struct emit *e);                        // after each op
void emit_group_cold(struct emit *e, const struct cold *c);

// ---- string.c ----
u8 *emit_string(struct emit *e, const struct ir_op *o);     // before the call that o is, flags saved: place of the rel32 that leads past it

// ---- ops.c ----
void emit_op(struct emit *e, const struct ir_op *o);

// ---- emit.c ----
unsigned emit_exit_new(struct emit *e, u64 pc);
void emit_one(struct emit *e, const struct ir_op *o);       // op number e->i with what belongs to any op
struct cold *emit_cold(struct emit *e, enum cold_kind kind, u8 *jump);
