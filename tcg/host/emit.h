// Emission of one TB: what emit.c (order of events, exits, cold code), regs.c (scratch and temporaries), flags.c, mem.c and ops.c share.
// Lives on the stack of host_tb_emit; one core, not in interrupt context.
#pragma once

#include "tcg/host/layout.h"

enum { EMIT_MAX_COLD = 512, EMIT_MAX_RECIPES = 256, EMIT_MAX_MARKS = 2048 };

// Code to be emitted out of line once the hot part is done.
enum cold_kind { COLD_LOAD, COLD_STORE, COLD_EXIT, COLD_POLL };
struct cold {
    u8 kind;
    u8 *jump;                 // rel32 of the branch that leads here
    const u8 *body, *after;   // COLD_LOAD/STORE: where the access is, and its end
    u32 desc;                 // softmmu descriptor
    s32 tlb_off;              // to undo the tag xor
    bool xored;
    u16 insn, recipe;         // fault point
    u16 exit;                 // COLD_EXIT: number
};

struct emit {
    struct as as;
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

// ---- flags.c ----
void emit_flags_start(struct emit *e);
void emit_flags_before_clobber(struct emit *e);             // EFLAGS are about to be overwritten by non-guest code
void emit_flags_need(struct emit *e);                       // the op about to be emitted reads or partly keeps the guest's flags: into EFLAGS
void emit_flags_save(struct emit *e);                       // into vcpu.cc
void emit_flags_after(struct emit *e, const struct ir_op *o);   // o has been emitted
u16 emit_flags_recipe(struct emit *e);                      // for a fault point here
void emit_mark(struct emit *e, u16 insn, u16 recipe);       // fault point from here on
bool emit_op_keeps_flags(const struct ir_op *o);            // op needs EFLAGS beforehand

// ---- mem.c ----
// Address computation and softmmu lookup for o's memory operand; afterwards its bytes are at the returned rm. Opens the out-of-line path,
// which emit_mem_end closes after the access.
struct rm emit_mem_begin(struct emit *e, const struct ir_op *o);
void emit_mem_end(struct emit *e, const struct ir_op *o);
unsigned emit_mem_size(const struct ir_op *o);
void emit_ea(struct emit *e, const struct ir_mem *m, u8 d);      // effective address without segment into d (64 bits, wrapped)

// ---- ops.c ----
void emit_op(struct emit *e, const struct ir_op *o);

// ---- emit.c ----
unsigned emit_exit_new(struct emit *e, u64 pc);
struct cold *emit_cold(struct emit *e, enum cold_kind kind, u8 *jump);
