# Floating point and vectors. Values go through the logistic map, x := 3.9 x (1 - x): it never settles, so that every step is in the
# result, and IEEE 754 says each bit of it. RDI: struct assay_ctx, RSI: n; RAX: the value.
        .section .rodata
        .balign 32
rate_pd:  .double 3.9, 3.9
one_pd:   .double 1.0, 1.0
rate_ps:  .float 3.9, 3.9, 3.9, 3.9, 3.9, 3.9, 3.9, 3.9
one_ps:   .float 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0
start_pd: .double 0.31, 0.32, 0.33, 0.34, 0.35, 0.36, 0.37, 0.38
start_ps: .float 0.21, 0.22, 0.23, 0.24, 0.25, 0.26, 0.27, 0.28, 0.41, 0.42, 0.43, 0.44, 0.45, 0.46, 0.47, 0.48
ints:     .long 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0x082efa98, 0xec4e6c89
odd:      .long 0x9e3779b1, 0x85ebca6b, 0xc2b2ae35, 0x27d4eb2f, 0x9e3779b1, 0x85ebca6b, 0xc2b2ae35, 0x27d4eb2f
shifts:   .long 3, 5, 7, 11, 13, 17, 19, 23
order:    .long 3, 6, 1, 4, 7, 2, 5, 0
two53:    .double 9007199254740992.0

        .text
# RAX := mix of both halves of an XMM register.
        .macro  take reg
        movq    \reg, %rcx
        punpckhqdq \reg, \reg
        movq    \reg, %rdx
        xor     %rcx, %rax
        rol     $13, %rax
        add     %rdx, %rax
        rol     $19, %rax
        .endm

# Scalar double, one chain: the time of SUBSD, MULSD, MULSD one after the other.
        .globl  test_double_lat
        .balign 64
test_double_lat:
        movsd   start_pd, %xmm0
        movsd   rate_pd, %xmm2
        movsd   one_pd, %xmm3
1:      movapd  %xmm3, %xmm1
        subsd   %xmm0, %xmm1
        mulsd   %xmm2, %xmm0
        mulsd   %xmm1, %xmm0
        dec     %rsi
        jnz     1b
        movq    %xmm0, %rax
        ret

# Scalar double, eight chains beside each other.
        .globl  test_double_thr
        .balign 64
test_double_thr:
        .irp    k, 0, 1, 2, 3, 4, 5, 6, 7
        movsd   start_pd + 8 * \k, %xmm\k
        .endr
        movsd   rate_pd, %xmm14
        movsd   one_pd, %xmm15
        .balign 32
1:      .irp    k, 0, 1, 2, 3, 4, 5, 6, 7
        movapd  %xmm15, %xmm8
        subsd   %xmm\k, %xmm8
        mulsd   %xmm14, %xmm\k
        mulsd   %xmm8, %xmm\k
        .endr
        dec     %rsi
        jnz     1b
        xor     %eax, %eax
        .irp    k, 0, 1, 2, 3, 4, 5, 6, 7
        take    %xmm\k
        .endr
        ret

# DIVSD, SQRTSD, conversions both ways, a compare and a branch on it.
        .globl  test_double_div
        .balign 64
test_double_div:
        movsd   start_pd, %xmm0
        movsd   rate_pd, %xmm2
        movsd   one_pd, %xmm3
        xorpd   %xmm5, %xmm5
        xor     %eax, %eax
        .balign 32
1:      movapd  %xmm3, %xmm1
        subsd   %xmm0, %xmm1
        mulsd   %xmm2, %xmm0
        mulsd   %xmm1, %xmm0
        sqrtsd  %xmm0, %xmm4
        addsd   %xmm3, %xmm4
        movapd  %xmm0, %xmm6
        divsd   %xmm4, %xmm6
        addsd   %xmm6, %xmm5
        ucomisd %xmm1, %xmm0
        jb      2f
        cvttsd2si %xmm5, %rcx
        add     %rcx, %rax
        cvtsi2sd %rsi, %xmm7
        addsd   %xmm7, %xmm5
2:      dec     %rsi
        jnz     1b
        take    %xmm0
        take    %xmm5
        ret

# Packed single, four registers of four.
        .globl  test_sse_float
        .balign 64
test_sse_float:
        .irp    k, 0, 1, 2, 3
        movaps  start_ps + 16 * \k, %xmm\k
        .endr
        movaps  rate_ps, %xmm14
        movaps  one_ps, %xmm15
        xorps   %xmm10, %xmm10
        .balign 32
1:      .irp    k, 0, 1, 2, 3
        movaps  %xmm15, %xmm8
        subps   %xmm\k, %xmm8
        mulps   %xmm14, %xmm\k
        mulps   %xmm8, %xmm\k
        .endr
        movaps  %xmm0, %xmm9                     # lanes change places
        shufps  $0x4e, %xmm1, %xmm0
        shufps  $0x4e, %xmm9, %xmm1
        minps   %xmm15, %xmm2
        maxps   %xmm2, %xmm10
        dec     %rsi
        jnz     1b
        xor     %eax, %eax
        .irp    k, 0, 1, 2, 3, 10
        take    %xmm\k
        .endr
        ret

# Packed integers of all sizes: additions, multiplications, shifts, shuffles, compares, packing, through memory at the end of each turn.
        .globl  test_sse_int
        .balign 64
test_sse_int:
        mov     (%rdi), %rdi                     # ctx->arena
        movdqa  ints, %xmm0
        movdqa  ints + 16, %xmm1
        movdqa  odd, %xmm2
        movdqa  %xmm0, 64(%rdi)
        movl    $0, 80(%rdi)
        .balign 32
1:      paddd   %xmm2, %xmm0
        movdqa  %xmm0, %xmm3
        pmuludq %xmm2, %xmm3
        pshufd  $0x39, %xmm3, %xmm3
        pxor    %xmm3, %xmm1
        movdqa  %xmm1, %xmm4
        psrld   $15, %xmm4
        pslld   $7, %xmm1
        por     %xmm4, %xmm1
        paddw   %xmm1, %xmm0
        pmullw  %xmm2, %xmm1
        movdqa  %xmm0, %xmm5
        pcmpgtd %xmm1, %xmm5
        pand    %xmm2, %xmm5
        psubb   %xmm5, %xmm0
        punpcklbw %xmm1, %xmm5
        paddq   %xmm5, %xmm1
        pmovmskb %xmm1, %ecx
        add     %ecx, 80(%rdi)
        paddd   64(%rdi), %xmm0
        movdqa  %xmm0, 64(%rdi)
        dec     %rsi
        jnz     1b
        xor     %eax, %eax
        mov     80(%rdi), %eax
        take    %xmm0
        take    %xmm1
        ret

# 256 bits: single and integers beside each other.
        .globl  test_avx2
        .balign 64
test_avx2:
        vmovaps start_ps, %ymm0
        vmovaps start_ps + 32, %ymm1
        vmovaps rate_ps, %ymm14
        vmovaps one_ps, %ymm15
        vmovdqa ints, %ymm2
        vmovdqa odd, %ymm3
        vmovdqa shifts, %ymm4
        vmovdqa order, %ymm5
        .balign 32
1:      vsubps  %ymm0, %ymm15, %ymm8
        vmulps  %ymm14, %ymm0, %ymm0
        vmulps  %ymm8, %ymm0, %ymm0
        vsubps  %ymm1, %ymm15, %ymm9
        vmulps  %ymm14, %ymm1, %ymm1
        vmulps  %ymm9, %ymm1, %ymm1
        vpaddd  %ymm3, %ymm2, %ymm2
        vpmulld %ymm3, %ymm2, %ymm6
        vpsrlvd %ymm4, %ymm6, %ymm7
        vpxor   %ymm7, %ymm2, %ymm2
        vpermd  %ymm2, %ymm5, %ymm2
        vpaddq  %ymm6, %ymm2, %ymm2
        vpermq  $0x4e, %ymm0, %ymm0
        vblendps $0x33, %ymm0, %ymm1, %ymm10
        vblendps $0x33, %ymm1, %ymm0, %ymm0
        vmovaps %ymm10, %ymm1
        dec     %rsi
        jnz     1b
        vextracti128 $1, %ymm0, %xmm3
        vextracti128 $1, %ymm1, %xmm4
        vextracti128 $1, %ymm2, %xmm5
        vzeroupper
        xor     %eax, %eax
        .irp    k, 0, 1, 2, 3, 4, 5
        take    %xmm\k
        .endr
        ret

# x87 as old numerical code has it: the map in 80 bits, a square root, a quotient, a sum in memory, rounding to an integer and back, a
# compare. No transcendental function: their last bits are each processor's own.
        .globl  test_x87
        .balign 64
test_x87:
        mov     (%rdi), %rdi
        fldl    start_pd                         # st0 = x
        fldz
        fstpl   (%rdi)                           # the sum
        xor     %eax, %eax
        .balign 32
1:      fld1
        fsub    %st(1), %st                      # 1 - x, x
        fmul    %st(1), %st
        fmull   rate_pd                          # x', x
        fxch    %st(1)
        fsqrt                                    # sqrt x, x'
        fld     %st(1)
        fchs
        fabs
        fdiv    %st(1), %st                      # x' / sqrt x, sqrt x, x'
        faddl   (%rdi)
        fstl    (%rdi)                           # the sum, sqrt x, x'
        frndint
        fistpll 8(%rdi)                          # sqrt x, x'
        fildll  8(%rdi)
        fstps   16(%rdi)
        mov     8(%rdi), %rcx
        xor     16(%rdi), %ecx
        add     %rcx, %rax
        fcomip  %st(1), %st                      # x'
        jb      2f
        rol     $3, %rax
2:      dec     %rsi
        jnz     1b
        fmull   two53
        fistpll 8(%rdi)
        add     8(%rdi), %rax
        rol     $17, %rax
        xor     (%rdi), %rax
        ret
        .section .note.GNU-stack, "", @progbits
