# A multiboot-1 kernel that changes privilege level, mode and page tables hundreds of times in the same code: SYSCALL, SYSRET, INT n,
# IRET, MOV to CR3 and INVLPG lead to code whose mapping has changed meanwhile, whose mode is another at the same address, or where an
# interrupt or a trap is due first. What was found there the last time must not be run again. Exit code on the host: (v << 1) | 1 with
# v = 0x10 if all is well, else the number of the failed check.
        .set ROUNDS, 300
        .set WINDOW, 0x40000000                  # pages 0..7: mapped by `pt`
        .set KCODE, 0x08
        .set KDATA, 0x10
        .set UCODE32, 0x1b
        .set UDATA, 0x23
        .set UCODE, 0x2b
        .set TSS, 0x30
        .set LAPIC, 0xfee00000
        .set IPI, 0x40
        .set RIGHTS, 7                           # present, writable, user
        .set BIG, 0x10000                        # what the second page of a pair adds where the first adds 1

        .code32
        .section .text
        .align  4
        .long   0x1badb002, 0, -0x1badb002
        .globl  _start
_start: mov     $kstack, %esp
        movl    $pdpt + RIGHTS, pml4
        movl    $pdpt_b + RIGHTS, pml4_b
        movl    $pd + RIGHTS, pdpt
        movl    $pd + RIGHTS, pdpt_b
        movl    $0x80 + RIGHTS, pd               # 2 MiB each
        movl    $0x200080 + RIGHTS, pd + 8
        movl    $pd_window + RIGHTS, pdpt + 8
        movl    $pt + RIGHTS, pd_window
        movl    $pd_window_b + RIGHTS, pdpt_b + 8
        movl    $pt_b + RIGHTS, pd_window_b
        movl    $pd_high + RIGHTS, pdpt + 24
        movl    $pd_high + RIGHTS, pdpt_b + 24
        movl    $LAPIC + 0x9b, pd_high + (LAPIC >> 21 & 511) * 8
        mov     $0x20, %eax                      # PAE
        mov     %eax, %cr4
        mov     $pml4, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx                # EFER: LME, SCE
        mov     $0x101, %eax
        xor     %edx, %edx
        wrmsr
        mov     $0x80000011, %eax
        mov     %eax, %cr0
        lgdt    gdtr
        ljmp    $KCODE, $1f
        .code64
1:      mov     $KDATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        movq    $trap_stack, tss + 4
        mov     $tss, %eax                       # below 16 MiB
        mov     %ax, gdt_tss + 2
        shr     $16, %eax
        mov     %al, gdt_tss + 4
        mov     $TSS, %eax
        ltr     %ax
        lea     gates(%rip), %rsi                # vector, DPL, handler
1:      lodsq
        test    %rax, %rax
        jz      1f
        mov     %eax, %ebx
        and     $0xff, %ebx
        shl     $4, %ebx
        mov     %eax, %edx
        and     $0x6000, %edx
        or      $0x8e00, %edx
        lodsq
        mov     %ax, idt(%rbx)
        movw    $KCODE, idt + 2(%rbx)
        mov     %dx, idt + 4(%rbx)
        shr     $16, %rax
        mov     %eax, idt + 6(%rbx)
        jmp     1b
1:      lidt    idtr
        mov     $0xc0000081, %ecx                # STAR, FMASK
        xor     %eax, %eax
        mov     $0x18 << 16 | KCODE, %edx
        wrmsr
        mov     $0xc0000084, %ecx
        mov     $0x40700, %eax                   # AC, IF, TF, DF
        xor     %edx, %edx
        wrmsr
        mov     $LAPIC, %eax
        movl    $0x1ff, 0xf0(%rax)

        mov     $1, %edi                         # 1: SYSCALL, 2: INT n, into a page that is another one each round
        mov     $WINDOW, %eax
        call    set_lstar
        mov     $syscalls, %r12
        mov     $sys_a, %r13d
        mov     $sys_b, %r14d
        call    remapped
        inc     %edi
        mov     $ints, %r12
        mov     $int_a, %r13d
        mov     $int_b, %r14d
        call    remapped

        mov     $3, %edi                         # 3: SYSRET, 4: IRET, into a page that the handler has exchanged
        mov     $flip_sysret, %eax
        call    set_lstar
        mov     $back_sys_a, %r13d
        mov     $back_sys_b, %r14d
        call    returned
        inc     %edi
        mov     $back_int_a, %r13d
        mov     $back_int_b, %r14d
        call    returned

        mov     $5, %edi                         # 5: one address, 64- and 32-bit code
        xor     %eax, %eax
        xor     %ebx, %ebx
        mov     $ROUNDS, %ebp
1:      mov     $both_modes, %r12
        mov     $UCODE, %r10d
        call    user
        mov     $UCODE32, %r10d
        call    user
        dec     %ebp
        jnz     1b
        cmp     $-ROUNDS, %eax
        jne     leave
        cmp     $2 * ROUNDS, %ebx
        jne     leave

        mov     $6, %edi                         # 6: one address, CPL 0 and 3: with CR4.TSD RDTSC faults in one of them; without, in neither
        xor     %r8d, %r8d                       # faults
        xor     %r9d, %r9d                       # faults that should have been
        mov     $ROUNDS, %ebp
1:      mov     $0x20, %eax
        test    $64, %ebp
        jz      2f
        mov     $0x24, %eax
        inc     %r9d
2:      mov     %rax, %cr4
        mov     $both_rings, %r12
        mov     $leave_user, %r15
        mov     $UCODE, %r10d
        call    user
        mov     $3f, %r15
        push    $KDATA
        lea     8(%rsp), %rax
        push    %rax
        push    $2
        push    $KCODE
        push    %r12
        iretq
3:      dec     %ebp
        jnz     1b
        cmp     %r9d, %r8d
        jne     leave

        mov     $7, %edi                         # 7: IRET, 8: SYSRET open the way for an interrupt, which comes before the next instruction
        mov     $ROUNDS, %ebp
1:      movq    $0, seen
        mov     $LAPIC, %eax
        movl    $0x40000 | IPI, 0x300(%rax)
3:      testl   $1, 0x220(%rax)                  # IRR; and the rest is another block, which knows nothing of the interrupt
        jz      3b
        push    $KDATA
        lea     8(%rsp), %rax
        push    %rax
        push    $0x202
        push    $KCODE
        push    $2f
        iretq
2:      cli
        cmpq    $2b, seen
        jne     leave
        dec     %ebp
        jnz     1b
        inc     %edi
        mov     $send_sysret, %eax
        call    set_lstar
        mov     $ROUNDS, %ebp
1:      movq    $0, seen
        mov     $once, %r12
        mov     $UCODE, %r10d
        call    user
        cmpq    $once_back, seen
        jne     leave
        dec     %ebp
        jnz     1b

        mov     $9, %edi                         # 9: IRET sets TF: the trap comes behind the instruction that follows
        mov     $ROUNDS, %ebp
1:      movq    $0, seen
        push    $KDATA
        lea     8(%rsp), %rax
        push    %rax
        push    $0x102
        push    $KCODE
        push    $2f
        iretq
2:      nop
3:      nop
        cmpq    $3b, seen
        jne     leave
        dec     %ebp
        jnz     1b

        mov     $10, %edi                        # 10: MOV to CR3, 11: INVLPG exchange the page that they are on
        movl    $own_a + RIGHTS, pt + 8 * 3
        movl    $own_b + RIGHTS, pt_b + 8 * 3
        xor     %ebx, %ebx
        mov     $ROUNDS, %ebp
        mov     $2f, %r15
        mov     $1f, %r14
1:      mov     $pml4_b, %esi
        mov     $WINDOW + 0x3000, %eax
        jmp     *%rax
2:      mov     $pml4, %esi
        mov     $3f, %r15
        jmp     *%rax
3:      mov     $2b, %r15
        dec     %ebp
        jnz     1b
        cmp     $ROUNDS * (BIG + 1), %rbx
        jne     leave
        inc     %edi
        xor     %ebx, %ebx
        mov     $ROUNDS, %ebp
1:      mov     $own_b + RIGHTS, %esi
        mov     $2f, %r15
        mov     $WINDOW + 0x3000 + own_invlpg - own_a, %eax
        jmp     *%rax
2:      mov     $own_a + RIGHTS, %esi
        mov     $3f, %r15
        jmp     *%rax
3:      dec     %ebp
        jnz     1b
        cmp     $ROUNDS * (BIG + 1), %rbx
        jne     leave

        mov     $12, %edi                        # 12: CR0.TS, set by MOV, cleared by CLTS in the handler
        xor     %r8d, %r8d
        mov     $ROUNDS, %ebp
1:      mov     %cr0, %rax
        or      $8, %rax
        mov     %rax, %cr0
        fnop
        dec     %ebp
        jnz     1b
        cmp     $ROUNDS, %r8d
        jne     leave
        mov     $13, %edi                        # 13: RDTSC reads what RDMSR does, after WRMSR too (which QEMU ignores); RDTSCP knows TSC_AUX
        mov     $0x10, %ecx
        mov     $0x12345, %edx
        xor     %eax, %eax
        wrmsr
        rdmsr
        mov     %edx, %ebx
        rdtsc
        sub     %ebx, %edx
        cmp     $1, %edx                         # 2^32 ticks are a second at least
        ja      leave
        mov     $0xc0000103, %ecx                # TSC_AUX
        xor     %edx, %edx
        mov     $77, %eax
        wrmsr
        rdtscp
        sub     %ebx, %edx
        cmp     $1, %edx
        ja      leave
        cmp     $77, %rcx
        jne     leave
        mov     $0x10, %edi
leave:  mov     %edi, %eax
        mov     $0xf4, %dx
        out     %al, %dx
        cli
1:      hlt
        jmp     1b

set_lstar:
        mov     $0xc0000082, %ecx
        xor     %edx, %edx
        wrmsr
        ret

# R12: code, R10: its segment. Comes back by INT 0x80, other registers as that leaves them.
user:   mov     %rsp, back
        push    $UDATA
        push    $ustack
        push    $2
        push    %r10
        push    %r12
        iretq
by_int80:
        mov     back, %rsp
        ret

# Page 0 of the window is R13's and R14's in turn, told by INVLPG and by CR3; R12 enters it 64 times.
remapped:
        mov     $ROUNDS, %ebp
1:      xor     %ebx, %ebx
        lea     RIGHTS(%r13), %eax
        mov     %rax, pt
        invlpg  WINDOW
        mov     $UCODE, %r10d
        call    user
        cmp     $64, %rbx
        jne     leave
        lea     RIGHTS(%r14), %eax
        mov     %rax, pt
        mov     %cr3, %rax
        mov     %rax, %cr3
        mov     $UCODE, %r10d
        call    user
        cmp     $64 * BIG + 64, %rbx
        jne     leave
        dec     %ebp
        jnz     1b
        ret

# Page 1 of the window is R13's, and R14's when the handler of what it does comes back.
returned:
        mov     $ROUNDS, %ebp
1:      xor     %ebx, %ebx
        lea     RIGHTS(%r13), %eax
        mov     %rax, pt + 8
        invlpg  WINDOW + 0x1000
        mov     $WINDOW + 0x1000, %r12d
        mov     $UCODE, %r10d
        call    user
        cmp     $1 + BIG, %rbx
        jne     leave
        dec     %ebp
        jnz     1b
        ret

syscalls:
        mov     $64, %esi
1:      syscall
        dec     %esi
        jnz     1b
leave_user:
        int     $0x80
ints:   mov     $64, %esi
1:      int     $0x82
        dec     %esi
        jnz     1b
        int     $0x80
once:   syscall
once_back:
        int     $0x80
both_modes:
        .byte   0x48, 0xff, 0xc3                 # inc %rbx; or dec %eax, inc %ebx
        int     $0x80
both_rings:
        rdtsc
        jmp     *%r15

flip:   lea     RIGHTS(%r14), %eax
        mov     %rax, pt + 8
        invlpg  WINDOW + 0x1000
        ret
flip_sysret:
        mov     %rsp, %r10
        mov     $trap_stack, %rsp
        call    flip
        mov     %r10, %rsp
        sysretq
flip_iret:
        call    flip
        iretq
send_sysret:
        mov     $LAPIC, %eax
        movl    $0x40000 | IPI, 0x300(%rax)
        jmp     1f
1:      or      $0x200, %r11
        sysretq
on_ipi: push    %rax
        mov     8(%rsp), %rax
        mov     %rax, seen
        mov     $LAPIC, %eax
        movl    $0, 0xb0(%rax)
        pop     %rax
        iretq
on_db:  push    %rax
        mov     8(%rsp), %rax
        mov     %rax, seen
        pop     %rax
        andq    $~0x100, 16(%rsp)
        iretq
on_gp:  inc     %r8d                             # RDTSC, two bytes long
        addq    $2, 8(%rsp)
        add     $8, %rsp
        iretq
on_nm:  inc     %r8d
        clts
        iretq

        .macro  pages name, code:vararg
        .align  4096
\name\()_a:
        .set    n, 1
        \code
        .align  4096
\name\()_b:
        .set    n, BIG
        \code
        .align  4096
        .endm
        .macro  add_n
        .byte   0x48, 0x81, 0xc3                 # add $n, %rbx: four bytes of n always
        .long   n
        .endm
        .macro  handler back
        add_n
        \back
        .endm
        .macro  half and
        add_n
        \and
        add_n
        int     $0x80
        .endm
        .macro  own
        mov     %rsi, %cr3
        add_n
        jmp     *%r15
        .if     n == 1
own_invlpg:
        .endif
        mov     %rsi, pt + 8 * 3
        invlpg  WINDOW + 0x3000
        add_n
        jmp     *%r15
        .endm
        pages   sys, handler sysretq
        pages   int, handler iretq
        pages   back_sys, half syscall
        pages   back_int, half "int $0x83"
        pages   own, own

        .section .data
        .align  16
gdt:    .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff
gdt_tss: .quad  0x0000890000000067, 0
gdtr:   .word   . - gdt - 1
        .long   gdt
idtr:   .word   256 * 16 - 1
        .quad   idt
        .align  8
gates:  .quad   1, on_db, 7, on_nm, 13, on_gp, IPI, on_ipi, 0x6080, by_int80, 0x6082, WINDOW, 0x6083, flip_iret, 0
        .section .bss
        .align  4096
pml4:   .skip   4096
pml4_b: .skip   4096
pdpt:   .skip   4096
pdpt_b: .skip   4096
pd:     .skip   4096
pd_high: .skip  4096
pd_window: .skip 4096
pd_window_b: .skip 4096
pt:     .skip   4096
pt_b:   .skip   4096
idt:    .skip   4096
tss:    .skip   104
seen:   .skip   8
back:   .skip   8
        .align  16
        .skip   4096
kstack: .skip   4096
trap_stack: .skip 4096
ustack:
        .section .note.GNU-stack, "", @progbits
