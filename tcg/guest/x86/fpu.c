// The vector and x87 state: saving and restoring it for the run-time, and the instructions that see it as memory (SDM 1 chapters 8, 10.5,
// 13).
//
// While translated code and helpers run the state lives in the host's registers (v.fpu_loaded). The image in x86_cpu.xsave is in the host's
// standard XSAVE format with components 0..2, which is also the guest's. A helper that stores state brings the image up to date
// (fpu_image; the registers stay loaded), copies what it wants and writes that to guest memory; one that loads state reads guest memory
// first, then edits the image and reloads (fpu_reload). Never touch guest memory between fpu_image and fpu_reload: an MMIO access may
// release the registers and so overwrite the image.
//
// SDM-DIFF: x87 instruction and data pointers and the opcode are stored as zero: the host's hold host addresses. Recent CPUs store zeroes
// as well unless an exception is pending.
#include "tcg/guest/x86/system.h"

enum { X_FCW = 0, X_MXCSR = 24, X_MXCSR_MASK = 28, X_ST = 32, X_XMM = 160, X_HEADER = 512, X_YMM = 576, X_SIZE = 832 };
enum { XC_X87 = 1, XC_SSE = 2, XC_AVX = 4 };
_Static_assert(sizeof(((struct x86_cpu *)0)->xsave) >= X_SIZE, "image");
_Static_assert(offsetof(struct x86_cpu, xsave) % 64 == 0, "XSAVE wants 64-byte alignment");

// ---- the run-time's side -----------------------------------------------------------------------------------------------------

static void host_save(struct x86_cpu *c)
{
    if (c->id.host_xsave) __asm__ volatile("xsave64 (%0)" : : "r"(c->xsave), "a"(7), "d"(0) : "memory");
    else __asm__ volatile("fxsave64 (%0)" : : "r"(c->xsave) : "memory");
}

void x86_fpu_save(struct vcpu *v)
{
    if (!v->fpu_loaded) return;
    host_save(x86(v));
    v->fpu_loaded = false;
}

void x86_fpu_load(struct vcpu *v)
{
    struct x86_cpu *c = x86(v);
    if (c->id.host_xsave) __asm__ volatile("xrstor64 (%0)" : : "r"(c->xsave), "a"(7), "d"(0) : "memory");
    else __asm__ volatile("fxrstor64 (%0)" : : "r"(c->xsave) : "memory");
    v->fpu_loaded = true;
}

static u64 *image_bv(struct x86_cpu *c) { return (u64 *)(c->xsave + X_HEADER); }

void x86_fpu_reset(struct x86_cpu *c)
{
    c->v.fpu_loaded = false;
    bytes_zero(c->xsave, sizeof c->xsave);
    *(u16 *)(c->xsave + X_FCW) = 0x40;        // SDM 3A table 9-1, power-up
    c->xsave[4] = 0xff;                       // all registers hold +0.0
    *(u32 *)(c->xsave + X_MXCSR) = 0x1f80;
    *image_bv(c) = XC_X87;
}

static bool all_zero(const u8 *p, u64 n)
{
    u64 any = 0;
    for (u64 i = 0; i < n; i += 8) any |= *(const u64_any *)(p + i);
    return !any;
}

// Which components are in use, by their contents: what processors say depends on who else used the registers (a signal's frame, say).
static u64 in_use_exactly(const u8 *img)
{
    bool x87 = *(const u64_any *)img << 24 == 0x37full << 24 && all_zero(img + X_ST, X_XMM - X_ST);    // FCW, FSW, FTW
    return (x87 ? 0 : XC_X87) | (all_zero(img + X_XMM, 256) ? 0 : XC_SSE) | (all_zero(img + X_YMM, 256) ? 0 : XC_AVX);
}

// The image, up to date.
static u8 *fpu_image(struct x86_cpu *c)
{
    if (c->v.fpu_loaded) host_save(c);
    if (!c->id.host_xsave) *image_bv(c) = XC_X87 | XC_SSE;
    else if (c->virtual_ns) *image_bv(c) = in_use_exactly(c->xsave);
    return c->xsave;
}

// Makes the edited image the state. The way back into translated code loads it.
static void fpu_reload(struct x86_cpu *c) { c->v.fpu_loaded = false; }

// Around instructions that work on the live state.
static void fpu_ensure(struct x86_cpu *c)
{
    if (!c->v.fpu_loaded) x86_fpu_load(&c->v);
}
static void fpu_done(struct x86_cpu *c)
{
    if (limits_c_uses_fpu()) x86_fpu_save(&c->v);
}

// ---- checks --------------------------------------------------------------------------------------------------------------------

static struct gva fpu_operand(struct x86_cpu *c, u64 ea, u64 d, unsigned align)
{
    struct gva a = x86_linear(c, d, ea);
    if (a.v & (align - 1)) x86_raise(c, EXC_GP, 0);
    return a;
}

static void probe_write(struct x86_cpu *c, struct gva a, u64 len)
{
    unsigned mmu = x86_mmu(c);
    for (u64 done = 0; done < len;) {
        u64 n = min_u64(len - done, PAGE_SIZE - ((a.v + done) & ~PAGE_MASK));
        (void)mem_probe(&c->v, gva(a.v + done), n, ACCESS_WRITE, mmu);
        done += n;
    }
}

static void fx_check(struct x86_cpu *c)
{
    if (c->cr0 & (CR0_EM | CR0_TS)) x86_raise(c, EXC_NM, -1);
}

static void xsave_check(struct x86_cpu *c)
{
    if (!(c->cr4 & CR4_OSXSAVE)) x86_raise(c, EXC_UD, -1);
    if (c->cr0 & CR0_TS) x86_raise(c, EXC_NM, -1);
}

static void mxcsr_check(struct x86_cpu *c, u32 mxcsr)
{
    u32 mask = *(const u32 *)(fpu_image(c) + X_MXCSR_MASK);
    if (mxcsr & ~(mask ? mask : 0xffbfu)) x86_raise(c, EXC_GP, 0);
}

// x87 pointers and opcode: bytes 6..23.
static void clear_pointers(u8 *img) { bytes_zero(img + 6, 18); }

// Bytes of the XMM part and of the upper-YMM part that the mode sees.
static unsigned xmm_bytes(const struct x86_cpu *c) { return x86_code64(c) ? 256 : 128; }

// ---- FXSAVE, FXRSTOR -----------------------------------------------------------------------------------------------------------

X86_HELPER(fxsave)
{
    struct x86_cpu *x = x86(c);
    u8 img[X_XMM + 256];
    fx_check(x);
    struct gva at = fpu_operand(x, a, d, 16);
    bytes_copy(img, fpu_image(x), sizeof img);
    clear_pointers(img);
    mem_write(c, at, img, X_XMM + xmm_bytes(x), x86_mmu(x));
    return 0;
}

X86_HELPER(fxrstor)
{
    struct x86_cpu *x = x86(c);
    u8 img[512];
    fx_check(x);
    struct gva at = fpu_operand(x, a, d, 16);
    mem_read(c, at, img, sizeof img, x86_mmu(x));
    mxcsr_check(x, *(u32_any *)(img + X_MXCSR));
    clear_pointers(img);
    u8 *live = fpu_image(x);
    bytes_copy(live, img, X_MXCSR_MASK);
    bytes_copy(live + X_ST, img + X_ST, X_XMM - X_ST + xmm_bytes(x));
    *image_bv(x) |= XC_X87 | XC_SSE;
    fpu_reload(x);
    return 0;
}

// ---- XSAVE, XRSTOR -------------------------------------------------------------------------------------------------------------

struct piece { u16 off, len; };

// Adds the pieces of component set `which` to p; returns how many there are.
static unsigned xsave_pieces(const struct x86_cpu *c, u64 which, bool mxcsr, struct piece *p)
{
    unsigned n = 0;
    if (which & XC_X87) {
        p[n++] = (struct piece){0, X_MXCSR};
        p[n++] = (struct piece){X_ST, X_XMM - X_ST};
    }
    if (mxcsr) p[n++] = (struct piece){X_MXCSR, 8};
    if (which & XC_SSE) p[n++] = (struct piece){X_XMM, xmm_bytes(c)};
    if (which & XC_AVX) p[n++] = (struct piece){X_YMM, xmm_bytes(c)};
    return n;
}

enum xsave_kind { KIND_XSAVE, KIND_XSAVEOPT, KIND_XSAVEC };

static void guest_xsave(struct x86_cpu *c, u64 ea, u64 d, enum xsave_kind kind)
{
    u8 img[X_SIZE];
    struct piece p[8];
    xsave_check(c);
    struct gva at = fpu_operand(c, ea, d, 64);
    u64 rfbm = c->xcr0 & (c->v.regs[G_RDX] << 32 | (u32)c->v.regs[G_RAX]);
    unsigned mmu = x86_mmu(c);
    probe_write(c, at, rfbm & XC_AVX ? X_SIZE : X_YMM);
    u64 header[2] = {0, 0};
    if (kind != KIND_XSAVEC) header[0] = mem_ld(&c->v, gva(at.v + X_HEADER), 8, mmu);
    bytes_copy(img, fpu_image(c), sizeof img);
    clear_pointers(img);
    u64 in_use = *(u64_any *)(img + X_HEADER) & 7;
    if (*(u32_any *)(img + X_MXCSR) != 0x1f80 && kind == KIND_XSAVEC) in_use |= XC_SSE;   // SDM 1 13.10
    u64 store = kind == KIND_XSAVE ? rfbm : rfbm & in_use;   // the init optimisation; no modified optimisation
    bool mxcsr = kind == KIND_XSAVEC ? store & XC_SSE : rfbm & (XC_SSE | XC_AVX);
    unsigned n = xsave_pieces(c, store, mxcsr, p);
    header[0] = (header[0] & ~rfbm) | (in_use & rfbm);
    header[1] = kind == KIND_XSAVEC ? rfbm | BIT(63) : 0;
    for (unsigned i = 0; i < n; i++) mem_write(&c->v, gva(at.v + p[i].off), img + p[i].off, p[i].len, mmu);
    mem_write(&c->v, gva(at.v + X_HEADER), header, kind == KIND_XSAVEC ? 16 : 8, mmu);
}

X86_HELPER(xsave)
{
    guest_xsave(x86(c), a, d, KIND_XSAVE);
    return 0;
}
X86_HELPER(xsaveopt)
{
    guest_xsave(x86(c), a, d, KIND_XSAVEOPT);
    return 0;
}
X86_HELPER(xsavec)
{
    guest_xsave(x86(c), a, d, KIND_XSAVEC);
    return 0;
}

// SDM 1 13.8.1, 13.8.2: the header's rules. Returns whether the area is compacted.
static bool xrstor_check_header(struct x86_cpu *c, const u8 *img)
{
    const u64_any *h = (const u64_any *)(img + X_HEADER);
    bool compact = h[1] >> 63;
    u64 zero = 0;
    for (unsigned i = 2; i < (compact ? 8 : 3); i++) zero |= h[i];
    bool bad = compact ? (h[1] & ~BIT(63) & ~c->xcr0) || (h[0] & ~h[1]) : (h[0] & ~c->xcr0) || h[1];
    if (zero || bad) x86_raise(c, EXC_GP, 0);
    return compact;
}

X86_HELPER(xrstor)
{
    struct x86_cpu *x = x86(c);
    u8 img[X_SIZE];
    struct piece p[8];
    xsave_check(x);
    struct gva at = fpu_operand(x, a, d, 64);
    u64 rfbm = x->xcr0 & (c->regs[G_RDX] << 32 | (u32)c->regs[G_RAX]);
    mem_read(c, at, img, X_YMM, x86_mmu(x));
    bool compact = xrstor_check_header(x, img);
    u64 present = *(u64_any *)(img + X_HEADER) & rfbm;
    if (present & XC_AVX) mem_read(c, gva(at.v + X_YMM), img + X_YMM, xmm_bytes(x), x86_mmu(x));
    bool mxcsr = compact ? present & XC_SSE : rfbm & (XC_SSE | XC_AVX);
    if (mxcsr) mxcsr_check(x, *(u32_any *)(img + X_MXCSR));
    clear_pointers(img);
    u8 *live = fpu_image(x);
    u32 mask = *(u32 *)(live + X_MXCSR_MASK);
    unsigned n = xsave_pieces(x, present, mxcsr, p);
    for (unsigned i = 0; i < n; i++) bytes_copy(live + p[i].off, img + p[i].off, p[i].len);
    *(u32 *)(live + X_MXCSR_MASK) = mask;
    if (compact && !mxcsr && (rfbm & XC_SSE)) *(u32 *)(live + X_MXCSR) = 0x1f80;
    // Components asked for but not in the area get their initial state, zeroes. Outside 64-bit mode registers 8..15 are not touched, so
    // there the zeroes are written and the component stays in use.
    u64 init = rfbm & ~present, *bv = image_bv(x);
    if (init & XC_SSE) bytes_zero(live + X_XMM, xmm_bytes(x));
    if (init & XC_AVX) bytes_zero(live + X_YMM, xmm_bytes(x));
    *bv = (*bv | present) & ~(init & (x86_code64(x) ? 7 : XC_X87));
    fpu_reload(x);
    return 0;
}

X86_HELPER(xgetbv)
{
    struct x86_cpu *x = x86(c);
    if (!(x->cr4 & CR4_OSXSAVE)) x86_raise(x, EXC_UD, -1);
    u32 n = c->regs[G_RCX];
    if (n > 1) x86_raise(x, EXC_GP, 0);
    if (n == 1) (void)fpu_image(x);
    u64 v = n ? x->xcr0 & *image_bv(x) : x->xcr0;
    c->regs[G_RAX] = (u32)v;
    c->regs[G_RDX] = v >> 32;
    return 0;
}

X86_HELPER(xsetbv)
{
    struct x86_cpu *x = x86(c);
    if (!(x->cr4 & CR4_OSXSAVE)) x86_raise(x, EXC_UD, -1);
    x86_need_cpl0(x);
    u64 v = c->regs[G_RDX] << 32 | (u32)c->regs[G_RAX], may = x->id.f1_ecx & BIT(28) ? 7 : 3;
    bool ok = (u32)c->regs[G_RCX] == 0 && (v & 1) && !(v & ~may) && !((v & XC_AVX) && !(v & XC_SSE));
    if (!ok) x86_raise(x, EXC_GP, 0);
    x->xcr0 = v;
    x86_update_mode(x);
    return 0;
}

// ---- the x87 environment ----------------------------------------------------------------------------------------------------------
//
// The host's 28-byte protected-mode format: control, status, tag words at 0, 4, 8, then pointers. The 16-bit format packs the words to 14
// bytes.

struct fenv32 { u32 cw, sw, tw, fip, fcs, fdp, fds; };
struct fstate32 { struct fenv32 env; u8 st[80]; };
_Static_assert(sizeof(struct fstate32) == 108, "SDM 1 figure 8-10");

static unsigned env_pack(const struct fenv32 *e, bool wide, u8 *out)
{
    if (wide) {
        struct fenv32 w = {e->cw, e->sw, e->tw, 0, 0, 0, 0xffff0000};
        bytes_copy(out, &w, sizeof w);
        return sizeof w;
    }
    u16 n[7] = {e->cw, e->sw, e->tw, 0, 0, 0, 0};
    bytes_copy(out, n, sizeof n);
    return sizeof n;
}

static void env_unpack(struct fenv32 *e, bool wide, const u8 *in)
{
    const u32_any *w = (const u32_any *)in;
    const u16_any *n = (const u16_any *)in;
    *e = (struct fenv32){.cw = (wide ? w[0] : n[0]) | 0xffff0000, .sw = (wide ? w[1] : n[1]) | 0xffff0000,
                         .tw = (wide ? w[2] : n[2]) | 0xffff0000, .fds = 0xffff0000};
}

static bool env_wide(u64 d) { return x86_info_opsize(d) != 2; }

X86_HELPER(fstenv)
{
    struct x86_cpu *x = x86(c);
    struct fenv32 e;
    u8 buf[28];
    fx_check(x);
    struct gva at = x86_linear(x, d, a);
    probe_write(x, at, env_wide(d) ? 28 : 14);
    fpu_ensure(x);
    __asm__ volatile("fnstenv %0" : "=m"(e));
    fpu_done(x);
    unsigned n = env_pack(&e, env_wide(d), buf);
    mem_write(c, at, buf, n, x86_mmu(x));
    return 0;
}

X86_HELPER(fldenv)
{
    struct x86_cpu *x = x86(c);
    struct fenv32 e;
    u8 buf[28];
    fx_check(x);
    mem_read(c, x86_linear(x, d, a), buf, env_wide(d) ? 28 : 14, x86_mmu(x));
    env_unpack(&e, env_wide(d), buf);
    fpu_ensure(x);
    __asm__ volatile("fldenv %0" : : "m"(e));
    fpu_done(x);
    return 0;
}

X86_HELPER(fsave)
{
    struct x86_cpu *x = x86(c);
    struct fstate32 s;
    u8 buf[108];
    fx_check(x);
    struct gva at = x86_linear(x, d, a);
    probe_write(x, at, env_wide(d) ? 108 : 94);
    fpu_ensure(x);
    __asm__ volatile("fnsave %0" : "=m"(s));
    fpu_done(x);
    unsigned n = env_pack(&s.env, env_wide(d), buf);
    bytes_copy(buf + n, s.st, sizeof s.st);
    mem_write(c, at, buf, n + sizeof s.st, x86_mmu(x));
    return 0;
}

X86_HELPER(frstor)
{
    struct x86_cpu *x = x86(c);
    struct fstate32 s;
    u8 buf[108];
    unsigned n = env_wide(d) ? 28 : 14;
    fx_check(x);
    mem_read(c, x86_linear(x, d, a), buf, n + 80, x86_mmu(x));
    env_unpack(&s.env, env_wide(d), buf);
    bytes_copy(s.st, buf + n, 80);
    fpu_ensure(x);
    __asm__ volatile("frstor %0" : : "m"(s));
    fpu_done(x);
    return 0;
}

// ---- masked moves and gathers --------------------------------------------------------------------------------------------------------

static void vec_read(const u8 *img, unsigned r, u8 out[32])
{
    bytes_copy(out, img + X_XMM + 16 * r, 16);
    bytes_copy(out + 16, img + X_YMM + 16 * r, 16);
}

static void vec_write(struct x86_cpu *c, unsigned r, const u8 in[32])
{
    bytes_copy(c->xsave + X_XMM + 16 * r, in, 16);
    bytes_copy(c->xsave + X_YMM + 16 * r, in + 16, 16);
    *image_bv(c) |= XC_SSE | XC_AVX;
}

// Address of byte `off` of a memory operand at ea, wrapped to the address size.
static struct gva operand_at(const struct x86_cpu *c, u64 d, u64 ea, u64 off) { return x86_linear(c, d, ea + off); }

// Stores the elements of `data` whose mask element has its sign bit set; all are probed first.
static void masked_store(struct x86_cpu *c, u64 d, u64 ea, const u8 *data, const u8 *mask, unsigned len, unsigned size)
{
    unsigned mmu = x86_mmu(c);
    for (unsigned i = 0; i < len; i += size)
        if (mask[i + size - 1] & 0x80) probe_write(c, operand_at(c, d, ea, i), size);
    for (unsigned i = 0; i < len; i += size) {
        if (!(mask[i + size - 1] & 0x80)) continue;
        u64 v = size == 1 ? data[i] : size == 4 ? *(const u32_any *)(data + i) : *(const u64_any *)(data + i);
        mem_st(&c->v, operand_at(c, d, ea, i), v, size, mmu);
    }
}

X86_HELPER(maskmov)
{
    struct x86_cpu *x = x86(c);
    u8 data[32], mask[32];
    unsigned src = b & 15, sel = b >> 8 & 15, len = x86_info_extra(d) & 0xff;
    if (len == 8) {
        u32 low;
        fpu_ensure(x);
        __asm__ volatile("movd %%mm0, %0" : "=r"(low));   // an MMX instruction: TOP becomes 0, so that ST(i) in the image is MMi
        fpu_done(x);
        const u8 *img = fpu_image(x);
        bytes_copy(data, img + X_ST + 16 * (src & 7), 8);
        bytes_copy(mask, img + X_ST + 16 * (sel & 7), 8);
    } else {
        const u8 *img = fpu_image(x);
        vec_read(img, src, data);
        vec_read(img, sel, mask);
    }
    masked_store(x, d, a, data, mask, len, 1);
    return 0;
}

X86_HELPER(vmaskmov_store)
{
    struct x86_cpu *x = x86(c);
    u8 data[32], mask[32];
    const u8 *img = fpu_image(x);
    vec_read(img, b & 15, data);
    vec_read(img, b >> 8 & 15, mask);
    masked_store(x, d, a, data, mask, x86_info_extra(d) & 0xff, x86_info_opsize(d));
    return 0;
}

X86_HELPER(vmaskmov_load)
{
    struct x86_cpu *x = x86(c);
    u8 data[32], mask[32];
    unsigned size = x86_info_opsize(d), len = x86_info_extra(d) & 0xff, mmu = x86_mmu(x);
    vec_read(fpu_image(x), b >> 8 & 15, mask);
    bytes_zero(data, sizeof data);
    for (unsigned i = 0; i < len; i += size) {
        if (!(mask[i + size - 1] & 0x80)) continue;
        u64 v = mem_ld(c, operand_at(x, d, a, i), size, mmu);
        bytes_copy(data + i, &v, size);
    }
    (void)fpu_image(x);
    vec_write(x, b & 15, data);
    fpu_reload(x);
    return 0;
}

// A fault at any element leaves destination and mask as they were. SDM 2 lets elements below the faulting one be done already; being
// restarted from the beginning gives the same result.
X86_HELPER(gather)
{
    struct x86_cpu *x = x86(c);
    u8 dst[32], idx[32], mask[32];
    unsigned dr = b & 15, ir = b >> 8 & 15, mr = b >> 16 & 15, ex = x86_info_extra(d);
    unsigned size = x86_info_opsize(d), vl = ex & 0xff, scale = ex >> 8 & 3, isize = ex >> 12 & 15, mmu = x86_mmu(x);
    if (dr == ir || dr == mr || ir == mr) x86_raise(x, EXC_UD, -1);
    const u8 *img = fpu_image(x);
    vec_read(img, dr, dst);
    vec_read(img, ir, idx);
    vec_read(img, mr, mask);
    unsigned n = vl / (size > isize ? size : isize);
    for (unsigned i = 0; i < n; i++) {
        if (!(mask[(i + 1) * size - 1] & 0x80)) continue;
        s64 index = isize == 4 ? (s32)*(const u32_any *)(idx + i * 4) : (s64)*(const u64_any *)(idx + i * 8);
        u64 v = mem_ld(c, operand_at(x, d, a, (u64)index << scale), size, mmu);
        bytes_copy(dst + i * size, &v, size);
    }
    bytes_zero(dst + n * size, sizeof dst - n * size);
    bytes_zero(mask, sizeof mask);
    (void)fpu_image(x);
    vec_write(x, dr, dst);
    vec_write(x, mr, mask);
    fpu_reload(x);
    return 0;
}
