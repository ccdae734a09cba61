/* The kernel's first instructions. From the loader: long mode, interrupts off, RDI = physical address of struct boot_info (boot_info.h). */
    .section .text.entry, "ax"
    .globl kernel_entry
kernel_entry:
    cld
    lea core_boot_stacks + 4096 + 256 * 1024(%rip), %rsp   /* top of the main stack; core.c pins the sum */
    xor %ebp, %ebp                                         /* the end of every backtrace */
    mov $0xffff800000000000, %rax                          /* DIRECT_MAP_BASE */
    add %rax, %rdi
    call kernel_main
1:  cli
    hlt
    jmp 1b
    .section .note.GNU-stack,"",@progbits
