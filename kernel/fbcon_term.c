// The terminal's state machine: text, ESC, CSI parameters. Unknown sequences are swallowed whole, so that they leave no litter on
// the screen.
#include "kernel/fbcon_term.h"

#include <string.h>

static struct cell term_blank(const struct term *t) { return (struct cell){.code = ' ', .fg = 7, .bg = t->bg & 15}; }

static void term_fill(struct term *t, unsigned from, unsigned to)
{
    struct cell b = term_blank(t);
    for (unsigned i = from; i < to; i++) t->cells[i] = b;
}

void term_init(struct term *t, struct cell *cells, unsigned cols, unsigned rows)
{
    *t = (struct term){.cells = cells, .cols = cols, .rows = rows, .fg = 7, .cursor_on = true};
    term_fill(t, 0, cols * rows);
}

static void term_scroll(struct term *t)
{
    unsigned all = t->cols * t->rows;
    memmove(t->cells, t->cells + t->cols, (all - t->cols) * sizeof(struct cell));
    term_fill(t, all - t->cols, all);
}

static void term_newline(struct term *t)
{
    t->wrap_pending = false;
    if (t->row + 1 < t->rows) t->row++;
    else term_scroll(t);
}

static void term_put(struct term *t, u32 code)
{
    if (t->wrap_pending) {
        t->col = 0;
        term_newline(t);
    }
    u8 fg = (u8)(t->fg | (t->bold ? 8 : 0)), bg = t->bg;
    struct cell c = {.code = code > 0xffff ? '?' : (u16)code, .fg = (t->reverse ? bg : fg) & 15, .bg = (t->reverse ? fg : bg) & 15};
    t->cells[t->row * t->cols + t->col] = c;
    if (t->col + 1 < t->cols) t->col++;
    else t->wrap_pending = true;   // the line breaks when the next character comes, as a VT100's does
}

static void term_move(struct term *t, long col, long row)
{
    t->wrap_pending = false;
    t->col = col < 0 ? 0 : col >= (long)t->cols ? t->cols - 1 : (unsigned)col;
    t->row = row < 0 ? 0 : row >= (long)t->rows ? t->rows - 1 : (unsigned)row;
}

static void term_control(struct term *t, u8 c)
{
    switch (c) {
    case '\n': case 0x0b: case 0x0c: term_newline(t); break;
    case '\r': term_move(t, 0, t->row); break;
    case '\b': term_move(t, (long)t->col - 1, t->row); break;
    case '\t': term_move(t, (t->col | 7) + 1, t->row); break;
    case 0x1b: t->state = TERM_ESC; break;
    default: break;
    }
}

static void term_erase(struct term *t, char what, unsigned how)
{
    unsigned at = t->row * t->cols + t->col, line = t->row * t->cols;
    unsigned from = what == 'J' ? 0 : line, to = what == 'J' ? t->cols * t->rows : line + t->cols;
    if (how == 0) term_fill(t, at, to);
    else if (how == 1) term_fill(t, from, at + 1);
    else term_fill(t, from, to);
}

static void term_colour(struct term *t, unsigned p)
{
    if (p == 0) { t->fg = 7; t->bg = 0; t->bold = t->reverse = false; }
    else if (p == 1) t->bold = true;
    else if (p == 7) t->reverse = true;
    else if (p == 22) t->bold = false;
    else if (p == 27) t->reverse = false;
    else if (p >= 30 && p <= 37) t->fg = (u8)(p - 30);
    else if (p == 39) t->fg = 7;
    else if (p >= 40 && p <= 47) t->bg = (u8)(p - 40);
    else if (p == 49) t->bg = 0;
    else if (p >= 90 && p <= 97) t->fg = (u8)(p - 90 + 8);
    else if (p >= 100 && p <= 107) t->bg = (u8)(p - 100 + 8);
}

static void term_csi(struct term *t, u8 c)
{
    unsigned p0 = t->params[0];
    long n = p0 ? p0 : 1;
    if (t->private_csi) {
        if (p0 == 25 && (c == 'h' || c == 'l')) t->cursor_on = c == 'h';
        return;
    }
    switch (c) {
    case 'A': term_move(t, t->col, (long)t->row - n); break;
    case 'B': term_move(t, t->col, (long)t->row + n); break;
    case 'C': term_move(t, (long)t->col + n, t->row); break;
    case 'D': term_move(t, (long)t->col - n, t->row); break;
    case 'G': term_move(t, n - 1, t->row); break;
    case 'd': term_move(t, t->col, n - 1); break;
    case 'H': case 'f': term_move(t, (long)(t->params[1] ? t->params[1] : 1) - 1, n - 1); break;
    case 'J': case 'K': term_erase(t, (char)c, p0); break;
    case 's': t->saved_col = t->col; t->saved_row = t->row; break;
    case 'u': term_move(t, t->saved_col, t->saved_row); break;
    case 'm':
        for (unsigned i = 0; i <= t->nparams && i < TERM_PARAMS; i++) term_colour(t, t->params[i]);
        break;
    default: break;
    }
}

static void term_csi_byte(struct term *t, u8 c)
{
    if (c >= '0' && c <= '9') {
        unsigned *p = &t->params[t->nparams < TERM_PARAMS ? t->nparams : TERM_PARAMS - 1];
        if (*p < 10000) *p = *p * 10 + (c - '0');
    } else if (c == ';') {
        if (t->nparams < TERM_PARAMS) t->nparams++;
    } else if (c >= '<' && c <= '?') {
        t->private_csi = true;
    } else if (c >= 0x40) {
        t->state = TERM_TEXT;
        term_csi(t, c);
    }
}

static void term_escape(struct term *t, u8 c)
{
    t->state = TERM_TEXT;
    switch (c) {
    case '[':
        t->state = TERM_CSI;
        memset(t->params, 0, sizeof(t->params));
        t->nparams = 0;
        t->private_csi = false;
        break;
    case ']': t->state = TERM_OSC; break;
    case '(': case ')': case '#': t->state = TERM_SKIP; break;   // one more byte follows
    case '7': t->saved_col = t->col; t->saved_row = t->row; break;
    case '8': term_move(t, t->saved_col, t->saved_row); break;
    case 'c': term_init(t, t->cells, t->cols, t->rows); break;
    default: break;
    }
}

// UTF-8 without being strict: a broken sequence shows as '?'.
static void term_text(struct term *t, u8 c)
{
    if (t->utf8_left && (c & 0xc0) == 0x80) {
        t->utf8 = t->utf8 << 6 | (c & 0x3f);
        if (--t->utf8_left == 0) term_put(t, t->utf8);
        return;
    }
    t->utf8_left = 0;
    if (c < 0x20 || c == 0x7f) term_control(t, c);
    else if (c < 0x80) term_put(t, c);
    else if (c >= 0xf0) { t->utf8 = c & 7; t->utf8_left = 3; }
    else if (c >= 0xe0) { t->utf8 = c & 15; t->utf8_left = 2; }
    else if (c >= 0xc0) { t->utf8 = c & 31; t->utf8_left = 1; }
    else term_put(t, '?');
}

void term_write(struct term *t, const u8 *p, size_t len)
{
    for (; len--; p++) {
        switch (t->state) {
        case TERM_ESC: term_escape(t, *p); break;
        case TERM_CSI:
            if (*p < 0x20) term_control(t, *p);
            else term_csi_byte(t, *p);
            break;
        case TERM_OSC:
            if (*p == 7 || *p == '\\') t->state = TERM_TEXT;
            break;
        case TERM_SKIP: t->state = TERM_TEXT; break;
        default: term_text(t, *p); break;
        }
    }
}
