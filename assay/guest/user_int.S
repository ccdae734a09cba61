# Integer workloads where the instructions matter. RDI: struct assay_ctx, RSI: n; RAX: the value. Registers that a callee keeps are kept.
        .text
# Straight-line integer: 32 instructions, a loop's DEC and JNZ; four chains that meet.
        .globl  test_alu
        .balign 64
test_alu:
        mov     $0x243f6a8885a308d3, %rax
        mov     $0x13198a2e03707344, %rcx
        mov     $0xa4093822299f31d0, %rdx
        mov     $0x082efa98ec4e6c89, %r8
        .balign 32
1:      add     %rcx, %rax
        xor     %r8, %rdx
        rol     $7, %rcx
        lea     3(%r8,%r8,4), %r8
        imul    $0x6d2b79f5, %rdx, %rdx
        sub     %rdx, %rax
        shr     $3, %rcx
        add     %rax, %r8
        mov     %rax, %r9
        and     $0x0ff0ff0f, %r9d
        or      %r9, %rcx
        neg     %rdx
        movzx   %cl, %r10d
        add     %r10, %rdx
        ror     $11, %r8
        adc     %rcx, %rax
        bswap   %rdx
        xor     %rax, %rcx
        movsx   %r8w, %r11
        sub     %r11, %rax
        shl     $5, %r9
        xor     %r9, %r8
        not     %rcx
        lea     (%rcx,%rdx,2), %r10
        add     %r10, %rax
        sar     $2, %r11
        xor     %r11, %rdx
        cmp     %r8, %rdx
        setb    %r9b
        cmovb   %r10, %rcx
        sbb     $0, %r8
        add     %r9d, %edx
        dec     %rsi
        jnz     1b
        add     %rcx, %rax
        xor     %rdx, %rax
        sub     %r8, %rax
        ret

# Branches on data: eight per iteration, of which five follow random bits (two evenly, three unevenly), and three a pattern.
        .globl  test_branchy
        .balign 64
test_branchy:
        xor     %eax, %eax
        mov     $0x9e3779b97f4a7c15, %rdx
        .balign 32
1:      mov     %rdx, %rcx                       # xorshift64
        shl     $13, %rcx
        xor     %rcx, %rdx
        mov     %rdx, %rcx
        shr     $7, %rcx
        xor     %rcx, %rdx
        mov     %rdx, %rcx
        shl     $17, %rcx
        xor     %rcx, %rdx
        test    $1, %dl
        jz      2f
        add     %rdx, %rax
2:      test    $2, %dl
        jnz     3f
        xor     $0x55, %rax
3:      test    $0x1c, %dl
        jnz     4f
        rol     $3, %rax
4:      test    $0xe0, %dl
        jz      5f
        inc     %rax
5:      test    $0xf00, %edx
        jne     6f
        not     %rax
6:      test    $3, %sil
        jnz     7f
        add     %rsi, %rax
7:      test    $15, %sil
        jz      8f
        xor     %rsi, %rax
8:      dec     %rsi
        jnz     1b
        ret

# Recursion: a binary tree of calls, 127 of them to a tree, each with a frame.
        .globl  test_calls
        .balign 64
test_calls:
        push    %rbx
        push    %r12
        mov     $127, %ecx
        mov     %rsi, %rax
        xor     %edx, %edx
        div     %rcx
        mov     %rax, %rbx
        mov     $1, %eax
1:      mov     $6, %edi
        call    tree
        dec     %rbx
        jnz     1b
        pop     %r12
        pop     %rbx
        ret
        .balign 32
tree:   push    %rbx
        push    %rbp
        mov     %rsp, %rbp
        sub     $16, %rsp
        mov     %rdi, %rbx
        mov     %rax, -8(%rbp)
        test    %edi, %edi
        jz      1f
        lea     -1(%rbx), %edi
        call    tree
        lea     -1(%rbx), %edi
        call    tree
1:      add     -8(%rbp), %rax
        rol     $5, %rax
        add     %rbx, %rax
        leave
        pop     %rbx
        ret

# Calls by a table, sixteen functions in an order that follows the value.
        .globl  test_icalls
        .balign 64
test_icalls:
        push    %rbx
        mov     %rsi, %rbx
        mov     $0x853c49e6748fea9b, %rax
        mov     $0x5851f42d4c957f2d, %rsi
1:      mov     %rax, %rcx
        shr     $60, %rcx
        call    *callees(,%rcx,8)
        imul    %rsi, %rax
        dec     %rbx
        jnz     1b
        pop     %rbx
        ret
        .macro  callee insn:vararg
        .balign 16
9:      \insn
        ret
        .pushsection .rodata
        .quad   9b
        .popsection
        .endm
        .pushsection .rodata
        .balign 64
callees:
        .popsection
        callee  add $1, %rax
        callee  xor $0x1234567, %rax
        callee  sub $0x7654321, %rax
        callee  rol $9, %rax
        callee  not %rax
        callee  bswap %rax
        callee  lea 5(%rax,%rax,2), %rax
        callee  ror $17, %rax
        callee  add %rsi, %rax
        callee  xor %rsi, %rax
        callee  sub %rsi, %rax
        callee  add $0x11111, %rax
        callee  xor $0x77777, %rax
        callee  lea 7(%rax,%rsi), %rax
        callee  rol $31, %rax
        callee  sub $3, %rax

# 64-bit division and the full multiplication that feeds it.
        .globl  test_div
        .balign 64
test_div:
        mov     $0x9e3779b97f4a7c15, %rax
        mov     $0xd1342543de82ef95, %r8
        mov     $0x100000001b3, %rcx
1:      mul     %r8
        xor     %rdx, %rax
        xor     %edx, %edx
        div     %rcx                             # quotient below 2^64: the high half is 0
        add     %rdx, %rax
        add     %r8, %rax
        dec     %rsi
        jnz     1b
        ret

# PUSH and POP, eight each, rotated so that what comes back is not what went.
        .globl  test_stack
        .balign 64
test_stack:
        push    %rbx
        push    %rbp
        mov     $1, %eax
        mov     $2, %ecx
        mov     $3, %edx
        mov     $5, %ebx
        mov     $8, %ebp
        mov     $13, %r8d
        mov     $21, %r9d
        mov     $34, %r10d
1:      push    %rax
        push    %rcx
        push    %rdx
        push    %rbx
        push    %rbp
        push    %r8
        push    %r9
        push    %r10
        pop     %rax
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rbp
        pop     %rbx
        pop     %rdx
        pop     %rcx
        add     %rax, %rcx
        add     %rsi, %rax
        dec     %rsi
        jnz     1b
        rol     $7, %rdx
        add     %rcx, %rax
        xor     %rdx, %rax
        add     %rbx, %rax
        rol     $9, %r8
        xor     %rbp, %rax
        add     %r8, %rax
        xor     %r9, %rax
        add     %r10, %rax
        pop     %rbp
        pop     %rbx
        ret

# Locked instructions on a line of one's own: XADD, CMPXCHG, BTS by turns of one each.
        .globl  test_atomic
        .balign 64
test_atomic:
        mov     (%rdi), %rdi                     # ctx->arena
        movq    $0, (%rdi)
        movq    $0, 8(%rdi)
        xor     %ecx, %ecx
1:      mov     %rsi, %rdx
        lock xadd %rdx, (%rdi)
        add     %rdx, %rcx
        mov     8(%rdi), %rax
        lea     (%rax,%rcx), %rdx
        lock cmpxchg %rdx, 8(%rdi)
        setz    %al
        movzx   %al, %eax
        add     %rax, %rcx
        lock btcq $17, (%rdi)
        adc     $0, %rcx
        dec     %rsi
        jnz     1b
        mov     (%rdi), %rax
        add     8(%rdi), %rax
        xor     %rcx, %rax
        ret

# LOCK XADD on one line that all processors share.
        .globl  test_contended
        .balign 64
test_contended:
        mov     16(%rdi), %rdi                   # ctx->shared
        xor     %eax, %eax
1:      mov     $1, %edx
        lock xadd %rdx, (%rdi)
        dec     %rsi
        jnz     1b
        ret

# CPUID: serialising, and under a hypervisor an exit. What it says differs from machine to machine.
        .globl  test_cpuid
        .balign 64
test_cpuid:
        push    %rbx
        push    %r12
        mov     %rsi, %rdi
        mov     $1, %r12d
1:      xor     %eax, %eax
        xor     %ecx, %ecx
        cpuid
        neg     %rax                             # carry: there are leaves
        adc     %rdi, %r12
        rol     $5, %r12
        dec     %rdi
        jnz     1b
        mov     %r12, %rax
        pop     %r12
        pop     %rbx
        ret

# RDTSC: counts those that did not go back.
        .globl  test_rdtsc
        .balign 64
test_rdtsc:
        xor     %edi, %edi
        xor     %ecx, %ecx
1:      rdtsc
        shl     $32, %rdx
        or      %rdx, %rax
        cmp     %rcx, %rax
        cmc
        adc     $0, %rdi
        mov     %rax, %rcx
        dec     %rsi
        jnz     1b
        mov     %rdi, %rax
        ret
        .section .note.GNU-stack, "", @progbits
