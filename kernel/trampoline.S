/* The first instructions of every core but the boot core. A STARTUP IPI sets CS:IP to page:0 in real mode, with the page's number
   in the IPI (SDM 3A 9.4.4); ap.c has copied trampoline..trampoline_end to that page and filled in the words at its end. From
   there by protected mode to long mode, on page tables that are the kernel's own, with the first 2 MiB at their physical address
   added: read-only and executable, so that writes go by the direct map. The way ends at ap_entry, in the kernel's image.

   The one core that takes the record out of `record' goes on; whoever finds none (it was given up as silent and came late) halts. */
    .set DIRECT_MAP, 0xffff800000000000
    .set CORE_CR3, 8                               /* struct core; core.h pins both */
    .set CORE_STACK, 16

    .section .rodata
    .balign 16
    .globl trampoline, trampoline_end, trampoline_words
trampoline:
    .code16
    cli
    cld
    xor %ebx, %ebx
    mov %cs, %bx
    mov %bx, %ds
    shl $4, %ebx                                   /* EBX: the page's linear address, from here to the end */
    lea gdt - trampoline(%ebx), %eax
    mov %eax, gdtr - trampoline + 2                /* the words need no relocation by the boot core */
    lea 1f - trampoline(%ebx), %eax
    mov %eax, far32 - trampoline
    lea 2f - trampoline(%ebx), %eax
    mov %eax, far64 - trampoline
    lgdtl gdtr - trampoline
    mov $0x11, %eax                                /* PE, ET; CD and NW, set by a reset, cleared */
    mov %eax, %cr0
    ljmpl *far32 - trampoline

    .code32
1:  mov $24, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov cr4 - trampoline(%ebx), %eax
    mov %eax, %cr4
    mov cr3 - trampoline(%ebx), %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $(1 << 8 | 1 << 11), %eax                   /* EFER: LME, NXE */
    wrmsr
    mov $0x80010011, %eax                          /* PG, WP */
    mov %eax, %cr0
    ljmpl *far64 - trampoline(%ebx)

    .code64
2:  mov %ebx, %ebx
    movabs $DIRECT_MAP, %rdx
    xor %edi, %edi
    xchg %rdi, record - trampoline(%rbx, %rdx)
    test %rdi, %rdi
    jz 3f
    jmp *entry - trampoline(%rbx)
3:  cli
    hlt
    jmp 3b

    .balign 8
gdt: .quad 0, 0x00af9b000000ffff, 0x00cf9b000000ffff, 0x00cf93000000ffff   /* 64-bit code, 32-bit code, data; all marked accessed */
gdtr: .short gdtr - gdt - 1
    .long 0
    .balign 4
far32: .long 0
    .short 16
    .balign 4
far64: .long 0
    .short 8
    .balign 8
trampoline_words:                                  /* struct trampoline_words, ap.c */
record: .quad 0
entry: .quad 0
cr3: .long 0
cr4: .long 0
trampoline_end:

/* RDI: the core's record. On the kernel's own tables and the core's own stack from the third instruction on. */
    .text
    .globl ap_entry
ap_entry:
    mov CORE_CR3(%rdi), %rax
    mov %rax, %cr3
    mov CORE_STACK(%rdi), %rsp
    xor %ebp, %ebp                                 /* the end of every backtrace */
    call ap_main
    ud2
    .section .note.GNU-stack,"",@progbits
