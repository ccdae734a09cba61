# Memory workloads where the instructions matter. RDI: address, RSI: bytes, a multiple of 64, unless said otherwise.
        .text
# RDI: where, RSI: steps. Each load's address is the one before it's value.
        .globl  chase
        .balign 64
chase:  mov     %rdi, %rax
        .balign 32
1:      mov     (%rax), %rax
        dec     %rsi
        jnz     1b
        ret

# RDX: value so far.
        .globl  read_block
        .balign 64
read_block:
        mov     %rdx, %rax
        xor     %ecx, %ecx
        .balign 32
1:      add     (%rdi), %rax
        add     8(%rdi), %rcx
        add     16(%rdi), %rax
        add     24(%rdi), %rcx
        add     32(%rdi), %rax
        add     40(%rdi), %rcx
        add     48(%rdi), %rax
        add     56(%rdi), %rcx
        add     $64, %rdi
        sub     $64, %rsi
        jnz     1b
        rol     $1, %rax
        add     %rcx, %rax
        ret

# RDX: value; each word gets it plus its distance from the end.
        .globl  write_block
        .balign 64
write_block:
        add     %rsi, %rdx
        .balign 32
1:      mov     %rdx, (%rdi)
        mov     %rdx, 8(%rdi)
        mov     %rdx, 16(%rdi)
        mov     %rdx, 24(%rdi)
        mov     %rdx, 32(%rdi)
        mov     %rdx, 40(%rdi)
        mov     %rdx, 48(%rdi)
        mov     %rdx, 56(%rdi)
        sub     $64, %rdx
        add     $64, %rdi
        sub     $64, %rsi
        jnz     1b
        ret

# RDI: destination, RSI: source, RDX: bytes, RCX: times; source and destination change places each time.
        .globl  movs_block
        .balign 64
movs_block:
        mov     %rcx, %rax
        mov     %rdi, %r8
        mov     %rsi, %r9
        .balign 32
1:      mov     %r8, %rdi
        mov     %r9, %rsi
        mov     %rdx, %rcx
        shr     $3, %rcx
        rep movsq
        incq    (%r8)                            # what is copied back is not what was there
        xchg    %r8, %r9
        dec     %rax
        jnz     1b
        ret

# RDI: struct assay_ctx, RSI: n copies of 1 to 32 bytes by REP MOVSB, from places in the arena that follow a pattern.
        .globl  test_movs_small
        .balign 64
test_movs_small:
        mov     (%rdi), %r8
        mov     %rsi, %rdx
        xor     %eax, %eax
        .balign 32
1:      imul    $29, %edx, %r9d
        and     $0xfff, %r9d
        lea     (%r8,%r9), %rsi
        lea     0x2000(%r8,%r9), %rdi
        mov     %edx, %ecx
        and     $31, %ecx
        inc     %ecx
        rep movsb
        add     -1(%rdi), %al
        rol     $7, %rax
        dec     %rdx
        jnz     1b
        ret

# RDI: address, RSI: bytes, RDX: value, RCX: times.
        .globl  stos_block
        .balign 64
stos_block:
        mov     %rdi, %r8
        mov     %rcx, %r9
        mov     %rdx, %rax
        .balign 32
1:      mov     %r8, %rdi
        mov     %rsi, %rcx
        shr     $3, %rcx
        rep stosq
        lea     1(%rax,%rax,2), %rax
        dec     %r9
        jnz     1b
        ret
        .section .note.GNU-stack, "", @progbits
