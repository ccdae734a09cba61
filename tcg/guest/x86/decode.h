// The decoder's view of insn.def, shared by decode_table.c (the data), decode.c (the walk) and the tests. Constant data, any context.
#pragma once

#include "tcg/guest/x86/insn.h"

enum insn_map { MAP_M0, MAP_M0F, MAP_M38, MAP_M3A, MAP_V0F, MAP_V38, MAP_V3A, MAP_COUNT };
enum insn_pfx { PFX_ANY, PFX_NF3, PFX_NP, PFX_P66, PFX_PF3, PFX_PF2 };
enum { FORM_ANY, FORM_MEM, FORM_REG };
enum { WL_L = 1, WL_W = 2 };

struct insn_row {
    struct insn_desc desc;
    u8 map, opcode, pfx;      // enum insn_map, opcode, enum insn_pfx
    u8 n8;                    // stands for opcode..opcode + 7
    struct { u8 mask, value, mod, has; } form;   // ModRM & mask == value; FORM_*; has: the form alone demands a ModRM
    struct { u8 mask, value; } wl;               // WL_* demanded and their values
};

extern const struct insn_row x86_insn_rows[];        // by line of insn.def; lines without an encoding have no name
extern const unsigned x86_insn_row_count;
extern const u16 x86_insn_last[MAP_COUNT][256];      // last row of an opcode, 0: none
