/* 256 stubs of 16 bytes, one per vector, which complete the frame of traps.h with error code and vector, and the common way in and out.
   General registers only are saved: handlers touch nothing else. The stack pointer is 16-byte aligned at the call: the processor aligns
   before pushing 5 words, and 17 more follow. */
    .text
    .balign 16
    .globl trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
    .else
    push $0
    .endif
    push $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

    .balign 16
trap_common:
    push %rax
    push %rbx
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %rbp
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld                     /* the guest's DF may be set */
    mov %rsp, %rdi
    call trap_dispatch
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rbp
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rbx
    pop %rax
    add $16, %rsp
    iretq

/* STI takes effect after the next instruction: an interrupt that is pending now ends the HLT (SDM 2B, STI). traps.c knows the labels. */
    .globl core_sleep, core_sleep_hlt, core_sleep_end
core_sleep:
    sti
core_sleep_hlt:
    hlt
core_sleep_end:
    cli
    ret
    .section .note.GNU-stack,"",@progbits
