# Ways in and out of the payload's kernel: trap stubs, the handlers that are measured, SYSCALL, ring 3, the native entries.
#
# Handlers of what a test asked for read the TSC first of all and are short; everything else goes to trap() in C. GS leads to struct cpu in
# ring 3 too (no test touches it), so handlers need no SWAPGS; the system call does one each way all the same, as every kernel's does.
#include "assay/guest/asm.h"
        .text
        .globl  trap_stubs
        .balign 16
trap_stubs:
        .set    vector, 0
        .rept   256
        .balign 16
        .if     vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
        .else
        push    $0
        .endif
        push    $vector
        jmp     trap_common
        .set    vector, vector + 1
        .endr

        .balign 16
trap_common:
        push    %rax
        push    %rcx
        push    %rdx
        push    %rsi
        push    %rdi
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %rbx
        mov     %rsp, %rdi
        mov     %rsp, %rbx
        and     $-16, %rsp
        cld
        call    trap
        mov     %rbx, %rsp
        pop     %rbx
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rdi
        pop     %rsi
        pop     %rdx
        pop     %rcx
        pop     %rax
        add     $16, %rsp
        iretq

# End of interrupt, by memory or MSR. Clobbers RAX and RDX.
        .macro  eoi
        cmpq    $0, %gs:CPU_X2APIC
        jne     8f
        movl    $0, LAPIC_VIRT + 0xb0
        jmp     9f
8:      push    %rcx
        mov     $0x80b, %ecx
        xor     %eax, %eax
        xor     %edx, %edx
        wrmsr
        pop     %rcx
9:
        .endm

# VEC_TIMER, VEC_IPI: when it came, EOI, that it came.
        .globl  isr_event
        .balign 64
isr_event:
        push    %rax
        push    %rdx
        rdtsc
        shl     $32, %rdx
        or      %rdx, %rax
        mov     %rax, %gs:CPU_TSC
        eoi
        incq    %gs:CPU_HITS
        pop     %rdx
        pop     %rax
        iretq

        .globl  isr_wake
        .balign 64
isr_wake:
        push    %rax
        push    %rdx
        eoi
        incq    %gs:CPU_WAKES
        pop     %rdx
        pop     %rax
        iretq

# #PF: maps the page, if it is one of the test's.
        .globl  isr_fault
        .balign 64
isr_fault:
        push    %rax
        push    %rcx
        push    %rdx
        mov     %gs:CPU_FAULT_PT, %rdx
        test    %rdx, %rdx
        jz      1f
        mov     %cr2, %rcx
        mov     $FAULT_REGION, %rax
        sub     %rax, %rcx
        shr     $12, %rcx
        cmp     $FAULT_PAGES, %rcx
        jae     1f
        mov     %rcx, %rax
        shl     $12, %rax
        add     %gs:CPU_FAULT_PHYS, %rax
        or      $7, %rax                         # present, writable, user
        mov     %rax, (%rdx,%rcx,8)
        incq    %gs:CPU_FAULTS
        pop     %rdx
        pop     %rcx
        pop     %rax
        add     $8, %rsp
        iretq
1:      pop     %rdx
        pop     %rcx
        pop     %rax
        push    $14
        jmp     trap_common

        .globl  isr_int80
        .balign 64
isr_int80:
        lea     1(%rdi), %rax
        iretq

# EAX: 0 = returns RDI + 1; 1 = unmaps the page-fault test's pages. RCX and R11 are the processor's, the others are kept.
        .globl  syscall_entry
        .balign 64
syscall_entry:
        swapgs
        mov     %rsp, %gs:CPU_USER_RSP
        mov     %gs:CPU_TRAP_STACK, %rsp
        push    %rcx
        push    %r11
        test    %eax, %eax
        jnz     2f
        lea     1(%rdi), %rax
1:      pop     %r11
        pop     %rcx
        mov     %gs:CPU_USER_RSP, %rsp
        swapgs
        sysretq
2:      mov     %gs:CPU_FAULT_PT, %rdx
        mov     $FAULT_REGION, %rax
        xor     %ecx, %ecx
3:      movq    $0, (%rdx,%rcx,8)
        invlpg  (%rax)
        add     $4096, %rax
        inc     %ecx
        cmp     $FAULT_PAGES, %ecx
        jb      3b
        xor     %eax, %eax
        jmp     1b

# RDI: struct timed. Everybody's, in every ring and hosted too.
        .globl  timed_call
        .balign 64
timed_call:
        push    %rbx
        mov     %rdi, %rbx
        fninit
        ldmxcsr mxcsr_default(%rip)
# A scalar instruction keeps its register's upper half. Where processors know that to be zero they need not wait for its last value.
        .irp    k, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        xorps   %xmm\k, %xmm\k
        .endr
        lfence
        rdtsc
        shl     $32, %rdx
        or      %rdx, %rax
        mov     %rax, TIMED_START(%rbx)
        lfence
        mov     TIMED_CTX(%rbx), %rdi
        mov     TIMED_N(%rbx), %rsi
        call    *TIMED_FN(%rbx)
        mov     %rax, TIMED_VALUE(%rbx)
        mfence                                   # stores have happened, too
        lfence
        rdtsc
        shl     $32, %rdx
        or      %rdx, %rax
        mov     %rax, TIMED_END(%rbx)
        fninit
        ldmxcsr mxcsr_default(%rip)
        pop     %rbx
        ret
        .balign 4
mxcsr_default: .long 0x1f80

        .macro  push_kept
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        .endm
        .macro  pop_kept
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        .endm

# RDI: struct timed, RSI: RFLAGS.
        .globl  ring3_run
        .balign 64
ring3_run:
        push_kept
        mov     %rsp, %gs:CPU_RING0_RSP
        push    $SEL_UDATA
        push    %gs:CPU_USER_STACK
        push    %rsi
        push    $SEL_UCODE
        push    $1f
        iretq
1:      call    timed_call
        int     $VEC_LEAVE
        ud2
        .globl  isr_leave
isr_leave:
        mov     %gs:CPU_RING0_RSP, %rsp
        pop_kept
        ret

# RDI: processor. The caller's stack is left at once: its addresses end with its page tables.
        .globl  native_enter, native_enter_ap
native_enter:
        mov     $native_main, %edx
        jmp     1f
native_enter_ap:
        mov     $native_ap_main, %edx
1:      push_kept
        imul    $CPU_SIZE, %rdi, %rbx
        add     $cpus, %rbx
        mov     %rsp, CPU_EXIT_RSP(%rbx)
        mov     %cr0, %rax
        mov     %rax, CPU_EXIT_CR0(%rbx)
        mov     %cr3, %rax
        mov     %rax, CPU_EXIT_CR3(%rbx)
        mov     %cr4, %rax
        mov     %rax, CPU_EXIT_CR4(%rbx)
        mov     %edx, %esi
        mov     $0xc0000080, %ecx
        rdmsr
        shl     $32, %rdx
        or      %rdx, %rax
        mov     %rax, CPU_EXIT_EFER(%rbx)
        imul    $STACKS_SIZE, %rdi, %rax
        lea     stacks + STACK_KERNEL_TOP(%rax), %rsp
        xor     %ebp, %ebp
        cld
        call    *%rsi
        ud2

# RDI: struct cpu. CR4 goes first: PCIDE may be set only while CR3's low bits are 0, as the payload's are (SDM 3A 4.10.1).
        .globl  native_leave
native_leave:
        cli
        mov     %rdi, %rbx
        mov     $0xc0000080, %ecx
        mov     CPU_EXIT_EFER(%rbx), %eax
        mov     CPU_EXIT_EFER + 4(%rbx), %edx
        wrmsr
        mov     CPU_EXIT_CR0(%rbx), %rax
        mov     %rax, %cr0
        mov     CPU_EXIT_CR4(%rbx), %rax
        mov     %rax, %cr4
        mov     CPU_EXIT_RSP(%rbx), %rdx
        mov     CPU_EXIT_CR3(%rbx), %rax
        mov     %rax, %cr3
        mov     %rdx, %rsp
        pop_kept
        ret

        .bss
        .globl  cpus, stacks
        .balign 4096
stacks: .skip   STACKS_SIZE * 64
        .balign CPU_SIZE
cpus:   .skip   CPU_SIZE * 64
        .section .note.GNU-stack, "", @progbits
