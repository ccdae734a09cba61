# A guest's first instructions: from the multiboot loader's 32-bit mode (Multiboot Specification 0.6.96, 3.2) to 64-bit code in the
# window, on page tables that are data; the same for the other processors, from real mode. On the bare processor nothing of this runs.
#include "assay/guest/asm.h"
        .set    MB_MAGIC, 0x1badb002
        .set    MB_FLAGS, 3                      # page-aligned modules, memory sizes wanted
        .section .multiboot, "a"
        .balign 4
        .long   MB_MAGIC, MB_FLAGS, -(MB_MAGIC + MB_FLAGS)

# Paging and 64-bit mode on, in code that is mapped at its physical address. Clobbers EAX, ECX, EDX.
        .macro  enter_long_mode
        mov     %cr4, %eax
        or      $1 << 5, %eax                    # PAE
        mov     %eax, %cr4
        mov     $boot_pml4 - LINKED_ABOVE_LOADED, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx                # EFER.LME
        rdmsr
        or      $1 << 8, %eax
        wrmsr
        mov     $0x80010033, %eax                # PG, WP, NE, ET, MP, PE
        mov     %eax, %cr0
        .endm

        .text
        .code32
        .globl  _start
_start: cli
        cld
        cmp     $0x2badb002, %eax
        jne     stop
        mov     8(%ebx), %eax
        mov     %eax, mem_upper_kib - LINKED_ABOVE_LOADED
        testb   $4, (%ebx)                       # is there a command line?
        jz      2f
        mov     16(%ebx), %esi
        mov     $command_line - LINKED_ABOVE_LOADED, %edi
        mov     $4095, %ecx
1:      lodsb
        stosb
        test    %al, %al
        loopnz  1b
2:      lgdt    boot_gdtr - LINKED_ABOVE_LOADED
        enter_long_mode
        ljmp    $8, $1f - LINKED_ABOVE_LOADED
        .code64
1:      mov     $guest_high, %rax
        jmp     *%rax
guest_high:
        mov     $stacks + STACK_KERNEL_TOP, %rsp
        xor     %ebp, %ebp
        call    guest_main
        ud2
stop:   hlt
        jmp     stop


# Other processors begin at TRAMPOLINE_AT in real mode, where smp.c has copied this. They number themselves.
        .set    AT, 0x8000
        .balign 16
        .globl  trampoline, trampoline_end
        .code16
trampoline:
        cli
        cld
        xor     %ax, %ax
        mov     %ax, %ds
        lgdtl   AT + trampoline_gdtr - trampoline
        mov     $0x11, %eax                      # PE, ET; CD and NW, set by a reset, cleared
        mov     %eax, %cr0
        ljmpl   $0x18, $AT + 1f - trampoline
        .code32
1:      mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        enter_long_mode
        ljmp    $8, $AT + 2f - trampoline
        .code64
2:      mov     $ap_high, %rax
        jmp     *%rax
        .balign 8
trampoline_gdt:
        .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff   # 64-bit code, data, 32-bit code; all marked accessed
trampoline_gdtr:
        .short  31
        .long   AT + trampoline_gdt - trampoline
trampoline_end:
ap_high:
        mov     $1, %edi
        lock xadd %edi, ap_arrived
        cmp     $64, %edi                        # ASSAY_CPUS
        jae     1f
        imul    $STACKS_SIZE, %edi, %eax
        lea     stacks + STACK_KERNEL_TOP(%rax), %rsp
        xor     %ebp, %ebp
        call    guest_ap_main
1:      cli
        hlt
        jmp     1b

        .data
        .globl  ap_arrived, command_line, mem_upper_kib
        .balign 8
ap_arrived: .long 1
mem_upper_kib: .long 0
command_line: .skip 4096
boot_gdtr:
        .short  31
        .long   boot_gdt - LINKED_ABOVE_LOADED
        .balign 8
boot_gdt:
        .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
# The window, and the two places at their physical addresses that code without paging runs at.
        .balign 4096
boot_pml4:
        .quad   boot_pdpt - LINKED_ABOVE_LOADED + 3
        .skip   4096 - 8
boot_pdpt:
        .quad   boot_low - LINKED_ABOVE_LOADED + 3, boot_window - LINKED_ABOVE_LOADED + 3
        .skip   4096 - 16
boot_low:
        .quad   0x83, 0, 0, 0, 0, 0, 0, 0, 0x1000083, 0x1200083, 0x1400083, 0x1600083
        .skip   4096 - 96
boot_window:
        .set    page, 0x1000083
        .rept   64
        .quad   page
        .set    page, page + 0x200000
        .endr
        .skip   4096 - 512
        .section .note.GNU-stack, "", @progbits
