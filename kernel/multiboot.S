/* The other way in: from a Multiboot2 loader such as GRUB, on PCs with a legacy BIOS (and in simulators that have no UEFI firmware).
   Multiboot2 Specification 2.0: the header (3.1) makes the loader place the ELF at its physical addresses and enter at `entry_address' in
   32-bit protected mode, paging and interrupts off, EAX = magic, EBX = physical address of the information (3.3). From there to long mode
   (SDM 3A 10.8.5) takes page tables, which are the smallest that serve: the first 4 GiB at their physical address and the image at its
   linked one, in 2 MiB pages. multiboot.c builds the real ones, and what the UEFI loader would hand over, before kernel_entry runs.
   The code is linked high but runs low until the far jump: symbols are taken by PHYS. */
    .set LOAD, 0x200000                            /* linker.ld and KERNEL_LOAD: 2 MiB-aligned */
    .set PHYS, LOAD - 0xffffffff80000000           /* linked address + PHYS = physical address */
    .set MAGIC, 0xe85250d6

    .section .text.multiboot, "ax"
    .balign 8
header:
    .long MAGIC, 0, header_end - header, -(MAGIC + (header_end - header))
    .balign 8
    .short 1, 0; .long 12, 6                       /* wanted: the memory map */
    .balign 8
    .short 3, 0; .long 12, multiboot_entry + PHYS  /* entry_address */
    .balign 8
    .short 5, 1; .long 20, 1024, 768, 32           /* if possible: a framebuffer; GRUB takes another size if it must */
    .balign 8
    .short 6, 0; .long 8                           /* modules on page boundaries */
    .balign 8
    .short 0, 0; .long 8
header_end:

    .code32
multiboot_entry:
    cli
    cld
    mov $core_boot_stacks + 4096 + 256 * 1024 + PHYS, %esp
    cmp $0x36d76289, %eax
    mov $no_multiboot + PHYS, %esi
    jne complain
    mov $0x80000000, %eax
    mov %ebx, %edi                                 /* CPUID takes EBX */
    cpuid
    cmp $0x80000001, %eax
    mov $no_long_mode + PHYS, %esi
    jb complain
    mov $0x80000001, %eax
    cpuid
    and $(1 << 29 | 1 << 20), %edx                 /* LM and NX */
    cmp $(1 << 29 | 1 << 20), %edx
    jne complain

    /* Four page directories, of 2 MiB pages, writable: 0..4 GiB; a fifth for the image. */
    mov $0x83, %eax
    mov $tables + 0x2000 + PHYS, %esi
1:  mov %eax, (%esi)
    movl $0, 4(%esi)
    add $8, %esi
    add $0x200000, %eax
    jnc 1b
    mov $LOAD + 0x83, %eax
    mov $8, %ecx                                   /* 16 MiB of image */
1:  mov %eax, (%esi)
    add $8, %esi
    add $0x200000, %eax
    loop 1b
    mov $tables + 0x2003 + PHYS, %eax              /* PDPT of the low half: the four */
    mov $tables + 0x1000 + PHYS, %esi
    mov $4, %ecx
1:  mov %eax, (%esi)
    add $8, %esi
    add $0x1000, %eax
    loop 1b
    mov %eax, tables + 0x7000 + 510 * 8 + PHYS     /* PDPT of the top 512 GiB: the fifth at -2 GiB */
    movl $tables + 0x1003 + PHYS, tables + PHYS
    movl $tables + 0x7003 + PHYS, tables + 511 * 8 + PHYS

    mov %cr4, %eax
    or $(1 << 5 | 1 << 9), %eax                    /* PAE, OSFXSR */
    mov %eax, %cr4
    mov $tables + PHYS, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $(1 << 8 | 1 << 11), %eax                   /* EFER: LME, NXE */
    wrmsr
    mov %cr0, %eax
    and $~(1 << 2), %eax
    or $(1 << 31 | 1 << 16 | 1 << 1), %eax         /* PG, WP, MP; not EM */
    mov %eax, %cr0
    lgdt gdtr + PHYS
    ljmp $8, $1f + PHYS

    .code64
1:  mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $core_boot_stacks + 4096 + 256 * 1024, %rsp
    mov %edi, %edi                                 /* the information's address; upper half cleared */
    xor %ebp, %ebp
    mov $multiboot_main, %rax
    call *%rax
    ud2

    /* ESI: text for the first serial port and the text screen, which is where a PC without long mode still is. */
    .code32
complain:
    mov $0xb8000, %edi
1:  movzbl (%esi), %eax
    test %al, %al
    jz 3f
    or $0x0f00, %eax
    mov %ax, (%edi)
    mov %eax, %ebx
    mov $100000, %ecx
    mov $0x3fd, %edx
2:  in %dx, %al
    test $0x20, %al
    loopz 2b
    mov %ebx, %eax
    mov $0x3f8, %edx
    out %al, %dx
    inc %esi
    add $2, %edi
    jmp 1b
3:  hlt
    jmp 3b

no_multiboot: .asciz "Cupel: entered without Multiboot2; load it with GRUB's multiboot2 command.\r\n"
no_long_mode: .asciz "Cupel: this processor has no 64-bit mode or no execute-disable bit; switch it on in the BIOS setup, or use another PC.\r\n"
    .balign 8
gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr: .short gdtr - gdt - 1
    .long gdt + PHYS

    .bss
    .balign 4096
tables: .skip 8 * 4096                             /* PML4, PDPT, 4 + 1 page directories, PDPT */
    .section .note.GNU-stack,"",@progbits
