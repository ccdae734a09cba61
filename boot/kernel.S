/* The kernel ELF, as it is, inside the EFI application. KERNEL_ELF comes from the build. */
    .section .rodata
    .globl kernel_elf, kernel_elf_end
    .balign 4096
kernel_elf:
    .incbin KERNEL_ELF
kernel_elf_end:
    .section .note.GNU-stack,"",@progbits
