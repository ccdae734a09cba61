// Random instruction sequences, made from the decode table.
#pragma once

#include "tests/insn/state.h"

enum { SEQ_MAX = 30 };

// One item: an instruction, or a forward branch to another item.
struct seq_item {
    u8 kind;             // SEQ_*
    u8 len, bytes[17];
    u8 op;               // SEQ_JCC: condition; SEQ_LOOP: opcode
    u8 to;           // item to branch to; at least this one's number + 1; may be the end
    const char *name;
};
enum { SEQ_INSN, SEQ_JCC, SEQ_LOOP, SEQ_CALL, SEQ_JMP };

struct sequence {
    struct seq_item item[SEQ_MAX];
    unsigned n;
    unsigned bits;       // 64 or 32
    u16 pointers;        // general registers that hold pointers at the start
};

void sequence_make(struct sequence *s, unsigned bits, struct rng *r);
// Machine code, ended by UD2; at most `size` bytes. Returns its length.
unsigned sequence_layout(const struct sequence *s, u8 *code, unsigned size);
void sequence_remove(struct sequence *s, unsigned at);
void sequence_print(const struct sequence *s);
