// A grid of characters and the terminal language that fills it: what Linux's console and its programs send, as far as a boot log
// and a shell need it (ECMA-48 cursor movement, erasing, colours; UTF-8). Pure: no hardware, no lock.
#pragma once

#include "kernel/base/types.h"

struct cell { u16 code; u8 fg : 4, bg : 4; u8 cursor; };
_Static_assert(sizeof(struct cell) == 4, "compared and copied as a word");

enum { TERM_PARAMS = 8 };

struct term {
    struct cell *cells;
    unsigned cols, rows, col, row;
    unsigned saved_col, saved_row;
    u8 fg, bg;
    bool bold, reverse, wrap_pending, cursor_on;
    enum { TERM_TEXT, TERM_ESC, TERM_CSI, TERM_OSC, TERM_SKIP } state;
    unsigned params[TERM_PARAMS], nparams;
    bool private_csi;
    u32 utf8;
    unsigned utf8_left;
};

// `cells` has room for cols * rows.
void term_init(struct term *t, struct cell *cells, unsigned cols, unsigned rows);
void term_write(struct term *t, const u8 *p, size_t len);
