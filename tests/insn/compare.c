// What must be equal, and how a difference is told.
//
// Everything architectural is compared, the flags that manuals call undefined included: both sides run on the same CPU. Left out, because a
// translator that runs x87 code in a code cache cannot have them: the x87 instruction and data pointers and the last opcode (FIP, FDP, FOP;
// SDM 1 8.1.8). State components that XSTATE_BV says are in their initial configuration are filled in before (SDM 1 13.6).
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tests/insn/state.h"

// Arithmetic flags, TF, DF, RF, AC. NT and ID are not in the signal frame that loads a state.
enum { FLAGS_COMPARED = 0x8d5 | 0x100 | 0x400 | 0x10000 | 0x40000 };

struct text { char *p; size_t len, n; unsigned count; };

static PRINTF(2, 3) void say(struct text *t, const char *fmt, ...)
{
    va_list ap;
    t->count++;
    if (t->n + 1 >= t->len) return;
    va_start(ap, fmt);
    int k = vsnprintf(t->p + t->n, t->len - t->n, fmt, ap);
    va_end(ap);
    t->n += (size_t)k;
    if (t->n >= t->len) t->n = t->len - 1;
}

static void normalise(u8 *x)
{
    u64 bv;
    memcpy(&bv, x + XS_LEGACY, 8);
    if (!(bv & 1)) {
        memset(x, 0, 24);
        x[0] = 0x7f;
        x[1] = 3;
        memset(x + 32, 0, 128);
    }
    if (!(bv & 2)) memset(x + 160, 0, 256);
    if (!(bv & 4)) memset(x + XS_YMM, 0, 256);
}

static void compare_bytes(struct text *t, const char *name, int i, const u8 *a, const u8 *b, unsigned len)
{
    if (!memcmp(a, b, len)) return;
    char ha[40], hb[40];
    for (unsigned k = 0; k < len; k++) {
        snprintf(ha + 2 * k, 3, "%02x", a[len - 1 - k]);
        snprintf(hb + 2 * k, 3, "%02x", b[len - 1 - k]);
    }
    say(t, " %s%d %s not %s;", name, i, hb, ha);
}

static void compare_fpu(struct text *t, const struct insn_state *ws, const struct insn_state *gs)
{
    u8 w[XS_SIZE], g[XS_SIZE];
    memcpy(w, ws->xsave, XS_SIZE);
    memcpy(g, gs->xsave, XS_SIZE);
    normalise(w);
    normalise(g);
    compare_bytes(t, "fcw", 0, w, g, 2);
    compare_bytes(t, "fsw", 0, w + 2, g + 2, 2);
    compare_bytes(t, "ftw", 0, w + 4, g + 4, 1);
    compare_bytes(t, "mxcsr", 0, w + 24, g + 24, 4);
    for (int i = 0; i < 8; i++) compare_bytes(t, "st", i, w + 32 + 16 * i, g + 32 + 16 * i, 10);
    for (int i = 0; i < 16; i++) {
        compare_bytes(t, "xmm", i, w + 160 + 16 * i, g + 160 + 16 * i, 16);
        compare_bytes(t, "ymmhi", i, w + XS_YMM + 16 * i, g + XS_YMM + 16 * i, 16);
    }
}

static void compare_memory(struct text *t, u64 base, u64 size)
{
    for (u64 p = base; p < base + size; p += PAGE_SIZE) {
        const u8 *w = (const u8 *)p, *g = translated_page(p);
        if (!memcmp(w, g, PAGE_SIZE)) continue;
        unsigned shown = 0;
        for (unsigned i = 0; i < PAGE_SIZE && shown < 4; i++)
            if (w[i] != g[i]) {
                say(t, " [%llx] %02x not %02x;", (unsigned long long)p + i, g[i], w[i]);
                shown++;
            }
    }
}

unsigned compare_results(const struct insn_result *w, const struct insn_result *g, const struct leave_out *l, char *text, size_t len)
{
    struct text t = {text, len, 0, 0};
    if (len) text[0] = 0;
    if (w->vector != g->vector) say(&t, " vector %u not %u;", g->vector, w->vector);
    if (g->vector >= RUN_HUNG) return t.count;
    // Linux says "protection" of every address that it does not give to programs, mapped or not.
    // And the guest's kernel in protected mode is where the process has nothing.
    bool ours = w->cr2 >= 0x7ffffffff000 || w->cr2 >> 21 == KERNEL_BASE32 >> 21;
    u64 err_mask = w->vector == 14 && ours ? ~1ull : ~0ull;
    bool wide = w->st.seg[S_CS] == SEL_CODE64;   // elsewhere the upper halves and R8-R15 are undefined (SDM 1 3.4.1.1)
    if ((w->error ^ g->error) & err_mask && w->vector >= 8) say(&t, " error %llx not %llx;", (unsigned long long)g->error, (unsigned long long)w->error);
    if (w->cr2 != g->cr2 && !l->cr2) say(&t, " cr2 %llx not %llx;", (unsigned long long)g->cr2, (unsigned long long)w->cr2);
    if (w->st.rip != g->st.rip) say(&t, " rip %llx not %llx;", (unsigned long long)g->st.rip, (unsigned long long)w->st.rip);
    u64 df = (w->st.rflags ^ g->st.rflags) & FLAGS_COMPARED & ~l->flags_stale;
    if (l->fault_flags && w->vector == 14) df &= ~0x8d5ull;
    if (df)
        say(&t, " flags %llx not %llx;", (unsigned long long)(g->st.rflags & FLAGS_COMPARED), (unsigned long long)(w->st.rflags & FLAGS_COMPARED));
    for (int i = 0; i < (wide ? 16 : 8); i++)
        if ((w->st.gpr[i] ^ g->st.gpr[i]) & (wide ? ~0ull : 0xffffffff))
            say(&t, " %s %llx not %llx;", gpr_names[i], (unsigned long long)g->st.gpr[i], (unsigned long long)w->st.gpr[i]);
    // Null selectors lose their RPL on the way through the kernel.
    for (int i = 0; i < 6; i++)
        if (w->st.seg[i] != g->st.seg[i] && (w->st.seg[i] | g->st.seg[i]) > 3) say(&t, " %cs %x not %x;", "ecsdfg"[i], g->st.seg[i], w->st.seg[i]);
    // What a null selector leaves as base outside 64-bit code differs between processors.
    if (w->st.fs_base != g->st.fs_base && (wide || w->st.seg[S_FS])) say(&t, " fs_base %llx;", (unsigned long long)g->st.fs_base);
    if (w->st.gs_base != g->st.gs_base && (wide || w->st.seg[S_GS])) say(&t, " gs_base %llx;", (unsigned long long)g->st.gs_base);
    compare_fpu(&t, &w->st, &g->st);
    compare_memory(&t, DATA_BASE, DATA_SIZE);
    compare_memory(&t, STACK_BASE, STACK_SIZE);
    return t.count;
}
