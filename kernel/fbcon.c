// Two grids of cells: the text as it is, and the text as drawn. Writing and scrolling change the first only, in ordinary memory;
// drawing walks both and paints cells that differ. So a thousand lines of scrolling between two draws cost one screenful, and the
// framebuffer, which is slow to write and hopeless to read, is written with whole rows of 8 pixels and never read. The font (PSF 1,
// 8 pixels wide) comes from a Debian package at build time.
#include "kernel/fbcon.h"

#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/fbcon_term.h"
#include "kernel/vmem.h"

extern const u8 font_psf[], font_psf_end[];

enum { FONT_CODES = 0x2680 };   // code points that can have a glyph; above are symbols no text console needs

static struct {
    u32 *pixels;
    unsigned stride, height_px;
    u32 palette[16];
    const u8 *glyphs;
    unsigned glyph_count, glyph_rows;    // 8 pixels wide
    u16 glyph_of[FONT_CODES];
    struct term term;
    struct cell *drawn;
} fb;

// ---- the font ----

static void font_map(u32 code, unsigned glyph)
{
    if (code < FONT_CODES && !fb.glyph_of[code]) fb.glyph_of[code] = (u16)glyph;
}

// PSF 1: per glyph, 16-bit code points up to 0xffff; after 0xfffe sequences, which are skipped.
static void font_read_unicode1(const u8 *p, const u8 *end)
{
    for (unsigned g = 0; g < fb.glyph_count; g++) {
        bool seq = false;
        for (; p + 2 <= end; p += 2) {
            u32 c = p[0] | (u32)p[1] << 8;
            if (c == 0xffff) break;
            if (c == 0xfffe) seq = true;
            else if (!seq) font_map(c, g);
        }
        p += 2;
    }
}

static bool font_init(void)
{
    const u8 *p = font_psf;
    size_t len = (size_t)(font_psf_end - p);
    if (len < 4 || p[0] != 0x36 || p[1] != 0x04) return false;   // PSF 1 is always 8 pixels wide
    fb.glyph_count = p[2] & 1 ? 512 : 256;
    fb.glyph_rows = p[3];
    fb.glyphs = p + 4;
    const u8 *table = fb.glyphs + fb.glyph_count * fb.glyph_rows;
    if (!fb.glyph_rows || table > font_psf_end) return false;
    if (p[2] & 2) font_read_unicode1(table, font_psf_end);
    else for (unsigned c = 0; c < 256; c++) font_map(c, c);
    return true;
}

// ---- drawing ----

static void fbcon_draw_cell(unsigned col, unsigned row, struct cell c, bool cursor)
{
    u32 ink = fb.palette[c.fg & 15], paper = fb.palette[c.bg & 15];
    if (cursor) { u32 t = ink; ink = paper; paper = t; }
    unsigned g = c.code < FONT_CODES ? fb.glyph_of[c.code] : 0;
    if (!g && c.code != ' ') g = fb.glyph_of['?'];
    const u8 *bits = fb.glyphs + g * fb.glyph_rows;
    u32 *at = fb.pixels + (u64)row * fb.glyph_rows * fb.stride + col * 8;
    bool blank = c.code == ' ';
    for (unsigned y = 0; y < fb.glyph_rows; y++, at += fb.stride) {
        u8 b = blank ? 0 : bits[y];
        for (unsigned x = 0; x < 8; x += 2) {   // two pixels at a time: half as many writes to combine
            u64 left = b & 0x80 >> x ? ink : paper, right = b & 0x40 >> x ? ink : paper;
            *(volatile u64 *)(at + x) = left | right << 32;
        }
    }
}

void fbcon_draw(void)
{
    struct term *t = &fb.term;
    if (!fb.pixels) return;
    for (unsigned r = 0; r < t->rows; r++) {
        for (unsigned c = 0; c < t->cols; c++) {
            unsigned i = r * t->cols + c;
            struct cell want = t->cells[i];
            bool cursor = t->cursor_on && r == t->row && c == t->col;
            want.cursor = cursor;
            if (!memcmp(&want, &fb.drawn[i], sizeof(want))) continue;
            fb.drawn[i] = want;
            fbcon_draw_cell(c, r, want, cursor);
        }
    }
    __asm__ volatile("sfence" : : : "memory");
}

void fbcon_write(const void *buf, size_t len)
{
    if (fb.pixels) term_write(&fb.term, buf, len);
}

unsigned fbcon_columns(void) { return fb.term.cols; }
unsigned fbcon_rows(void) { return fb.term.rows; }

// The 16 colours that people know, as this framebuffer's pixels.
static void fbcon_init_palette(const struct boot_framebuffer *i)
{
    static const u32 rgb[16] = {0x000000, 0xaa0000, 0x00aa00, 0xaa5500, 0x0000aa, 0xaa00aa, 0x00aaaa, 0xaaaaaa,
                                0x555555, 0xff5555, 0x55ff55, 0xffff55, 0x5555ff, 0xff55ff, 0x55ffff, 0xffffff};
    for (unsigned c = 0; c < 16; c++)
        fb.palette[c] = (rgb[c] >> 16 & 0xff) << i->red_shift | (rgb[c] >> 8 & 0xff) << i->green_shift | (rgb[c] & 0xff) << i->blue_shift;
}

static void fbcon_clear_pixels(void)
{
    for (unsigned y = 0; y < fb.height_px; y++) memset(fb.pixels + (u64)y * fb.stride, 0, (u64)fb.stride * 4);
}

bool fbcon_init(const struct boot_framebuffer *i)
{
    if (!i->phys || i->stride < i->width || !font_init()) return false;
    unsigned cols = i->width / 8, rows = i->height / fb.glyph_rows;
    u64 cells = (u64)cols * rows * sizeof(struct cell);
    if (!cells || (u64)i->stride * i->height * 4 > max_u64(i->size, 1)) return false;
    struct cell *both = vmem_alloc(cells * 2);
    u32 *pixels = vmem_map_phys(i->phys, (u64)i->stride * i->height * 4, VMEM_WRITE | VMEM_WC);
    if (!both || !pixels) return false;
    fbcon_init_palette(i);
    fb.stride = i->stride;
    fb.height_px = i->height;
    fb.drawn = (struct cell *)((u8 *)both + cells);
    term_init(&fb.term, both, cols, rows);
    fb.pixels = pixels;
    fbcon_clear_pixels();
    fbcon_draw();
    return true;
}
