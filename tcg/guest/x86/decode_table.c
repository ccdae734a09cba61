// insn.def as data: an array with one row per line (indexed by the line's number in that file, so that a row can be found by eye), and for
// every map and opcode the number of its last row. Rows of one opcode are neighbours; the decoder walks back from the last one and takes
// the row whose constraints fit. Rows exclude each other, so that the walk's direction means nothing.
#include "tcg/guest/x86/decode.h"
#include "tcg/ir/ir.h"

#define XLATE(fn) bool xlate_##fn(struct xlate *x, const struct x86_insn *i);
#include "tcg/guest/x86/insn.def"

// ---- operand columns ----
#define OPND__ {0, 0, 0, 0}
#define OPND_R(o) {OP_##o, 1}
#define OPND_W(o) {OP_##o, 2}
#define OPND_X(o) {OP_##o, 3}
#define OPND_N(o) {OP_##o, 0}

#define OP_AL OA_REG, OS_b, 0
#define OP_AX OA_REG, OS_w, 0
#define OP_eAX OA_REG, OS_z, 0
#define OP_rAX OA_REG, OS_v, 0
#define OP_Zb OA_REG, OS_b, 0xff
#define OP_Zv OA_REG, OS_v, 0xff
#define OP_CL OA_CL, OS_b, 0
#define OP_DX OA_DX, OS_w, 0
#define OP_ONE OA_1, OS_b, 0
#define OP_ES OA_SEGREG, OS_w, 0
#define OP_CS OA_SEGREG, OS_w, 1
#define OP_SS OA_SEGREG, OS_w, 2
#define OP_DS OA_SEGREG, OS_w, 3
#define OP_FS OA_SEGREG, OS_w, 4
#define OP_GS OA_SEGREG, OS_w, 5
#define OP_ST0 OA_ST, OS_t, 0
#define OP_STi OA_STI, OS_t, 0
#define OP_sIb OA_I, OS_sb, 0
#define P2(l, s) OA_##l, OS_##s, 0
#define OP_Ap P2(A, p)
#define OP_By P2(B, y)
#define OP_Cm P2(C, m)
#define OP_Dm P2(D, m)
#define OP_Eb P2(E, b)
#define OP_Ed P2(E, d)
#define OP_Edb P2(E, db)
#define OP_Edw P2(E, dw)
#define OP_Ev P2(E, v)
#define OP_Evw P2(E, vw)
#define OP_Ew P2(E, w)
#define OP_Ey P2(E, y)
#define OP_Ez P2(E, z)
#define OP_Gb P2(G, b)
#define OP_Gd P2(G, d)
#define OP_Gm P2(G, m)
#define OP_Gv P2(G, v)
#define OP_Gw P2(G, w)
#define OP_Gy P2(G, y)
#define OP_Hsd P2(H, sd)
#define OP_Hss P2(H, ss)
#define OP_Hx P2(H, x)
#define OP_Ib P2(I, b)
#define OP_Iv P2(I, v)
#define OP_Iw P2(I, w)
#define OP_Iz P2(I, z)
#define OP_Jb P2(J, b)
#define OP_Jz P2(J, z)
#define OP_Lx P2(L, x)
#define OP_Ma P2(M, a)
#define OP_Mcl P2(M, cl)
#define OP_Md P2(M, d)
#define OP_Mdq P2(M, dq)
#define OP_Menv P2(M, env)
#define OP_Mfx P2(M, fx)
#define OP_Mn P2(M, n)
#define OP_Mp P2(M, p)
#define OP_Mq P2(M, q)
#define OP_Ms P2(M, s)
#define OP_Msav P2(M, sav)
#define OP_Mt P2(M, t)
#define OP_Mv P2(M, v)
#define OP_Mw P2(M, w)
#define OP_Mx P2(M, x)
#define OP_Mxs P2(M, xs)
#define OP_My P2(M, y)
#define OP_Nq P2(N, q)
#define OP_Ob P2(O, b)
#define OP_Ov P2(O, v)
#define OP_Pq P2(P, q)
#define OP_Qd P2(Q, d)
#define OP_Qq P2(Q, q)
#define OP_Rm P2(R, m)
#define OP_Ry P2(R, y)
#define OP_Sw P2(S, w)
#define OP_Usd P2(U, sd)
#define OP_Uss P2(U, ss)
#define OP_Ux P2(U, x)
#define OP_Vsd P2(V, sd)
#define OP_Vss P2(V, ss)
#define OP_Vx P2(V, x)
#define OP_Wb P2(W, b)
#define OP_Wd P2(W, d)
#define OP_Wdq P2(W, dq)
#define OP_Wdup P2(W, dup)
#define OP_Wq P2(W, q)
#define OP_Wsd P2(W, sd)
#define OP_Wss P2(W, ss)
#define OP_Ww P2(W, w)
#define OP_Wx P2(W, x)
#define OP_Wxe P2(W, xe)
#define OP_Wxh P2(W, xh)
#define OP_Wxq P2(W, xq)
#define OP_Xb P2(X, b)
#define OP_Xv P2(X, v)
#define OP_Xz P2(X, z)
#define OP_Yb P2(Y, b)
#define OP_Yv P2(Y, v)
#define OP_Yz P2(Y, z)

// ---- ModRM form and W/L columns: (must-match mask and value over ModRM, memory or register) ----
#define FORM__ 0, 0, FORM_ANY, 0
#define FORM_M 0, 0, FORM_MEM, 1
#define FORM_R 0, 0, FORM_REG, 1
#define FORM_G(n) 0x38, (n) << 3, FORM_ANY, 1
#define FORM_GM(n) 0x38, (n) << 3, FORM_MEM, 1
#define FORM_GR(n) 0x38, (n) << 3, FORM_REG, 1
#define FORM_RM(b) 0xff, b, FORM_REG, 1

#define WL__ 0, 0
#define WL_L0 WL_L, 0
#define WL_L1 WL_L, WL_L
#define WL_W0 WL_W, 0
#define WL_W1 WL_W, WL_W
#define WL_L0W0 WL_L | WL_W, 0
#define WL_L1W0 WL_L | WL_W, WL_L
#define WL_L1W1 WL_L | WL_W, WL_L | WL_W

#define ROW(n8_, m, p, opc, form, wl, mnem, o1, o2, o3, o4, fr, fw, at, feat, fn)                                             \
    [__LINE__] = {{#mnem, {OPND_##o1, OPND_##o2, OPND_##o3, OPND_##o4}, fr, fw, at, X86F_##feat, xlate_##fn},                  \
                  MAP_##m, opc, PFX_##p, n8_, {FORM_##form}, {WL_##wl}},
const struct insn_row x86_insn_rows[] = {
#define I(...) ROW(0, __VA_ARGS__)
#define I8(...) ROW(1, __VA_ARGS__)
#include "tcg/guest/x86/insn.def"
};
const unsigned x86_insn_row_count = ARRAY_SIZE(x86_insn_rows);

// A later row of the same opcode overrides an earlier one: what is left is the last.
#pragma GCC diagnostic ignored "-Woverride-init"
const u16 x86_insn_last[MAP_COUNT][256] = {
#define I(m, p, opc, ...) [MAP_##m][opc] = __LINE__,
#define I8(m, p, opc, ...) [MAP_##m][opc ... opc + 7] = __LINE__,
#include "tcg/guest/x86/insn.def"
};
